//! Small filters against small profiles.

use super::bpf::tests::assemble;
use super::{Action, Comparison, SeccompProfile, bpf, is_as_strict};
use crate::proto::core_entry::March;

const ALLOW: u32 = 0x7fff_0000;
const DENY: u32 = 0x0005_0001;
const X86_64: u32 = 0xc000_003e;

fn verdict(rules: &str, code: &[(u16, u8, u8, u32)]) -> Result<(), String> {
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
            "flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{rules}]}}"#
    );
    let profile = SeccompProfile::from_json(&json).unwrap();
    let program = bpf::decode(&assemble(code)).unwrap();
    is_as_strict(&program, &profile, March::X8664, &mut 10_000_000)
}

/// A filter for `read` (0) on x86-64 whose body follows; everything else is denied.
fn on_read(body: &[(u16, u8, u8, u32)]) -> Vec<(u16, u8, u8, u32)> {
    let mut code = vec![
        (0x20, 0, 0, 4),
        (0x15, 1, 0, X86_64),
        (6, 0, 0, DENY),
        (0x20, 0, 0, 0),
        (0x15, 1, 0, 0),
        (6, 0, 0, DENY),
    ];
    code.extend(body);
    code
}

fn read_if(op: &str, value: u64, two: u64) -> String {
    format!(
        r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW",
            "args":[{{"index":0,"value":{value},"valueTwo":{two},"op":"{op}"}}]}}"#
    )
}

#[test]
fn profiles_are_read_as_the_specification_writes_them() {
    let profile = SeccompProfile::from_json(
        r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","defaultErrnoRet":1,
            "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_MIPS"],
            "syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","errnoRet":2,
                "args":[{"index":1,"value":2,"valueTwo":null,"op":"SCMP_CMP_NE"}]},
                {"names":["write"],"action":"SCMP_ACT_TRAP","args":null}]}"#,
    )
    .unwrap();
    assert_eq!(profile.default_action, Action::KillProcess);
    assert_eq!(profile.syscalls[0].action, Action::Log);
    assert_eq!(profile.syscalls[0].args[0].op, Comparison::NotEqual);
    assert!(SeccompProfile::from_json(r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#).is_err());
}

#[test]
fn a_call_is_allowed_only_where_the_profile_allows_it() {
    let read = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
    let code = on_read(&[(6, 0, 0, ALLOW)]);
    assert_eq!(verdict(read, &code), Ok(()));
    let write = read.replace("read", "write");
    assert_eq!(
        verdict(&write, &code).unwrap_err(),
        "it lets read (0, X86_64) through"
    );
    // Less than the profile allows is fine.
    assert_eq!(verdict(read, &[(6, 0, 0, DENY)]), Ok(()));
    assert!(verdict(read, &[(6, 0, 0, ALLOW)]).is_err());
    // Logged is less than allowed.
    let logged = read.replace("ALLOW", "LOG");
    assert!(verdict(&logged, &code).is_err());
    assert_eq!(
        verdict(&logged, &on_read(&[(6, 0, 0, 0x7ffc_0000)])),
        Ok(())
    );
    // A tracer could allow anything.
    assert!(verdict(&write, &on_read(&[(6, 0, 0, 0x7ff0_0000)])).is_err());
    assert_eq!(
        verdict(&write, &on_read(&[(6, 0, 0, 0x1234_0000)])),
        Ok(()),
        "unknown kills"
    );
}

#[test]
fn a_filter_must_look_at_the_architecture() {
    let read = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
    let blind = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, 0),
        (6, 0, 0, ALLOW),
        (6, 0, 0, DENY),
    ];
    // Number 0 is restart_syscall on 32-bit x86.
    assert!(verdict(read, &blind).unwrap_err().contains("X86)"));
    let open_x32 = [
        (0x20, 0, 0, 4),
        (0x15, 1, 0, X86_64),
        (6, 0, 0, DENY),
        (0x20, 0, 0, 0),
        (0x45, 0, 1, 0x4000_0000),
        (6, 0, 0, ALLOW),
        (0x15, 1, 0, 0),
        (6, 0, 0, DENY),
        (6, 0, 0, ALLOW),
    ];
    assert!(verdict(read, &open_x32).unwrap_err().contains("X32)"));
}

