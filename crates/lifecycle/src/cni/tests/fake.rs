//! Plugins that are shell scripts: what they are told, and what becomes of their failures.

use std::fs;

use super::*;

/// Writes each call's environment and input to files, then answers with `ANSWER`.
const RECORDER: &str = r#"#!/bin/sh
dir=$(dirname "$0")
name=$(basename "$0")
cat >"$dir/$name.$CNI_COMMAND.json"
echo "$CNI_COMMAND $name id=$CNI_CONTAINERID if=$CNI_IFNAME netns=$CNI_NETNS args=$CNI_ARGS \
path=$CNI_PATH" >>"$dir/log"
"#;

/// A directory of plugins, a network of two of them, and a pod with a real namespace.
struct Lab {
    dir: tempfile::TempDir,
    pod: PodNetwork,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        sys::ns::create(&[sys::ns::Kind::Net], dir.path(), || Ok(())).unwrap();
        let pod = pod(dir.path());
        let lab = Self { dir, pod };
        lab.plugin("main", r#"[ $CNI_COMMAND = DEL ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24"}]}'"#);
        lab.plugin("meta", r#"[ $CNI_COMMAND = DEL ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24"},{"address":"10.1.0.3/24"}]}'"#);
        lab
    }

    fn plugin(&self, name: &str, answer: &str) {
        write(self.dir.path(), name, &format!("{RECORDER}{answer}\n"));
    }

    fn bins(&self) -> Vec<PathBuf> {
        vec![self.dir.path().to_path_buf()]
    }

    fn network(&self) -> Network {
        let list = json!({
            "cniVersion": "1.0.0", "name": "n",
            "plugins": [
                {"type": "main", "ipam": {"type": "none"}},
                {"type": "meta", "capabilities": {"portMappings": true, "dns": true, "mac": false}},
            ],
        });
        let dir = self.dir.path().join("conf");
        fs::create_dir_all(&dir).unwrap();
        write(&dir, "10-n.conflist", &list.to_string());
        Cni::load(&[dir], &self.bins()).unwrap()
    }

    /// `COMMAND plugin` of every call so far.
    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let two = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        log.lines().map(two).collect()
    }

    fn input(&self, plugin: &str, command: &str) -> Value {
        let path = self.dir.path().join(format!("{plugin}.{command}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn cached(&self) -> Option<Value> {
        let file = self.pod.cache_dir.join("5a5a-eth0.json");
        fs::read(file)
            .ok()
            .map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(sys::ns::unpin(&self.pod.netns));
    }
}

#[test]
fn plugins_are_chained_and_told_what_they_need() {
    let mut lab = Lab::new();
    let mapping = |host_port| PortMapping {
        protocol: "TCP".into(),
        container_port: 80,
        host_port,
        host_ip: String::new(),
    };
    lab.pod.port_mappings = vec![mapping(8080), mapping(0)];
    let dns = crate::model::DnsConfig {
        servers: vec!["1.1.1.1".into()],
        ..Default::default()
    };
    let network = lab
        .network()
        .with_dns(&dns)
        .with_argument("mac", json!("aa:bb"));
    let result = network.add(&lab.pod, soon()).unwrap();
    assert_eq!(result.ips, ["10.1.0.2", "10.1.0.3"]);
    assert_eq!(lab.calls(), ["ADD main", "ADD meta"]);

    let expected = json!({"type": "main", "ipam": {"type": "none"}, "name": "n",
        "cniVersion": "1.0.0"});
    assert_eq!(lab.input("main", "ADD"), expected);
    let expected = json!({"type": "meta", "name": "n", "cniVersion": "1.0.0",
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]},
        "runtimeConfig": {
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
            "dns": {"servers": ["1.1.1.1"], "searches": [], "options": []}}});
    assert_eq!(lab.input("meta", "ADD"), expected);
    let log = fs::read_to_string(lab.dir.path().join("log")).unwrap();
    let (dir, netns) = (lab.dir.path().display(), lab.pod.netns.display());
    let line = format!(
        "ADD main id=5a5a if=eth0 netns={netns} args=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;\
         K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=5a5a;K8S_POD_UID=0a1b path={dir}"
    );
    assert_eq!(log.lines().next().unwrap(), line);

    // CHECK and DEL repeat the arguments though the caller no longer has them.
    lab.pod.port_mappings.clear();
    lab.network().check(&lab.pod, soon()).unwrap();
    lab.network().del(&lab.pod, soon()).unwrap();
    assert_eq!(
        lab.calls()[2..],
        ["CHECK main", "CHECK meta", "DEL meta", "DEL main"]
    );
    for command in ["CHECK", "DEL"] {
        let input = lab.input("meta", command);
        assert_eq!(input["prevResult"], result.raw, "{command}");
        assert_eq!(
            input["runtimeConfig"], expected["runtimeConfig"],
            "{command}"
        );
    }
    assert_eq!(lab.cached(), None);
}

#[test]
fn what_a_failed_add_left_is_known_and_undone() {
    let lab = Lab::new();
    lab.plugin(
        "meta",
        r#"[ $CNI_COMMAND = DEL ] && exit 0
        echo '{"cniVersion":"1.0.0","code":7,"msg":"no ports","details":"8080 is taken"}'; exit 1"#,
    );
    let error = lab.network().add(&lab.pod, soon()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "network plugin meta ADD: no ports: 8080 is taken (code 7)"
    );
    assert!(matches!(
        error,
        CniError::Plugin {
            code: 7,
            command: Command::Add,
            ..
        }
    ));
    assert_eq!(lab.cached().unwrap()["result"], Value::Null);
    // The network is gone from the node; the record is enough.
    Cni::del_cached(&lab.pod, &lab.bins(), soon()).unwrap();
    assert_eq!(
        lab.calls(),
        ["ADD main", "ADD meta", "DEL meta", "DEL main"]
    );
    assert_eq!(lab.input("main", "DEL").get("prevResult"), None);
    Cni::del_cached(&lab.pod, &lab.bins(), soon()).unwrap();
    assert_eq!(lab.calls().len(), 4);
}

