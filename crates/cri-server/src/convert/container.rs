//! Container requests.

use std::path::Path;

use lifecycle::model::{ContainerConfig, Device, Mount, Propagation};

use super::check::{
    Checked, Invalid, annotations, container_path, enumeration, host_path, invalid, labels, name,
    no_nul, relative_path, required, text,
};
use super::resources::resources;
use super::security::context;
use super::signal::signal;
use crate::v1;

/// Longest image name: a path (an archive is named by one), so `PATH_MAX`.
pub(crate) const IMAGE_BYTES: usize = 4095;

/// A checked container request.
pub(crate) fn container_config(from: v1::ContainerConfig) -> Checked<ContainerConfig> {
    let metadata = required("metadata", from.metadata)?;
    let image = required("image", from.image)?;
    let linux = from.linux.unwrap_or_default();
    if !from.cdi_devices.is_empty() {
        return Err(invalid("CDI_devices", "CDI devices are not supported"));
    }
    for (field, words) in [("command", &from.command), ("args", &from.args)] {
        for (index, word) in words.iter().enumerate() {
            no_nul(&format!("{field}[{index}]"), word)?;
        }
    }
    Ok(ContainerConfig {
        name: name("metadata.name", metadata.name)?,
        attempt: metadata.attempt,
        image: image_name("image.image", image.image)?,
        user_specified_image: {
            text(
                "image.user_specified_image",
                &image.user_specified_image,
                IMAGE_BYTES,
            )?;
            image.user_specified_image
        },
        command: from.command,
        args: from.args,
        working_dir: working_dir(&from.working_dir)?,
        env: environment(from.envs)?,
        mounts: mounts(from.mounts)?,
        devices: devices(from.devices)?,
        labels: labels("labels", from.labels)?,
        annotations: annotations("annotations", from.annotations)?,
        log_path: relative_path("log_path", &from.log_path)?,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        resources: resources(linux.resources.unwrap_or_default())
            .map_err(|error| error.within("linux.resources"))?,
        security: context(linux.security_context.unwrap_or_default())
            .map_err(|error| error.within("linux.security_context"))?,
        stop_signal: signal("stop_signal", from.stop_signal)?,
    })
}

/// What names an image: not empty, one line.
pub(crate) fn image_name(field: &str, value: String) -> Checked<String> {
    if value.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    text(field, &value, IMAGE_BYTES)?;
    Ok(value)
}

fn working_dir(value: &str) -> Checked<String> {
    if value.is_empty() {
        return Ok(String::new());
    }
    Ok(container_path("working_dir", value)?
        .to_string_lossy()
        .into_owned())
}

fn environment(from: Vec<v1::KeyValue>) -> Checked<Vec<(String, String)>> {
    let one = |(index, variable): (usize, v1::KeyValue)| {
        let field = format!("envs[{index}]");
        let v1::KeyValue { key, value } = variable;
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(
                &format!("{field}.key"),
                format!("{key:?} is no variable's name"),
            ));
        }
        // The runtime's bundle is JSON, which has no way to write other bytes.
        let value = String::from_utf8(value).map_err(|_| {
            invalid(
                &format!("{field}.value"),
                format!("of {key:?} is not UTF-8"),
            )
        })?;
        no_nul(&format!("{field}.value"), &value)?;
        Ok((key, value))
    };
    from.into_iter().enumerate().map(one).collect()
}

fn mounts(from: Vec<v1::Mount>) -> Checked<Vec<Mount>> {
    let one = |(index, from): (usize, v1::Mount)| {
        mount(from).map_err(|error: Invalid| error.within(&format!("mounts[{index}]")))
    };
    from.into_iter().enumerate().map(one).collect()
}

fn mount(from: v1::Mount) -> Checked<Mount> {
    let unsupported = [
        (
            "image",
            from.image.is_some() || !from.image_sub_path.is_empty(),
            "image volumes",
        ),
        (
            "uidMappings",
            !from.uid_mappings.is_empty(),
            "idmapped mounts",
        ),
        (
            "gidMappings",
            !from.gid_mappings.is_empty(),
            "idmapped mounts",
        ),
        (
            "mount_options",
            !from.mount_options.is_empty(),
            "mount options",
        ),
    ];
    for (field, set, what) in unsupported {
        if set {
            return Err(invalid(field, format!("{what} are not supported")));
        }
    }
    let destination = container_path("container_path", &from.container_path)?;
    if destination == Path::new("/") {
        return Err(invalid(
            "container_path",
            "the root filesystem cannot be mounted over",
        ));
    }
    let propagation = match enumeration("propagation", from.propagation)? {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if from.recursive_read_only && !from.readonly {
        return Err(invalid("recursive_read_only", "needs readonly"));
    }
    if from.recursive_read_only && propagation != Propagation::Private {
        return Err(invalid("recursive_read_only", "needs PROPAGATION_PRIVATE"));
    }
    Ok(Mount {
        container_path: destination,
        host_path: host_path("host_path", &from.host_path)?,
        readonly: from.readonly,
        recursive_readonly: from.recursive_read_only,
        selinux_relabel: from.selinux_relabel,
        propagation,
    })
}

/// A mount as a status shows it.
pub(crate) fn show_mount(from: &Mount) -> v1::Mount {
    let propagation = match from.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: from.container_path.to_string_lossy().into_owned(),
        host_path: from.host_path.to_string_lossy().into_owned(),
        readonly: from.readonly,
        recursive_read_only: from.recursive_readonly,
        selinux_relabel: from.selinux_relabel,
        propagation: propagation.into(),
        ..v1::Mount::default()
    }
}

fn devices(from: Vec<v1::Device>) -> Checked<Vec<Device>> {
    let one = |(index, from): (usize, v1::Device)| {
        device(from).map_err(|error: Invalid| error.within(&format!("devices[{index}]")))
    };
    from.into_iter().enumerate().map(one).collect()
}

fn device(from: v1::Device) -> Checked<Device> {
    let known = from.permissions.bytes().all(|byte| b"rwm".contains(&byte));
    if !known || from.permissions.len() > 3 {
        let problem = format!("{:?} is not made of r, w and m", from.permissions);
        return Err(invalid("permissions", problem));
    }
    Ok(Device {
        container_path: container_path("container_path", &from.container_path)?,
        host_path: host_path("host_path", &from.host_path)?,
        permissions: if from.permissions.is_empty() {
            "rwm".into()
        } else {
            from.permissions
        },
    })
}