#[test]
fn conditions_are_proved_over_both_halves() {
    const LOW: u32 = 16;
    const HIGH: u32 = 20;
    let wide = 0x1_0000_0005u64;
    // arg == 0x1_0000_0005
    let equal = on_read(&[
        (0x20, 0, 0, HIGH),
        (0x15, 0, 3, 1),
        (0x20, 0, 0, LOW),
        (0x15, 0, 1, 5),
        (6, 0, 0, ALLOW),
        (6, 0, 0, DENY),
    ]);
    let low_only = on_read(&[
        (0x20, 0, 0, LOW),
        (0x15, 0, 1, 5),
        (6, 0, 0, ALLOW),
        (6, 0, 0, DENY),
    ]);
    assert_eq!(verdict(&read_if("SCMP_CMP_EQ", wide, 0), &equal), Ok(()));
    assert!(verdict(&read_if("SCMP_CMP_EQ", wide, 0), &low_only).is_err());
    assert!(
        verdict(&read_if("SCMP_CMP_EQ", 5, 0), &low_only).is_err(),
        "upper half is open"
    );
    assert_eq!(
        verdict(&read_if("SCMP_CMP_MASKED_EQ", 0xff, 5), &low_only),
        Ok(())
    );
    assert_eq!(verdict(&read_if("SCMP_CMP_NE", 6, 0), &low_only), Ok(()));
    assert_eq!(verdict(&read_if("SCMP_CMP_GE", wide, 0), &equal), Ok(()));
    assert!(verdict(&read_if("SCMP_CMP_GT", wide, 0), &equal).is_err());
    // arg >= 0x1_0000_0005: high > 1, or high == 1 and low >= 5.
    let at_least = on_read(&[
        (0x20, 0, 0, HIGH),
        (0x25, 3, 0, 1),
        (0x15, 0, 3, 1),
        (0x20, 0, 0, LOW),
        (0x35, 0, 1, 5),
        (6, 0, 0, ALLOW),
        (6, 0, 0, DENY),
    ]);
    assert_eq!(verdict(&read_if("SCMP_CMP_GE", wide, 0), &at_least), Ok(()));
    assert_eq!(
        verdict(&read_if("SCMP_CMP_GT", wide - 1, 0), &at_least),
        Ok(())
    );
    assert!(verdict(&read_if("SCMP_CMP_GE", wide + 1, 0), &at_least).is_err());
    // (arg & 0x7e020000) == 0, through the accumulator's AND and through a bit test.
    for mask in [
        vec![
            (0x54, 0, 0, 0x7e02_0000),
            (0x15, 0, 1, 0),
            (6, 0, 0, ALLOW),
            (6, 0, 0, DENY),
        ],
        vec![(0x45, 1, 0, 0x7e02_0000), (6, 0, 0, ALLOW), (6, 0, 0, DENY)],
    ] {
        let mut body = vec![(0x20, 0, 0, LOW)];
        body.extend(mask);
        let rule = |mask| read_if("SCMP_CMP_MASKED_EQ", mask, 0);
        assert_eq!(verdict(&rule(0x7e02_0000), &on_read(&body)), Ok(()));
        assert_eq!(verdict(&rule(0x0002_0000), &on_read(&body)), Ok(()));
        assert!(verdict(&rule(0x7f02_0000), &on_read(&body)).is_err());
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_denials_count() {
    let either = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
        {"index":2,"value":1,"op":"SCMP_CMP_EQ"},{"index":2,"value":2,"op":"SCMP_CMP_EQ"}]}"#;
    let two = |value| {
        on_read(&[
            (0x20, 0, 0, 36),
            (0x15, 0, 3, 0),
            (0x20, 0, 0, 32),
            (0x15, 0, 1, value),
            (6, 0, 0, ALLOW),
            (6, 0, 0, DENY),
        ])
    };
    assert_eq!(verdict(either, &two(1)), Ok(()));
    assert_eq!(verdict(either, &two(2)), Ok(()));
    assert!(verdict(either, &two(3)).is_err());
    let but = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":2,"value":7,"op":"SCMP_CMP_LE"}]},
        {"names":["read"],"action":"SCMP_ACT_KILL","args":[
            {"index":2,"value":7,"op":"SCMP_CMP_EQ"}]}"#;
    assert_eq!(verdict(but, &two(3)), Ok(()));
    assert!(verdict(but, &two(7)).is_err());
    assert!(verdict(but, &two(8)).is_err());
}

