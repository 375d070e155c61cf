//! Who makes the cgroups of pods, where they are, and when they go.
//!
//! | driver | pod | container | its path for the OCI runtime |
//! |---|---|---|---|
//! | cgroupfs | `/kubepods/podX` | `/kubepods/podX/ID` | the same |
//! | systemd | `/a.slice/a-podX.slice` | `/a.slice/a-podX.slice/thawd-ID.scope` | `a-podX.slice:thawd:ID` |
//!
//! A container keeps the form that it was made with: its path tells which, also to a daemon that was
//! told to use another driver since.
//!
//! systemd takes controllers back from a cgroup below one of its units that it does not know of
//! (at `daemon-reload`, `set-property`), and with them the limits. So a slice is no place for a
//! directory, and a directory none for a scope: each driver refuses the other's names.

mod users;

use sys::cgroup::Hierarchies;

use crate::error::Error;

pub(crate) use users::Users;

/// The request's field.
const FIELD: &str = "cgroup_parent";

/// Where the OCI runtimes ask systemd for a scope.
const BUS: &str = "/run/dbus/system_bus_socket";

/// First part of a scope's name.
const PREFIX: &str = "thawd";

/// The configured cgroup driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// [`CgroupDriver::Systemd`] where systemd manages the host with cgroup v2, else
    /// [`CgroupDriver::Cgroupfs`].
    #[default]
    Auto,
    /// Always that one.
    Fixed(CgroupDriver),
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The OCI runtime: cgroups are directories.
    Cgroupfs,
    /// systemd, asked by the OCI runtime: cgroups are units.
    Systemd,
}

/// What the choice of a driver depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host {
    /// systemd is the service manager.
    systemd: bool,
    /// cgroup v2 is all there is.
    unified: bool,
    /// The system bus has its socket.
    bus: bool,
}

impl CgroupDriver {
    /// The driver that the configuration asks for, on this host.
    ///
    /// # Errors
    ///
    /// [`Error::Precondition`] when systemd is asked for and cannot be.
    pub(crate) fn of(choice: DriverChoice, hierarchies: &Hierarchies) -> Result<Self, Error> {
        let host = Host {
            systemd: sys::systemd::is_running(),
            unified: hierarchies.is_unified(),
            bus: std::path::Path::new(BUS).exists(),
        };
        Self::on(choice, host)
    }

    fn on(choice: DriverChoice, host: Host) -> Result<Self, Error> {
        let lacking = match host {
            Host { systemd: false, .. } => Some("systemd does not manage this host".to_owned()),
            Host { unified: false, .. } => {
                Some("this host does not have cgroup v2 alone".to_owned())
            }
            Host { bus: false, .. } => Some(format!("{BUS} is missing (package dbus)")),
            _ => None,
        };
        match (choice, lacking) {
            (DriverChoice::Fixed(Self::Cgroupfs), _) => Ok(Self::Cgroupfs),
            (_, None) => Ok(Self::Systemd),
            (DriverChoice::Auto, Some(lacking)) => {
                if host.systemd && host.unified {
                    tracing::warn!(
                        lacking,
                        "the cgroup driver is cgroupfs on a host of systemd's"
                    );
                }
                Ok(Self::Cgroupfs)
            }
            (DriverChoice::Fixed(Self::Systemd), Some(lacking)) => {
                Err(Error::Precondition(format!(
                    "cgroup_driver = \"systemd\" cannot be: {lacking}; set it to \"cgroupfs\" or \"auto\""
                )))
            }
        }
    }

    /// Its name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// The cgroup below which a pod's containers go: what the request names, or one of the pod's own
    /// below the configured parent.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name of the other driver's kind, with the remedy.
    pub(crate) fn pod(self, configured: &str, requested: &str, id: &str) -> Result<String, Error> {
        match self {
            Self::Cgroupfs if requested.is_empty() => {
                Ok(format!("{}/{id}", configured.trim_end_matches('/')))
            }
            Self::Cgroupfs => {
                if let Some(slice) = requested.split('/').find(|part| is_slice(part)) {
                    let problem = format!(
                        "{slice:?} is a systemd slice, and the cgroup driver of this thawd is cgroupfs: \
                         set cgroup_driver = \"systemd\" in thawd's configuration, or \
                         cgroupDriver: cgroupfs in the kubelet's"
                    );
                    return Err(Error::invalid(FIELD, problem));
                }
                Ok(requested.to_owned())
            }
            Self::Systemd if requested.is_empty() => {
                let slice = slice_of(configured);
                let stem = slice.strip_suffix(".slice").unwrap_or(&slice);
                let own = match stem {
                    "-" => format!("{id}.slice"),
                    stem => format!("{stem}-{id}.slice"),
                };
                slice_cgroup(&own)
            }
            Self::Systemd => requested_slice(requested),
        }
    }

