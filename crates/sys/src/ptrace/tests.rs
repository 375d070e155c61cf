use super::*;
use crate::process::{Child, Command, Deadline};
use std::time::Duration;

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

/// Waits for the next stop, a minute at most.
fn stop(tid: u32) -> Stop {
    let deadline = Deadline::after(Duration::from_secs(60));
    while !deadline.passed() {
        if let Some(stop) = wait(tid).unwrap() {
            return stop;
        }
        std::thread::yield_now();
    }
    panic!("{tid} does not stop");
}

/// The address of a `syscall` instruction in the process's vDSO.
fn instruction(pid: u32) -> u64 {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
    let (begin, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let begin = u64::from_str_radix(begin, 16).unwrap();
    let end = u64::from_str_radix(end, 16).unwrap();
    let mut code = vec![0; usize::try_from(end - begin).unwrap()];
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    memory.read_exact_at(&mut code, begin).unwrap();
    let at = code.windows(2).position(|two| two == [0x0f, 0x05]).unwrap();
    begin + at as u64
}

#[test]
fn a_stopped_program_runs_a_system_call_and_goes_on_as_if_nothing_had_happened() {
    let mut child = sleeper();
    let pid = child.pid();
    // It is asleep once its command line is its own and it is in a system call.
    seize(pid).unwrap();
    let saved = loop {
        interrupt(pid).unwrap();
        assert_eq!(stop(pid), Stop::Interrupted);
        let registers = registers(pid).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        if registers.in_system_call() && maps.contains("[vdso]") {
            break registers;
        }
        resume(pid, 0).unwrap();
    };
    assert!(saved.is_64_bit());
    let mask = signal_mask(pid).unwrap();
    set_signal_mask(pid, ALL_SIGNALS).unwrap();
    let call = saved.calling(instruction(pid), libc::SYS_getppid, [0; 6]);
    set_registers(pid, &call).unwrap();
    step(pid).unwrap();
    assert_eq!(stop(pid), Stop::Signal(TRAP));
    let parent = registers(pid).unwrap().result();
    assert_eq!(parent, i64::from(std::process::id()));
    set_registers(pid, &saved).unwrap();
    set_signal_mask(pid, mask).unwrap();
    detach(pid).unwrap();
    assert_eq!(child.wait(Some(Duration::from_millis(200))).unwrap(), None);
    assert_eq!(crate::proc::status(pid).unwrap().tracer, 0);
}

#[test]
fn a_child_made_by_clone_stands_at_its_first_instruction_and_can_be_reaped() {
    let child = sleeper();
    let pid = child.pid();
    seize(pid).unwrap();
    interrupt(pid).unwrap();
    assert_eq!(stop(pid), Stop::Interrupted);
    set_options(pid, TRACE_CLONE | SUSPEND_SECCOMP).unwrap();
    let saved = registers(pid).unwrap();
    let mask = signal_mask(pid).unwrap();
    set_signal_mask(pid, ALL_SIGNALS).unwrap();
    let at = instruction(pid);
    set_registers(pid, &saved.calling(at, CLONE, [0; 6])).unwrap();
    step(pid).unwrap();
    assert_eq!(stop(pid), Stop::Cloned);
    let clone = u32::try_from(event_message(pid).unwrap()).unwrap();
    step(pid).unwrap();
    assert_eq!(stop(pid), Stop::Signal(TRAP));
    assert_eq!(registers(pid).unwrap().result(), i64::from(clone));
    assert_eq!(stop(clone), Stop::Interrupted);
    let clone_fd = crate::pidfd::open(clone).unwrap();
    crate::pidfd::send_signal(&clone_fd, libc::SIGKILL).unwrap();
    assert_eq!(stop(clone), Stop::Gone);
    let options = u64::try_from(ANY_CHILD_AT_ONCE).unwrap();
    let reap = saved.calling(at, WAIT4, [clone.into(), 0, options, 0, 0, 0]);
    set_registers(pid, &reap).unwrap();
    step(pid).unwrap();
    assert_eq!(stop(pid), Stop::Signal(TRAP));
    assert_eq!(registers(pid).unwrap().result(), i64::from(clone));
    set_registers(pid, &saved).unwrap();
    set_signal_mask(pid, mask).unwrap();
    detach(pid).unwrap();
    let children = format!("/proc/{pid}/task/{pid}/children");
    assert_eq!(std::fs::read_to_string(children).unwrap(), "");
}

fn until_stopped(pid: u32) {
    let deadline = Deadline::after(Duration::from_secs(60));
    while crate::proc::status(pid).unwrap().state != 'T' {
        assert!(!deadline.passed());
        std::thread::yield_now();
    }
}

#[test]
fn a_program_stopped_by_job_control_is_told_from_an_interrupted_one() {
    let child = sleeper();
    child.kill_group(libc::SIGSTOP).unwrap();
    until_stopped(child.pid());
    seize(child.pid()).unwrap();
    interrupt(child.pid()).unwrap();
    assert_eq!(stop(child.pid()), Stop::Group(libc::SIGSTOP));
    detach(child.pid()).unwrap();
    until_stopped(child.pid());
}

#[test]
fn what_is_gone_or_nobody_s_is_an_error() {
    assert_eq!(decode(libc::SIGKILL), Stop::Gone);
    let mut child = sleeper();
    let pid = child.pid();
    child.kill_group(libc::SIGKILL).unwrap();
    child.wait(None).unwrap();
    assert_eq!(seize(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    assert_eq!(wait(pid).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    assert!(interrupt(u32::MAX).is_err());
    assert!(registers(std::process::id()).is_err());
}

#[test]
fn restartable_sequences_are_found() {
    let child = sleeper();
    seize(child.pid()).unwrap();
    interrupt(child.pid()).unwrap();
    assert_eq!(stop(child.pid()), Stop::Interrupted);
    // The C library may not have registered one yet.
    let sequence = sequence(child.pid()).unwrap();
    assert!(
        sequence.address == 0 || sequence.length >= 20,
        "{sequence:?}"
    );
    detach(child.pid()).unwrap();
}
