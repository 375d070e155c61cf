//! The client: a CRIU program and what it can be asked.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sys::process::Deadline;

use crate::options::RestoreStdio;
use crate::proto::{CriuFeatures, CriuOpts, CriuReq, CriuReqType, CriuResp};
use crate::session::{Control, OnNotify, Session, inherited_numbers};
use crate::{
    CancelToken, DumpOptions, Error, Notify, NotifyReply, Operation, RestoreOptions, Stop, Version,
};

/// How long CRIU may take to undo a dump or restore that it was asked to stop, unless the caller
/// says otherwise. Breaking off took 64 ms at most in a hundred tries; thawing a large tree takes
/// longer.
const GRACE: Duration = Duration::from_secs(30);

/// A CRIU program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    /// Where it is: a path, or a name on `PATH`.
    pub binary: PathBuf,
    /// How long it may take to undo its work once it was asked to stop. It is killed afterwards.
    pub grace: Duration,
}

/// What CRIU can do on this kernel, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Tracking of changed memory, and so pre-dumps.
    pub mem_track: bool,
    /// Restoring memory on demand.
    pub lazy_pages: bool,
    /// Keeping process descriptors between pre-dumps.
    pub pidfd_store: bool,
}

/// A dump that succeeded.
#[derive(Debug)]
pub struct DumpReport {
    /// From the start of CRIU to its end, callbacks included.
    pub elapsed: Duration,
    /// From the first notification with frozen tasks to the last: what CRIU took to freeze and to
    /// thaw them is not in it.
    pub frozen: Duration,
    /// What asked CRIU to stop after the last stage at which it listens.
    pub late_stop: Option<Stop>,
}

/// A restore that succeeded.
#[derive(Debug)]
pub struct Restored {
    /// The root task.
    pub pid: u32,
    /// From the start of CRIU to its end, callbacks included.
    pub elapsed: Duration,
    /// What asked CRIU to stop after the last stage at which it listens: the tasks run.
    pub late_stop: Option<Stop>,
}

