use super::*;
use crate::proto::{CriuReq, ExtMountMap, InheritFd};

fn mount(key: &str, val: &str) -> ExtMountMap {
    ExtMountMap {
        key: key.into(),
        val: val.into(),
    }
}

/// What runc sends, about.
fn restore() -> CriuReq {
    CriuReq {
        r#type: CriuReqType::Restore.into(),
        opts: Some(CriuOpts {
            images_dir_fd: 7,
            work_dir_fd: Some(8),
            log_level: Some(4),
            log_file: Some(b"restore.log".to_vec()),
            lazy_pages: Some(false),
            evasive_devices: Some(true),
            manage_cgroups: Some(true),
            manage_cgroups_mode: Some(proto::CriuCgMode::Soft.into()),
            cg_root: vec![proto::CgroupRoot {
                ctrl: None,
                path: b"/x".to_vec(),
            }],
            rst_sibling: Some(true),
            config_file: Some(b"/etc/criu/runc.conf".to_vec()),
            inherit_fd: vec![InheritFd {
                key: b"pipe:[1]".to_vec(),
                fd: 1,
            }],
            ext_mnt: vec![mount("/etc/hosts", "/old"), mount("/data", "/srv")],
            external: vec![b"mnt[/dev]:/d".to_vec(), b"net[4]:n".to_vec()],
            ..CriuOpts::default()
        }),
        ..CriuReq::default()
    }
}

fn edit(request: &CriuReq, numbers: ClientNumbers, config: &RelayConfig) -> CriuReq {
    let bytes = request.encode_to_vec();
    CriuReq::decode(
        Request::parse(&bytes)
            .unwrap()
            .edited(numbers, config)
            .as_slice(),
    )
    .unwrap()
}

#[test]
fn the_numbers_of_the_client_are_found_and_replaced_and_the_rest_stays() {
    let mut expected = restore();
    let bytes = expected.encode_to_vec();
    let request = Request::parse(&bytes).unwrap();
    assert!(request.is_restore());
    let found = ClientNumbers {
        images_dir: Some(7),
        work_dir: Some(8),
        ..ClientNumbers::default()
    };
    assert_eq!(request.numbers, found);
    let ours = ClientNumbers {
        images_dir: Some(40),
        work_dir: Some(41),
        ..found
    };
    let edited = edit(&expected, ours, &RelayConfig::new("/c"));
    let opts = expected.opts.as_mut().unwrap();
    (opts.images_dir_fd, opts.work_dir_fd, opts.config_file) = (40, Some(41), None);
    assert_eq!(edited, expected);
}

#[test]
fn the_configuration_is_put_over_what_the_runtime_asks_for() {
    let config = RelayConfig {
        tcp_close: true,
        file_locks: true,
        manage_cgroups_ignore: true,
        ext_mounts: vec![
            ("/etc/hosts".into(), "/new".into()),
            ("/dev".into(), "/run/dev".into()),
            ("/more".into(), "/m".into()),
        ],
        external: vec!["net[4]:n".into(), "file[1]:f".into()],
        log_file: Some("r.log".into()),
        log_level: Some(2),
        config_file: Some("/run/thawd/criu.conf".into()),
        lazy_pages: Some(true),
        evasive_devices: Some(false),
        ..RelayConfig::new("/c")
    };
    let ours = ClientNumbers {
        images_dir: Some(40),
        ..ClientNumbers::default()
    };
    let mut expected = restore();
    let edited = edit(&expected, ours, &config);
    let opts = expected.opts.as_mut().unwrap();
    *opts = CriuOpts {
        images_dir_fd: 40,
        tcp_close: Some(true),
        file_locks: Some(true),
        manage_cgroups: Some(false),
        manage_cgroups_mode: Some(proto::CriuCgMode::Ignore.into()),
        cg_root: Vec::new(),
        ext_mnt: vec![
            mount("/data", "/srv"),
            mount("/etc/hosts", "/new"),
            mount("/dev", "/run/dev"),
            mount("/more", "/m"),
        ],
        external: vec![b"net[4]:n".to_vec(), b"file[1]:f".to_vec()],
        log_file: Some(b"r.log".to_vec()),
        log_level: Some(2),
        config_file: Some(b"/run/thawd/criu.conf".to_vec()),
        lazy_pages: Some(true),
        evasive_devices: Some(false),
        ..opts.clone()
    };
    assert_eq!(edited, expected);
}

#[test]
fn other_requests_get_numbers_only() {
    let mut expected = restore();
    expected.r#type = CriuReqType::Dump.into();
    let config = RelayConfig {
        tcp_close: true,
        ..RelayConfig::new("/c")
    };
    let ours = ClientNumbers {
        images_dir: Some(9),
        ..ClientNumbers::default()
    };
    let edited = edit(&expected, ours, &config);
    expected.opts.as_mut().unwrap().images_dir_fd = 9;
    assert_eq!(edited, expected);

    let version = CriuReq {
        r#type: CriuReqType::Version.into(),
        ..CriuReq::default()
    };
    assert_eq!(edit(&version, ClientNumbers::default(), &config), version);
}

#[test]
fn fields_of_a_newer_protocol_pass() {
    let mut bytes = restore().encode_to_vec();
    let unknown = [0xc2, 0x3e, 0x01, b'x'];
    bytes.extend(unknown);
    // A second `opts` with an unknown field, merged into the first.
    bytes.extend([0x12, 0x04, 0xc2, 0x3e, 0x01, b'y']);
    let request = Request::parse(&bytes).unwrap();
    let edited = request.edited(request.numbers, &RelayConfig::new("/c"));
    let top = wire::fields(&edited).unwrap();
    assert!(top.iter().any(|field| field.whole == unknown));
    let opts: Vec<_> = top
        .iter()
        .filter(|field| field.number == number::REQ_OPTS)
        .collect();
    assert_eq!(opts.len(), 1);
    let Value::Bytes(opts) = opts[0].value else {
        panic!()
    };
    let inner = wire::fields(opts).unwrap();
    assert!(inner.iter().any(|field| field.value == Value::Bytes(b"y")));
    let seven = Value::Varint(7);
    assert!(
        inner
            .iter()
            .any(|field| field.number == number::IMAGES_DIR_FD && field.value == seven)
    );
}

#[test]
fn absent_directories_stay_absent() {
    let mut request = restore();
    let opts = request.opts.as_mut().unwrap();
    (opts.images_dir_fd, opts.work_dir_fd, opts.images_dir) = (-1, None, Some(b"/i".to_vec()));
    let bytes = request.encode_to_vec();
    let parsed = Request::parse(&bytes).unwrap();
    assert_eq!(parsed.numbers, ClientNumbers::default());
    let edited = edit(&request, ClientNumbers::default(), &RelayConfig::new("/c"))
        .opts
        .unwrap();
    assert_eq!((edited.images_dir_fd, edited.work_dir_fd), (-1, None));
    assert_eq!(edited.images_dir(), b"/i");
}

#[test]
fn what_is_no_request_is_refused() {
    assert!(Request::parse(b"\x12\x05abc").is_err());
    assert!(Request::parse(b"\x12\x02\x12\x05").is_err());
}
