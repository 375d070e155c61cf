//! Signal names as images and requests write them.
//!
//! Numbers are those of x86 and arm64 Linux (signal(7)). Real-time signals are counted from 34,
//! because the C libraries keep 32 and 33 for themselves.

use crate::error::Error;

/// First real-time signal that programs may use.
const RT_MIN: i32 = 34;
/// Last signal there is.
const RT_MAX: i32 = 64;

/// Names without `SIG`; where a number has two names the usual one comes first.
const NAMES: [(&str, i32); 36] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", RT_MIN),
    ("RTMAX", RT_MAX),
];

/// The number of a signal given as `SIGTERM`, `term`, `15`, `SIGRTMIN+3` or `RTMAX-1`.
///
/// # Errors
///
/// [`Error::Invalid`] naming the text when it is none of these or beyond 1 to 64.
pub fn parse(text: &str) -> Result<i32, Error> {
    number(text.trim())
        .filter(|signal| (1..=RT_MAX).contains(signal))
        .ok_or_else(|| {
            let problem =
                format!("{text:?} is no signal; known are names such as SIGTERM and 1 to 64");
            Error::invalid("stop_signal", problem)
        })
}

fn number(text: &str) -> Option<i32> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(up) = name.strip_prefix("RTMIN+") {
        return real_time(RT_MIN.checked_add(offset(up)?)?);
    }
    if let Some(down) = name.strip_prefix("RTMAX-") {
        return real_time(RT_MAX.checked_sub(offset(down)?)?);
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, signal)| *signal)
}

fn offset(digits: &str) -> Option<i32> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

fn real_time(signal: i32) -> Option<i32> {
    (RT_MIN..=RT_MAX).contains(&signal).then_some(signal)
}

/// The usual name with `SIG`; `None` beyond 1 to 64 and for 32 and 33, which have none.
#[must_use]
pub fn name(signal: i32) -> Option<String> {
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == signal) {
        return Some(format!("SIG{name}"));
    }
    real_time(signal).map(|signal| format!("SIGRTMIN+{}", signal - RT_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<i32>) {
        match (parse(text), expected) {
            (Ok(found), Some(wanted)) => assert_eq!(found, wanted, "{text}"),
            (Err(Error::Invalid { field, problem }), None) => {
                assert_eq!(field, "stop_signal");
                assert!(problem.starts_with(&format!("{text:?}")), "{problem}");
            }
            (found, wanted) => panic!("{text:?}: {found:?}, wanted {wanted:?}"),
        }
    }

    #[test]
    fn every_way_to_write_a_signal_is_understood() {
        check("SIGTERM", Some(15));
        check("TERM", Some(15));
        check("sigquit", Some(3));
        check("15", Some(15));
        check(" 9 ", Some(9));
        check("SIGRTMIN", Some(34));
        check("SIGRTMIN+3", Some(37));
        check("RTMIN+30", Some(64));
        check("SIGRTMAX-14", Some(50));
        check("CLD", Some(17));
        check("64", Some(64));
    }

    #[test]
    fn what_is_no_signal_is_refused_by_name() {
        for text in [
            "",
            "0",
            "65",
            "-9",
            "+9",
            "SIG",
            "TERMX",
            "SIGSIGTERM",
            "RTMIN+31",
            "RTMIN+",
        ] {
            check(text, None);
        }
        for text in [
            "RTMIN+-1",
            "RTMAX-31",
            "99999999999999999999",
            "SIGRTMIN+99999999999",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn names_read_back_as_their_numbers() {
        for signal in (1..=31).chain(34..=64) {
            assert_eq!(parse(&name(signal).unwrap()).unwrap(), signal);
        }
        assert_eq!(name(34).as_deref(), Some("SIGRTMIN"));
        assert_eq!(name(35).as_deref(), Some("SIGRTMIN+1"));
        assert_eq!(
            [name(0), name(32), name(33), name(65)],
            [None, None, None, None]
        );
    }
}
