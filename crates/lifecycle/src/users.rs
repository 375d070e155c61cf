//! Who a container's first process is: the request's user, else the image's, looked up in the
//! image's own `/etc/passwd` and `/etc/group`.
//!
//! ```text
//! name:password:uid:gid:comment:home:shell      passwd(5)
//! name:password:gid:member,member               group(5)
//! ```
//!
//! Both files come with the image: lines that are not as above are skipped, and a lookup costs one
//! pass over bytes that the caller has bounded. No file is opened here.

use crate::error::Error;
use crate::model::{RequestedUser, SupplementalGroupsPolicy};

/// `(uid_t)-1` and `(gid_t)-1` mean "leave as it is" to the kernel (setresuid(2)).
const NO_ID: u32 = u32::MAX;

/// The user and groups that a process gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups: the primary one first, then the image's, then the request's; each
    /// once. It holds the primary group because a process could otherwise shed a group that
    /// permissions are denied to (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Name in the image's passwd file.
    pub name: Option<String>,
    /// Home directory in the image's passwd file.
    pub home: Option<String>,
}

/// Resolves the request's user, or `image_user` (`user`, `uid`, `user:group`, `uid:gid`, …) where
/// the request names none; without either it is root.
///
/// A text that is a name in the file counts as that name, even when it is all digits; a uid needs
/// no entry and then has group 0.
///
/// # Errors
///
/// [`Error::Invalid`] for a group without a user, a name that the image does not have, and an id
/// that the kernel does not take.
pub fn resolve(
    request: &RequestedUser,
    image_user: &str,
    passwd: &[u8],
    group: &[u8],
) -> Result<ResolvedUser, Error> {
    let mut user = match (&request.name, request.uid) {
        (Some(name), _) => by_text("run_as_username", name, passwd)?,
        (None, Some(uid)) => by_uid("run_as_user", uid, passwd)?,
        (None, None) => {
            if let Some(gid) = request.gid {
                let problem = format!("group {gid} needs run_as_user or run_as_username beside it");
                return Err(Error::invalid("run_as_group", problem));
            }
            by_image(image_user, passwd, group)?
        }
    };
    if let Some(gid) = request.gid {
        user.gid = check_id("run_as_group", gid)?;
    }
    let mut groups = vec![user.gid];
    if request.policy == SupplementalGroupsPolicy::Merge
        && let Some(name) = &user.name
    {
        groups.extend(memberships(group, name));
    }
    for &gid in &request.supplemental_groups {
        groups.push(check_id("supplemental_groups", gid)?);
    }
    for gid in groups {
        if !user.groups.contains(&gid) {
            user.groups.push(gid);
        }
    }
    Ok(user)
}

/// The image configuration's `User` field (image-spec, "config.User").
fn by_image(text: &str, passwd: &[u8], group: &[u8]) -> Result<ResolvedUser, Error> {
    const FIELD: &str = "the image's user";
    let (user, group_text) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let mut resolved = match user {
        "" => by_uid(FIELD, 0, passwd)?,
        user => by_text(FIELD, user, passwd)?,
    };
    if let Some(text) = group_text.filter(|text| !text.is_empty()) {
        let found = groups(group)
            .find(|entry| entry.name == text)
            .map(|entry| entry.gid);
        let gid = found.or_else(|| numeric(text)).ok_or_else(|| {
            let problem = format!("group {text:?} is not in the image's /etc/group");
            Error::invalid(FIELD, problem)
        })?;
        resolved.gid = check_id(FIELD, gid)?;
    }
    Ok(resolved)
}

fn by_text(field: &str, text: &str, passwd: &[u8]) -> Result<ResolvedUser, Error> {
    if let Some(entry) = users(passwd).find(|entry| entry.name == text) {
        return entry.resolved(field);
    }
    match numeric(text) {
        Some(uid) => by_uid(field, uid, passwd),
        None => {
            let problem = format!("user {text:?} is not in the image's /etc/passwd");
            Err(Error::invalid(field, problem))
        }
    }
}

fn by_uid(field: &str, uid: u32, passwd: &[u8]) -> Result<ResolvedUser, Error> {
    let uid = check_id(field, uid)?;
    match users(passwd).find(|entry| entry.uid == uid) {
        Some(entry) => entry.resolved(field),
        None => Ok(ResolvedUser {
            uid,
            ..ResolvedUser::default()
        }),
    }
}

fn check_id(field: &str, id: u32) -> Result<u32, Error> {
    if id == NO_ID {
        return Err(Error::invalid(
            field,
            format!("{id} is no id; the largest is {}", NO_ID - 1),
        ));
    }
    Ok(id)
}