    /// The cgroup of a container below its pod's.
    pub(crate) fn container(self, pod: &str, id: &str) -> String {
        let pod = pod.trim_end_matches('/');
        match self {
            Self::Cgroupfs => format!("{pod}/{id}"),
            Self::Systemd => format!("{pod}/{PREFIX}-{id}.scope"),
        }
    }

    /// The driver that a pod's cgroup is for. A slice that is not where systemd has it was taken for a
    /// directory by an older thawd.
    pub(crate) fn of_pod(cgroup: &str) -> Self {
        let name = cgroup.rsplit('/').next().unwrap_or_default();
        let real = sys::systemd::slice_cgroup(name).is_ok_and(|real| real == cgroup);
        if cgroup.is_empty() || real {
            Self::Systemd
        } else {
            Self::Cgroupfs
        }
    }

    /// The driver that a container's cgroup was made with.
    pub(crate) fn of_container(cgroup: &str) -> Self {
        if cgroup.ends_with(".scope") {
            Self::Systemd
        } else {
            Self::Cgroupfs
        }
    }
}

/// A container's cgroup as the OCI runtime wants to be told of it (runc's and crun's `cgroupsPath`).
pub(crate) fn for_runtime(cgroup: &str) -> String {
    let scope = |cgroup: &str| {
        let (pod, name) = cgroup.rsplit_once('/')?;
        let id = name.strip_suffix(".scope")?.strip_prefix(PREFIX)?;
        let slice = match pod.rsplit_once('/') {
            Some((_, slice)) => slice,
            None => "-.slice",
        };
        Some(format!("{slice}:{PREFIX}:{}", id.strip_prefix('-')?))
    };
    scope(cgroup).unwrap_or_else(|| cgroup.to_owned())
}

fn is_slice(name: &str) -> bool {
    name.ends_with(".slice")
}

/// The slice that a configured parent means: `thawd.slice`, or for a path one slice for each of its
/// parts, as the kubelet makes names (dashes become underscores).
fn slice_of(configured: &str) -> String {
    if is_slice(configured) {
        return configured.to_owned();
    }
    let parts: Vec<String> = configured
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| part.replace('-', "_"))
        .collect();
    if parts.is_empty() {
        "-.slice".to_owned()
    } else {
        format!("{}.slice", parts.join("-"))
    }
}

fn slice_cgroup(name: &str) -> Result<String, Error> {
    sys::systemd::slice_cgroup(name).map_err(|error| Error::invalid(FIELD, error.to_string()))
}

