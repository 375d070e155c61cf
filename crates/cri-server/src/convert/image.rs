//! Images as callers see them.

use crate::v1;

/// An image.
pub(crate) fn image(from: images::Image) -> v1::Image {
    let (uid, username) = user(&from.user);
    v1::Image {
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: Some(v1::ImageSpec {
            annotations: from.annotations.into_iter().collect(),
            ..v1::ImageSpec::default()
        }),
        id: from.id,
        repo_tags: from.repo_tags,
        repo_digests: from.repo_digests,
        size: from.size_bytes,
        pinned: from.pinned,
    }
}

/// The image's `User` ("uid", "name", either with ":group") as the interface splits it: a number
/// or a name. Neither means root, but without saying so.
fn user(user: &str) -> (Option<i64>, String) {
    let name = user.split_once(':').map_or(user, |(name, _group)| name);
    match name.parse::<u32>() {
        Ok(uid) => (Some(uid.into()), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// The name of the image that a request is about.
pub(crate) fn requested(from: Option<v1::ImageSpec>) -> super::check::Checked<String> {
    let spec = super::check::required("image", from)?;
    super::container::image_name("image.image", spec.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_or_a_name() {
        for (given, uid, name) in [
            ("", None, ""),
            ("1002", Some(1002), ""),
            ("www-data", None, "www-data"),
            ("1003:1004", Some(1003), ""),
            ("www-data:1004", None, "www-data"),
            ("-1", None, "-1"),
        ] {
            assert_eq!(user(given), (uid, name.to_owned()), "{given:?}");
        }
    }
}