fn numeric(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

struct UserEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl UserEntry<'_> {
    fn resolved(&self, field: &str) -> Result<ResolvedUser, Error> {
        Ok(ResolvedUser {
            uid: check_id(field, self.uid)?,
            gid: check_id(field, self.gid)?,
            groups: Vec::new(),
            name: Some(self.name.to_owned()),
            home: self.home.starts_with('/').then(|| self.home.to_owned()),
        })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
}

fn users(passwd: &[u8]) -> impl Iterator<Item = UserEntry<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.trim_end_matches('\r').split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = numeric(fields.nth(1)?)?;
        let gid = numeric(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(UserEntry {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.trim_end_matches('\r').split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = numeric(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(GroupEntry { name, gid, members })
    })
}

/// Groups that list `user`, which leaves out his primary one.
fn memberships<'a>(group: &'a [u8], user: &'a str) -> impl Iterator<Item = u32> + 'a {
    groups(group)
        .filter(move |entry| entry.members.split(',').any(|member| member.trim() == user))
        .map(|entry| entry.gid)
        .filter(|gid| *gid != NO_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        www-data:x:33:33:www:/var/www:/usr/sbin/nologin\n\
        broken line\n\
        short:x:7\n\
        \xff\xfe:x:8:8::/:/bin/sh\n\
        default-user:x:1000:1000::/home/default-user:/bin/sh\n\
        1002:x:2002:2003::relative:/bin/sh\n\
        toobig:x:4294967295:1::/:/bin/sh\n\
        huge:x:99999999999:1::/:/bin/sh";
    const GROUP: &[u8] = b"root:x:0:\n\
        wheel:x:10:root, default-user\n\
        :x:11:default-user\n\
        group-defined-in-image:x:50000:default-user\n\
        again:x:50000:default-user\n";

    fn request(text: &str) -> RequestedUser {
        let mut request = RequestedUser::default();
        for part in text.split_whitespace() {
            let (key, value) = part.split_once('=').unwrap();
            match key {
                "uid" => request.uid = Some(value.parse().unwrap()),
                "name" => request.name = Some(value.to_owned()),
                "gid" => request.gid = Some(value.parse().unwrap()),
                "group" => request.supplemental_groups.push(value.parse().unwrap()),
                "strict" => request.policy = SupplementalGroupsPolicy::Strict,
                other => panic!("{other}"),
            }
        }
        request
    }

    /// `expected`: uid, gid and groups, or the field and the operand that the error must name.
    fn check(
        wanted: &str,
        image_user: &str,
        expected: Result<(u32, u32, &[u32]), (&str, &str)>,
    ) -> Option<ResolvedUser> {
        let found = resolve(&request(wanted), image_user, PASSWD, GROUP);
        let case = format!("request {wanted:?}, image {image_user:?}");
        match (found, expected) {
            (Ok(user), Ok((uid, gid, groups))) => {
                assert_eq!((user.uid, user.gid), (uid, gid), "{case}");
                assert_eq!(user.groups, groups, "{case}");
                Some(user)
            }
            (Err(Error::Invalid { field, problem }), Err((wanted_field, operand))) => {
                assert_eq!(field, wanted_field, "{case}");
                assert!(problem.contains(operand), "{case}: {problem}");
                None
            }
            (found, expected) => panic!("{case}: {found:?}, wanted {expected:?}"),
        }
    }

    #[test]
    fn without_any_user_it_is_root() {
        let user = check("", "", Ok((0, 0, &[0, 10]))).unwrap();
        assert_eq!(
            (user.name.as_deref(), user.home.as_deref()),
            (Some("root"), Some("/root"))
        );
        check("", ":", Ok((0, 0, &[0, 10])));
        let bare = resolve(&RequestedUser::default(), "", b"", b"").unwrap();
        assert_eq!(
            bare,
            ResolvedUser {
                groups: vec![0],
                ..ResolvedUser::default()
            }
        );
    }

    #[test]
    fn an_images_user_may_be_written_in_every_way() {
        check("", "33", Ok((33, 33, &[33])));
        check("", "www-data", Ok((33, 33, &[33])));
        check("", "1003:1004", Ok((1003, 1004, &[1004])));
        check("", "www-data:1004", Ok((33, 1004, &[1004])));
        check("", "www-data:wheel", Ok((33, 10, &[10])));
        check("", "1000", Ok((1000, 1000, &[1000, 10, 50000])));
        check("", "65535:65535", Ok((65535, 65535, &[65535])));
        check(
            "",
            "nobody-here",
            Err(("the image's user", "\"nobody-here\"")),
        );
        check("", "0:no-group", Err(("the image's user", "\"no-group\"")));
        check("", "-1", Err(("the image's user", "\"-1\"")));
        check("", "4294967295", Err(("the image's user", "4294967295")));
        check("", "0:4294967295", Err(("the image's user", "4294967295")));
        check("", "toobig", Err(("the image's user", "4294967295")));
        check("", "huge", Err(("the image's user", "\"huge\"")));
    }

    #[test]
    fn a_name_of_digits_is_a_name_first() {
        let user = check("", "1002", Ok((2002, 2003, &[2003]))).unwrap();
        assert_eq!(user.home, None);
        check("uid=1002", "", Ok((1002, 0, &[0])));
    }

    #[test]
    fn the_request_replaces_the_images_user() {
        check("uid=1001", "www-data:wheel", Ok((1001, 0, &[0])));
        check("uid=33", "", Ok((33, 33, &[33])));
        check("name=www-data", "0", Ok((33, 33, &[33])));
        check("name=www-data uid=5", "", Ok((33, 33, &[33])));
        check("uid=33 gid=77", "", Ok((33, 77, &[77])));
        check("name=missing", "", Err(("run_as_username", "\"missing\"")));
        check("gid=77", "1000", Err(("run_as_group", "77")));
        check("uid=4294967295", "", Err(("run_as_user", "4294967295")));
    }

    #[test]
    fn supplementary_groups_are_merged_or_taken_strictly() {
        check(
            "uid=1000 group=1234",
            "",
            Ok((1000, 1000, &[1000, 10, 50000, 1234])),
        );
        check(
            "uid=1000 group=1234 strict=1",
            "",
            Ok((1000, 1000, &[1000, 1234])),
        );
        check(
            "group=1234 group=1234 group=0",
            "",
            Ok((0, 0, &[0, 10, 1234])),
        );
        check("uid=1000 gid=5 group=5", "", Ok((1000, 5, &[5, 10, 50000])));
        check(
            "group=4294967295",
            "",
            Err(("supplemental_groups", "4294967295")),
        );
    }
}