impl Criu {
    /// The program at this path.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            grace: GRACE,
        }
    }

    /// Its version.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] when there is no such program, [`Error::Ended`] when it is not CRIU, or
    /// [`Error::Deadline`].
    pub fn version(&self, deadline: Deadline) -> Result<Version, Error> {
        let request = CriuReq {
            r#type: CriuReqType::Version.into(),
            ..CriuReq::default()
        };
        let response = self.ask(Operation::Version, &request, deadline)?;
        let version = response.version.ok_or_else(|| protocol("no version"))?;
        let number =
            |number: i32| u32::try_from(number).map_err(|_| protocol("a negative version"));
        Ok(Version {
            major: number(version.major_number)?,
            minor: number(version.minor_number)?,
            sublevel: number(version.sublevel())?,
        })
    }

    /// Its features on this kernel.
    ///
    /// # Errors
    ///
    /// As [`Self::version`].
    pub fn features(&self, deadline: Deadline) -> Result<Features, Error> {
        let request = CriuReq {
            r#type: CriuReqType::FeatureCheck.into(),
            features: Some(CriuFeatures {
                mem_track: Some(true),
                lazy_pages: Some(true),
                pidfd_store: Some(true),
            }),
            ..CriuReq::default()
        };
        let response = self.ask(Operation::FeatureCheck, &request, deadline)?;
        let features = response.features.unwrap_or_default();
        Ok(Features {
            mem_track: features.mem_track(),
            lazy_pages: features.lazy_pages(),
            pidfd_store: features.pidfd_store(),
        })
    }

    /// Writes this machine's CPU to `cpuinfo.img` in `images_dir`.
    ///
    /// # Errors
    ///
    /// [`Error::Criu`], and as [`Self::version`].
    pub fn cpuinfo_dump(
        &self,
        images_dir: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.cpuinfo(Operation::CpuinfoDump, images_dir, deadline)
    }

    /// Compares `cpuinfo.img` in `images_dir` with this machine.
    ///
    /// # Errors
    ///
    /// [`Error::Criu`] when they do not fit, and as [`Self::version`].
    pub fn cpuinfo_check(
        &self,
        images_dir: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.cpuinfo(Operation::CpuinfoCheck, images_dir, deadline)
    }

    /// Dumps a tree of processes. `on_notify` is called at each stage, on this thread; CRIU waits
    /// meanwhile, and gives up when an error is returned.
    ///
    /// A `cancel` that comes too late to stop CRIU is without effect: success is what CRIU reports,
    /// and [`DumpReport::late_stop`] tells of it.
    ///
    /// # Errors
    ///
    /// [`Error::Criu`] when CRIU fails; [`Error::Cancelled`], [`Error::Deadline`] and
    /// [`Error::Refused`] when it was stopped; [`Error::Option`] before it is started. The tasks run
    /// on after all of these. They may not after [`Error::Killed`], or [`Error::Ended`] when
    /// something else killed CRIU.
    pub fn dump(
        &self,
        options: &DumpOptions<'_>,
        deadline: Deadline,
        cancel: &CancelToken,
        on_notify: OnNotify<'_>,
    ) -> Result<DumpReport, Error> {
        let request = CriuReq {
            r#type: CriuReqType::Dump.into(),
            opts: Some(options.to_proto()?),
            ..CriuReq::default()
        };
        let begin = Instant::now();
        let (mut frozen_at, mut frozen) = (None::<Instant>, Duration::ZERO);
        let session = Session::start(&self.binary, &[], &RestoreStdio::Null, self.grace)?;
        let (response, late_stop) = session.run(
            &request,
            Control {
                operation: Operation::Dump,
                deadline,
                cancel: Some(cancel),
                on_notify: &mut |notify| {
                    match notify {
                        Notify::NetworkLock | Notify::QueryExtFiles => {
                            frozen_at.get_or_insert_with(Instant::now);
                        }
                        Notify::NetworkUnlock => {
                            frozen = frozen_at.map_or(frozen, |at| at.elapsed());
                        }
                        _ => {}
                    }
                    let post_dump = matches!(notify, Notify::PostDump);
                    let answer = on_notify(notify);
                    if post_dump {
                        frozen = frozen_at.map_or(frozen, |at| at.elapsed());
                    }
                    answer
                },
                log: Some((options.work_dir, options.log_file)),
            },
        )?;
        expect(&response, CriuReqType::Dump)?;
        Ok(DumpReport {
            elapsed: begin.elapsed(),
            frozen,
            late_stop,
        })
    }

    /// Restores a tree of processes. `on_notify` as for [`Self::dump`]. The last stage at which
    /// CRIU can be stopped is [`Notify::PostRestore`].
    ///
    /// With `rst_sibling` the root is a child of the calling process, whose to wait for it is from
    /// [`Notify::SetupNamespaces`] on, even when the restore fails later.
    ///
    /// # Errors
    ///
    /// As [`Self::dump`]; what had been restored has been killed by CRIU.
    pub fn restore(
        &self,
        options: &RestoreOptions<'_>,
        deadline: Deadline,
        cancel: &CancelToken,
        on_notify: OnNotify<'_>,
    ) -> Result<Restored, Error> {
        let request = CriuReq {
            r#type: CriuReqType::Restore.into(),
            opts: Some(options.to_proto(&inherited_numbers(options.inherit_fds.len()))?),
            ..CriuReq::default()
        };
        let inherited: Vec<_> = options
            .inherit_fds
            .iter()
            .map(|inherit| inherit.fd)
            .collect();
        let begin = Instant::now();
        let session = Session::start(&self.binary, &inherited, &options.stdio, self.grace)?;
        let (response, late_stop) = session.run(
            &request,
            Control {
                operation: Operation::Restore,
                deadline,
                cancel: Some(cancel),
                on_notify,
                log: Some((options.work_dir, options.log_file)),
            },
        )?;
        expect(&response, CriuReqType::Restore)?;
        let pid = response
            .restore
            .and_then(|restored| u32::try_from(restored.pid).ok());
        let pid = pid
            .filter(|pid| *pid > 0)
            .ok_or_else(|| protocol("no restored process"))?;
        Ok(Restored {
            pid,
            elapsed: begin.elapsed(),
            late_stop,
        })
    }

    fn cpuinfo(
        &self,
        operation: Operation,
        images_dir: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        use std::os::fd::AsRawFd;
        let kind = match operation {
            Operation::CpuinfoCheck => CriuReqType::CpuinfoCheck,
            _ => CriuReqType::CpuinfoDump,
        };
        let opts = CriuOpts {
            images_dir_fd: images_dir.as_raw_fd(),
            ..CriuOpts::default()
        };
        let request = CriuReq {
            r#type: kind.into(),
            opts: Some(opts),
            ..CriuReq::default()
        };
        self.ask(operation, &request, deadline).map(drop)
    }

    /// A request without notifications.
    fn ask(
        &self,
        operation: Operation,
        request: &CriuReq,
        deadline: Deadline,
    ) -> Result<CriuResp, Error> {
        let session = Session::start(&self.binary, &[], &RestoreStdio::Null, self.grace)?;
        let (response, _) = session.run(
            request,
            Control {
                operation,
                deadline,
                cancel: None,
                on_notify: &mut |_| Ok(NotifyReply::Continue),
                log: None,
            },
        )?;
        expect(&response, request.r#type())?;
        Ok(response)
    }
}

fn expect(response: &CriuResp, kind: CriuReqType) -> Result<(), Error> {
    if response.r#type == i32::from(kind) {
        Ok(())
    } else {
        Err(protocol(&format!(
            "type {} for {}",
            response.r#type,
            kind.as_str_name()
        )))
    }
}

fn protocol(got: &str) -> Error {
    Error::Protocol {
        got: got.to_owned(),
    }
}

impl Error {
    /// Whether the program does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