#[test]
fn a_second_add_begins_with_what_the_first_left() {
    let lab = Lab::new();
    lab.network().add(&lab.pod, soon()).unwrap();
    lab.network().add(&lab.pod, soon()).unwrap();
    let expected = [
        "ADD main", "ADD meta", "DEL meta", "DEL main", "ADD main", "ADD meta",
    ];
    assert_eq!(lab.calls(), expected);
}

#[test]
fn del_runs_every_plugin_and_can_be_tried_again() {
    let lab = Lab::new();
    lab.network().add(&lab.pod, soon()).unwrap();
    lab.plugin("meta", "echo broken >&2; exit 3");
    lab.plugin("main", "echo '{\"code\": 11, \"msg\": \"later\"}'; exit 1");
    match lab.network().del(&lab.pod, soon()) {
        Err(error @ CniError::Several(_)) => assert_eq!(
            error.to_string(),
            "network plugin meta DEL: exit status 3: broken; \
             network plugin main DEL: later (code 11)"
        ),
        other => panic!("{other:?}"),
    }
    assert!(lab.cached().is_some());
    lab.plugin("meta", "");
    let error = lab.network().del(&lab.pod, soon()).unwrap_err();
    assert!(
        matches!(error, CniError::Plugin { code: 11, .. }),
        "{error:?}"
    );
    lab.plugin("main", "");
    lab.network().del(&lab.pod, soon()).unwrap();
    assert_eq!(lab.cached(), None);
}

#[test]
fn del_needs_no_namespace_and_no_record() {
    let lab = Lab::new();
    sys::ns::unpin(&lab.pod.netns).unwrap();
    lab.network().del(&lab.pod, soon()).unwrap();
    // A plain file is what a pin leaves when its mount is gone.
    write(lab.dir.path(), "net", "");
    lab.network().del(&lab.pod, soon()).unwrap();
    let log = fs::read_to_string(lab.dir.path().join("log")).unwrap();
    assert_eq!(log.lines().count(), 4);
    assert!(log.lines().all(|line| line.contains(" netns= ")), "{log}");
}

#[test]
fn output_that_is_no_result_names_the_plugin() {
    let check = |answer: &str, part: &str| {
        let lab = Lab::new();
        lab.plugin("main", answer);
        match lab.network().add(&lab.pod, soon()) {
            Err(CniError::Output {
                plugin, problem, ..
            }) => {
                assert_eq!(plugin, "main");
                assert!(problem.contains(part), "{problem}");
            }
            other => panic!("{answer}: {other:?}"),
        }
    };
    check("", "EOF");
    check("echo '<html>'", "expected value");
    check("echo '{\"ips\":[{\"address\":\"nonsense\"}]}'", "nonsense");
}

#[test]
fn a_plugin_that_hangs_or_floods_is_killed() {
    let lab = Lab::new();
    lab.plugin("main", "sleep 100");
    let begun = std::time::Instant::now();
    let error = lab
        .network()
        .add(&lab.pod, Deadline::after(Duration::from_millis(300)));
    assert!(matches!(error, Err(CniError::Run { .. })), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    lab.plugin("main", "yes");
    let error = lab.network().add(&lab.pod, soon());
    assert!(matches!(error, Err(CniError::Run { .. })), "{error:?}");
}

#[test]
fn values_that_would_add_arguments_or_leave_the_directory_are_refused() {
    let check = |change: fn(&mut PodNetwork), wanted: &str| {
        let mut lab = Lab::new();
        change(&mut lab.pod);
        match lab.network().add(&lab.pod, soon()) {
            Err(CniError::Pod { field, .. }) => assert_eq!(field, wanted),
            other => panic!("{other:?}"),
        }
        assert_eq!(lab.calls(), Vec::<String>::new());
    };
    check(|pod| pod.name = "a;K8S_POD_NAME=b".into(), "pod name");
    check(|pod| pod.uid = "a=b".into(), "pod uid");
    check(|pod| pod.id = "../../etc/x".into(), "sandbox id");
    check(|pod| pod.ifname = "a/b".into(), "interface name");
    check(|pod| pod.ifname = "x".repeat(16), "interface name");
}

#[test]
fn a_record_that_is_not_understood_does_not_keep_a_pod_from_going() {
    let other = r#"{"version":1,"id":"other","ifname":"eth0","config":{},"arguments":{},
        "result":null}"#;
    for text in ["", "{}", other] {
        let lab = Lab::new();
        lab.network().add(&lab.pod, soon()).unwrap();
        write(&lab.pod.cache_dir, "5a5a-eth0.json", text);
        let error = lab.network().check(&lab.pod, soon()).unwrap_err();
        assert!(matches!(error, CniError::Io { .. }), "{error:?}");
        lab.network().del(&lab.pod, soon()).unwrap();
        assert_eq!(lab.calls()[2..], ["DEL meta", "DEL main"]);
        assert_eq!(lab.input("main", "DEL").get("prevResult"), None);
        assert!(!lab.pod.cache_dir.join("5a5a-eth0.json").exists());
        write(&lab.pod.cache_dir, "5a5a-eth0.json", text);
        Cni::del_cached(&lab.pod, &lab.bins(), soon()).unwrap();
        assert!(!lab.pod.cache_dir.join("5a5a-eth0.json").exists());
    }
}