#[test]
fn of_rules_without_conditions_the_first_counts() {
    let allow = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
    let deny = r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":2}"#;
    let default = r#"{"names":["read"],"action":"SCMP_ACT_ERRNO"}"#;
    let some = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
        {"index":0,"value":0,"op":"SCMP_CMP_GE"}]}"#;
    let code = on_read(&[(6, 0, 0, ALLOW)]);
    assert_eq!(verdict(&format!("{allow},{deny}"), &code), Ok(()));
    assert_eq!(verdict(&format!("{default},{allow}"), &code), Ok(()));
    assert_eq!(verdict(some, &code), Ok(()));
    assert!(verdict(&format!("{deny},{allow}"), &code).is_err());
    assert!(verdict(&format!("{some},{deny}"), &code).is_err());
}

#[test]
fn values_that_cannot_be_followed_prove_nothing() {
    // A sum of the argument is unknown: both branches are taken, nothing is learnt.
    let code = on_read(&[
        (0x20, 0, 0, 16),
        (0x04, 0, 0, 1),
        (0x15, 0, 1, 6),
        (6, 0, 0, ALLOW),
        (6, 0, 0, DENY),
    ]);
    assert!(verdict(&read_if("SCMP_CMP_MASKED_EQ", 0xff, 5), &code).is_err());
    let stored = on_read(&[
        (0x20, 0, 0, 16),
        (0x02, 0, 0, 3),
        (0x00, 0, 0, 0),
        (0x60, 0, 0, 3),
        (0x15, 0, 1, 5),
        (6, 0, 0, ALLOW),
        (6, 0, 0, DENY),
    ]);
    assert_eq!(
        verdict(&read_if("SCMP_CMP_MASKED_EQ", 0xff, 5), &stored),
        Ok(())
    );
    let computed = [
        (0x20, 0, 0, 0),
        (0x54, 0, 0, 1),
        (0x15, 0, 1, 1),
        (6, 0, 0, DENY),
        (6, 0, 0, DENY),
    ];
    assert_eq!(
        verdict("", &computed).unwrap_err(),
        "it computes with the system call number"
    );
}

#[test]
fn calls_behind_the_32_bit_multiplexers_are_opened_by_their_own_names() {
    let profile = SeccompProfile::from_json(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],
            "syscalls":[{"names":["connect","shmat"],"action":"SCMP_ACT_ALLOW"}]}"#,
    )
    .unwrap();
    let on = |call, first| {
        assemble(&[
            (0x20, 0, 0, 4),
            (0x15, 0, 5, 0x4000_0003),
            (0x20, 0, 0, 0),
            (0x15, 0, 3, call),
            (0x20, 0, 0, 16),
            (0x15, 0, 1, first),
            (6, 0, 0, ALLOW),
            (6, 0, 0, DENY),
        ])
    };
    let judge = |code: Vec<u8>| {
        let program = bpf::decode(&code).unwrap();
        is_as_strict(&program, &profile, March::X8664, &mut 10_000_000).is_ok()
    };
    assert!(judge(on(102, 3)) && judge(on(117, 21)));
    assert!(!judge(on(102, 1)) && !judge(on(117, 23)));
}
