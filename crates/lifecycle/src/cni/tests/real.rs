//! The reference plugins, in a network namespace that stands for the host.

use std::net::{SocketAddr, TcpListener, TcpStream};

use sys::ns::Kind;

use super::*;

/// Where distributions install the plugins; Debian's place is the second.
const BIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Unpins a namespace, also when an assertion fails.
struct Pin(PathBuf);

impl Drop for Pin {
    fn drop(&mut self) {
        drop(sys::ns::unpin(&self.0));
    }
}

/// Runs `work` in a fresh namespace for the host, with one for the pod pinned in a directory.
fn in_lab(work: impl FnOnce(&Path, &PodNetwork) + Send) {
    let (host, lab) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pod = pod(lab.path());
    let pins = [Pin(pod.netns.clone()), Pin(host.path().join("net"))];
    sys::ns::create(&[Kind::Net], lab.path(), || Ok(())).unwrap();
    sys::ns::create(&[Kind::Net], host.path(), || {
        sys::ns::loopback_up()?;
        work(lab.path(), &pod);
        Ok(())
    })
    .unwrap();
    drop(pins);
}

fn network(dir: &Path, plugins: &Value) -> Network {
    let list = json!({"cniVersion": "1.0.0", "name": "lab", "plugins": plugins});
    let conf = dir.join("conf");
    std::fs::create_dir_all(&conf).unwrap();
    write(&conf, "10-lab.conflist", &list.to_string());
    Cni::load(&[conf], &BIN_DIRS.map(PathBuf::from)).unwrap()
}

fn host_local(dir: &Path) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.99.7.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}], "dataDir": dir.join("ipam")})
}

fn interfaces(netns: &Path) -> Vec<String> {
    let text = sys::ns::enter(netns, Kind::Net, || {
        std::fs::read_to_string("/proc/thread-self/net/dev")
    });
    let text = text.unwrap();
    let names = text
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next());
    names.map(|name| name.trim().to_owned()).collect()
}

#[test]
fn a_bridge_with_forwarded_ports_carries_a_connection_and_goes_away() {
    in_lab(|dir, pod| {
        let mut pod = pod.clone();
        pod.port_mappings = vec![PortMapping {
            protocol: "tcp".into(),
            container_port: 80,
            host_port: 8080,
            host_ip: String::new(),
        }];
        let plugins = json!([
            {"type": "bridge", "bridge": "cni-lab", "isGateway": true, "ipMasq": true,
             "ipam": host_local(dir)},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]);
        let network = network(dir, &plugins);
        let result = network.add(&pod, soon()).unwrap();
        assert_eq!(result.ips, ["10.99.7.2"]);
        assert_eq!(interfaces(&pod.netns), ["lo", "eth0"]);

        let listener = sys::ns::enter(&pod.netns, Kind::Net, || TcpListener::bind("0.0.0.0:80"));
        let listener = listener.unwrap();
        for address in ["10.99.7.2:80", "10.99.7.1:8080"] {
            let address: SocketAddr = address.parse().unwrap();
            let connected = TcpStream::connect_timeout(&address, Duration::from_secs(10));
            connected.unwrap_or_else(|error| panic!("{address}: {error}"));
            listener.accept().unwrap();
        }
        // What runs in the pod reaches itself over loopback.
        let own = sys::ns::enter(&pod.netns, Kind::Net, || TcpStream::connect("127.0.0.1:80"));
        own.unwrap();

        network.del(&pod, soon()).unwrap();
        assert_eq!(interfaces(&pod.netns), ["lo"]);
        let address: SocketAddr = "10.99.7.1:8080".parse().unwrap();
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).unwrap_err();
        network.del(&pod, soon()).unwrap();
        assert!(!pod.cache_dir.join("5a5a-eth0.json").exists());
    });
}

#[test]
fn addresses_come_back_even_when_the_namespace_went_first() {
    in_lab(|dir, pod| {
        let plugins = json!([{"type": "ptp", "ipMasq": false, "ipam": host_local(dir)}]);
        let network = network(dir, &plugins);
        let leases = || {
            let entries = std::fs::read_dir(dir.join("ipam/lab")).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names
                .filter(|name| name.starts_with("10."))
                .collect::<Vec<_>>()
        };
        assert_eq!(network.add(pod, soon()).unwrap().ips, ["10.99.7.2"]);
        assert_eq!(leases(), ["10.99.7.2"]);
        sys::ns::unpin(&pod.netns).unwrap();
        network.del(pod, soon()).unwrap();
        network.del(pod, soon()).unwrap();
        assert_eq!(leases(), Vec::<String>::new());
    });
}

#[test]
fn check_notices_what_is_missing_and_add_tells_the_plugins_own_error() {
    in_lab(|dir, pod| {
        let plugins = json!([{"type": "ptp", "ipMasq": false, "ipam": host_local(dir)}]);
        let network = network(dir, &plugins);
        network.check(pod, soon()).unwrap();
        network.add(pod, soon()).unwrap();
        network.check(pod, soon()).unwrap();
        sys::ns::enter(&pod.netns, Kind::Net, || {
            let limits = sys::process::OutputLimits {
                max_stdout_bytes: 4096,
                max_stderr_bytes: 4096,
            };
            let ip = sys::process::Command::new("ip").args(["link", "del", "eth0"]);
            assert!(ip.output(&[], limits, soon()).unwrap().status.success());
            Ok(())
        })
        .unwrap();
        let error = network.check(pod, soon()).unwrap_err();
        assert!(
            matches!(
                error,
                CniError::Plugin {
                    command: Command::Check,
                    ..
                }
            ),
            "{error:?}"
        );
        network.del(pod, soon()).unwrap();

        let nowhere = PodNetwork {
            netns: dir.join("none"),
            ..pod.clone()
        };
        let error = network.add(&nowhere, soon()).unwrap_err();
        assert!(matches!(error, CniError::Io { .. }), "{error:?}");
    });
}