/// A slice by its name, as the kubelet gives it, or by its whole path.
fn requested_slice(requested: &str) -> Result<String, Error> {
    let path = requested.trim_start_matches('/');
    let name = path.rsplit('/').next().unwrap_or(path);
    if !is_slice(name) {
        let problem = format!(
            "{requested:?} is no systemd slice, and the cgroup driver of this thawd is systemd: name a \
             slice (\"kubepods-podX.slice\"), or set cgroup_driver = \"cgroupfs\" in thawd's \
             configuration"
        );
        return Err(Error::invalid(FIELD, problem));
    }
    let cgroup = slice_cgroup(name)?;
    if path != name && path != cgroup.trim_start_matches('/') {
        let problem =
            format!("{requested:?} is not where systemd has {name:?}, which is {cgroup:?}");
        return Err(Error::invalid(FIELD, problem));
    }
    Ok(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Host = Host {
        systemd: true,
        unified: true,
        bus: true,
    };

    #[test]
    fn systemd_is_chosen_where_it_manages_cgroup_v2() {
        let auto = |host| CgroupDriver::on(DriverChoice::Auto, host).unwrap();
        assert_eq!(auto(HERE), CgroupDriver::Systemd);
        for host in [
            Host {
                systemd: false,
                ..HERE
            },
            Host {
                unified: false,
                ..HERE
            },
            Host { bus: false, ..HERE },
        ] {
            assert_eq!(auto(host), CgroupDriver::Cgroupfs);
            let forced = DriverChoice::Fixed(CgroupDriver::Systemd);
            let refused = CgroupDriver::on(forced, host).unwrap_err().to_string();
            assert!(refused.contains("set it to \"cgroupfs\""), "{refused}");
        }
        let forced = DriverChoice::Fixed(CgroupDriver::Cgroupfs);
        assert_eq!(
            CgroupDriver::on(forced, HERE).unwrap(),
            CgroupDriver::Cgroupfs
        );
    }

    #[test]
    fn a_kubelet_s_slice_is_the_real_one_below_its_parents() {
        let check = |requested: &str, pod: &str| {
            let found = CgroupDriver::Systemd
                .pod("/thawd", requested, "5a")
                .unwrap();
            assert_eq!(found, pod);
        };
        let real = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice";
        check("/kubepods-besteffort-pod1.slice", real);
        check("kubepods-besteffort-pod1.slice", real);
        check(real, real);
        check("/system.slice", "/system.slice");
        check("/-.slice", "");
        check("", "/thawd.slice/thawd-5a.slice");
    }

    #[test]
    fn a_configured_path_is_a_slice_too() {
        let check = |configured: &str, pod: &str| {
            let found = CgroupDriver::Systemd.pod(configured, "", "5a").unwrap();
            assert_eq!(found, pod);
            assert_eq!(CgroupDriver::of_pod(&found), CgroupDriver::Systemd);
        };
        check("mine.slice", "/mine.slice/mine-5a.slice");
        check("/a-b/c", "/a_b.slice/a_b-c.slice/a_b-c-5a.slice");
        check("/", "/5a.slice");
    }

    #[test]
    fn each_driver_refuses_the_other_s_names_and_says_what_to_do() {
        let check = |driver: CgroupDriver, requested: &str, words: &str| match driver
            .pod("/thawd", requested, "5a")
            .unwrap_err()
        {
            Error::Invalid { field, problem } => {
                assert_eq!(field, FIELD);
                assert!(problem.contains(words), "{problem}");
            }
            other => panic!("{other:?}"),
        };
        let (cgroupfs, systemd) = (CgroupDriver::Cgroupfs, CgroupDriver::Systemd);
        check(cgroupfs, "/kubepods-podx.slice", "cgroupDriver: cgroupfs");
        check(
            cgroupfs,
            "/kubepods.slice/kubepods-podx.slice",
            "cgroup_driver = \"systemd\"",
        );
        check(systemd, "/kubepods/podx", "cgroup_driver = \"cgroupfs\"");
        check(
            systemd,
            "/other.slice/kubepods-podx.slice",
            "/kubepods.slice/kubepods-podx.slice",
        );
        check(systemd, "/a--b.slice", "between dashes");
    }

    #[test]
    fn a_container_s_path_tells_its_driver_and_the_runtime_s_words() {
        let check = |driver: CgroupDriver, pod: &str, path: &str, words: &str| {
            assert_eq!(CgroupDriver::of_pod(pod), driver);
            let found = driver.container(pod, "5a");
            assert_eq!(found, path);
            assert_eq!(CgroupDriver::of_container(&found), driver);
            assert_eq!(for_runtime(&found), words);
        };
        let (cgroupfs, systemd) = (CgroupDriver::Cgroupfs, CgroupDriver::Systemd);
        check(cgroupfs, "/pods/a/", "/pods/a/5a", "/pods/a/5a");
        check(cgroupfs, "/", "/5a", "/5a");
        check(cgroupfs, "/a-b.slice", "/a-b.slice/5a", "/a-b.slice/5a");
        check(
            systemd,
            "/a.slice/a-b.slice",
            "/a.slice/a-b.slice/thawd-5a.scope",
            "a-b.slice:thawd:5a",
        );
        check(systemd, "", "/thawd-5a.scope", "-.slice:thawd:5a");
    }
}
