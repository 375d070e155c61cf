//! Sockets.

use super::files::{file, id_of};
use super::{Malformed, Privilege, refused, refused_by};
use crate::proto::FileEntry;
use crate::testing;

const FILES: &str = "files.img";

#[test]
fn sockets_take_their_capabilities_and_stay_inside() {
    let is_raw = |f: &FileEntry| f.isk.as_ref().is_some_and(|s| s.r#type == 3);
    let mut request = testing::request("python");
    request.credentials.bounding &= !(1 << 13);
    let field = format!("isk id {}", id_of(is_raw));
    refused_by(&request, |_| {}, (Privilege, None, FILES, &field));
    refused(
        |i| {
            file(i, is_raw, |f| {
                f.isk.as_mut().unwrap().opts.so_mark = Some(1)
            })
        },
        (Privilege, None, FILES, &field),
    );
    refused(
        |i| file(i, is_raw, |f| f.isk.as_mut().unwrap().src_addr = vec![0; 5]),
        (Malformed, None, FILES, &field),
    );
    refused(
        |i| file(i, is_raw, |f| f.isk.as_mut().unwrap().family = 40),
        (Malformed, None, FILES, &field),
    );
    let is_bound = |f: &FileEntry| {
        f.usk
            .as_ref()
            .is_some_and(|s| s.name.starts_with(b"/tmp/u.sock"))
    };
    let field = format!("usk id {}", id_of(is_bound));
    refused(
        |i| file(i, is_bound, |f| f.usk.as_mut().unwrap().uflags = 1),
        (Privilege, None, FILES, &field),
    );
    for name in [&b"/tmp/../run/x\0"[..], b"relative", b"/proc/1/x"] {
        refused(
            |i| {
                file(i, is_bound, |f| {
                    let socket = f.usk.as_mut().unwrap();
                    (socket.name, socket.mnt_id) = (name.to_vec(), None);
                });
            },
            (Privilege, None, FILES, &field),
        );
    }
    refused(
        |i| {
            file(i, is_bound, |f| {
                f.usk.as_mut().unwrap().name = vec![b'/'; 109]
            })
        },
        (Malformed, None, FILES, &field),
    );
}
