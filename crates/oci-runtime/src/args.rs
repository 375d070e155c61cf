//! Command lines of runc and crun, which agree in what is used here.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::{Kind, OciRuntime};

/// What `restore` is told.
#[derive(Debug, Clone, Copy)]
pub struct RestoreArgs<'a> {
    /// The container.
    pub id: &'a str,
    /// Directory with `config.json`.
    pub bundle: &'a Path,
    /// Where the runtime writes the first process's pid.
    pub pid_file: &'a Path,
    /// CRIU's images.
    pub image_path: &'a Path,
    /// Where CRIU works and writes `restore.log`.
    pub work_path: &'a Path,
    /// The socket that gets the terminal's master; required when the spec has a terminal.
    pub console_socket: Option<&'a Path>,
    /// Where the runtime writes its JSON log; see [`crate::log`].
    pub log: &'a Path,
}

/// What `exec` is told.
#[derive(Debug, Clone, Copy)]
pub struct ExecArgs<'a> {
    /// The container.
    pub id: &'a str,
    /// A file with the OCI `process` object.
    pub process: &'a Path,
    /// Where the runtime writes the process's pid once it runs; must not exist before.
    pub pid_file: &'a Path,
    /// Where the runtime writes its JSON log; must not exist before.
    pub log: &'a Path,
    /// Ends the process as a deadline does when it becomes readable, or its other end is closed.
    pub cancel: Option<BorrowedFd<'a>>,
}

/// Ids given to these methods are thawd's own (64 hexadecimal digits) and never begin with a dash.
impl OciRuntime {
    /// The whole command line of `create`, program first.
    ///
    /// `bundle` holds `config.json`; the first process's pid goes to `pid_file`; `console_socket` gets
    /// the terminal's master when the spec has a terminal; `log` becomes the runtime's JSON log.
    #[must_use]
    pub fn create_args(
        &self,
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        console_socket: Option<&Path>,
        log: &Path,
    ) -> Vec<OsString> {
        let mut args = self.global_args(Some(log));
        args.push("create".into());
        push_pair(&mut args, "--bundle", bundle);
        push_pair(&mut args, "--pid-file", pid_file);
        if let Some(socket) = console_socket {
            push_pair(&mut args, "--console-socket", socket);
        }
        args.push(id.into());
        args
    }

    /// The whole command line of `restore`, program first.
    ///
    /// The runtime detaches. runc is kept from becoming a subreaper, so that the restored processes are
    /// given to the monitor as soon as CRIU has ended (containerd passes the same option).
    #[must_use]
    pub fn restore_args(&self, restore: &RestoreArgs<'_>) -> Vec<OsString> {
        let mut args = self.global_args(Some(restore.log));
        args.push("restore".into());
        push_pair(&mut args, "--bundle", restore.bundle);
        push_pair(&mut args, "--pid-file", restore.pid_file);
        push_pair(&mut args, "--image-path", restore.image_path);
        push_pair(&mut args, "--work-path", restore.work_path);
        if let Some(socket) = restore.console_socket {
            push_pair(&mut args, "--console-socket", socket);
        }
        args.push("--detach".into());
        if self.kind != Kind::Crun {
            args.push("--no-subreaper".into());
        }
        args.push(restore.id.into());
        args
    }

    /// The whole command line of an `exec` that stays until the process has ended and then ends with
    /// its exit code, program first: the helper's, which has the runtime detach, or the runtime's.
    #[must_use]
    pub fn exec_args(&self, exec: &ExecArgs<'_>) -> Vec<OsString> {
        let mut args = Vec::new();
        if let Some(helper) = &self.exec_helper {
            args.extend([helper.into(), "exec".into(), exec.pid_file.into()]);
        }
        args.extend(self.global_args(Some(exec.log)));
        args.push("exec".into());
        push_pair(&mut args, "--process", exec.process);
        push_pair(&mut args, "--pid-file", exec.pid_file);
        if self.exec_helper.is_some() {
            args.push("--detach".into());
        }
        args.push(exec.id.into());
        args
    }

    /// Program and global options; without a `log` the JSON lines go to standard error.
    pub(crate) fn global_args(&self, log: Option<&Path>) -> Vec<OsString> {
        let mut args = vec![self.binary.clone().into_os_string()];
        push_pair(&mut args, "--root", &self.root);
        push_pair(&mut args, "--log-format", "json");
        if let Some(log) = log {
            push_pair(&mut args, "--log", log);
        }
        if self.systemd_cgroup {
            args.push("--systemd-cgroup".into());
        }
        args
    }
}

fn push_pair(args: &mut Vec<OsString>, option: &str, value: impl AsRef<OsStr>) {
    args.push(option.into());
    args.push(value.as_ref().to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(kind: Kind) -> OciRuntime {
        OciRuntime {
            binary: "/x/runc".into(),
            root: "/run/r".into(),
            kind,
            systemd_cgroup: false,
            exec_helper: None,
        }
    }

    fn check(args: &[OsString], expected: &str) {
        assert_eq!(args.join(OsStr::new(" ")).to_str(), Some(expected));
    }

    #[test]
    fn create_names_bundle_pid_file_and_log() {
        let (bundle, pid, log) = (Path::new("/b"), Path::new("/p"), Path::new("/l"));
        check(
            &runtime(Kind::Runc).create_args("c1", bundle, pid, None, log),
            "/x/runc --root /run/r --log-format json --log /l create --bundle /b --pid-file /p c1",
        );
        let systemd = OciRuntime {
            systemd_cgroup: true,
            ..runtime(Kind::Crun)
        };
        check(
            &systemd.create_args("c1", bundle, pid, Some(Path::new("/s")), log),
            "/x/runc --root /run/r --log-format json --log /l --systemd-cgroup create --bundle /b \
             --pid-file /p --console-socket /s c1",
        );
    }

    #[test]
    fn restore_detaches_and_only_runc_is_kept_from_reaping() {
        let restore = RestoreArgs {
            id: "c1",
            bundle: Path::new("/b"),
            pid_file: Path::new("/p"),
            image_path: Path::new("/i"),
            work_path: Path::new("/w"),
            console_socket: None,
            log: Path::new("/l"),
        };
        let common = "/x/runc --root /run/r --log-format json --log /l restore --bundle /b \
                      --pid-file /p --image-path /i --work-path /w";
        check(
            &runtime(Kind::Runc).restore_args(&restore),
            &format!("{common} --detach --no-subreaper c1"),
        );
        let terminal = RestoreArgs {
            console_socket: Some(Path::new("/s")),
            ..restore
        };
        check(
            &runtime(Kind::Crun).restore_args(&terminal),
            &format!("{common} --console-socket /s --detach c1"),
        );
    }

    #[test]
    fn exec_stays_with_the_process() {
        let exec = ExecArgs {
            id: "c1",
            process: Path::new("/ps"),
            pid_file: Path::new("/p"),
            log: Path::new("/l"),
            cancel: None,
        };
        check(
            &runtime(Kind::Runc).exec_args(&exec),
            "/x/runc --root /run/r --log-format json --log /l exec --process /ps --pid-file /p c1",
        );
        let helped = OciRuntime {
            exec_helper: Some("/x/m".into()),
            ..runtime(Kind::Runc)
        };
        check(
            &helped.exec_args(&exec),
            "/x/m exec /p /x/runc --root /run/r --log-format json --log /l exec --process /ps \
             --pid-file /p --detach c1",
        );
    }
}
