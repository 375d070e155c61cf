//! Conditions of list requests.

use lifecycle::model::{ContainerFilter, ContainerPhase, SandboxFilter, SandboxPhase};

use super::check::{Checked, enumeration, labels};
use crate::v1;

/// Which sandboxes to list.
pub(crate) fn sandboxes(from: Option<v1::PodSandboxFilter>) -> Checked<SandboxFilter> {
    let from = from.unwrap_or_default();
    let phase = |state: v1::PodSandboxStateValue| {
        Ok(match enumeration("filter.state.state", state.state)? {
            v1::PodSandboxState::SandboxReady => SandboxPhase::Ready,
            v1::PodSandboxState::SandboxNotready => SandboxPhase::NotReady,
        })
    };
    Ok(SandboxFilter {
        id: some(from.id),
        phase: from.state.map(phase).transpose()?,
        labels: labels("filter.label_selector", from.label_selector)?,
    })
}

/// Which containers to list.
pub(crate) fn containers(from: Option<v1::ContainerFilter>) -> Checked<ContainerFilter> {
    let from = from.unwrap_or_default();
    let phase = |state: v1::ContainerStateValue| {
        Ok(match enumeration("filter.state.state", state.state)? {
            v1::ContainerState::ContainerCreated => ContainerPhase::Created,
            v1::ContainerState::ContainerRunning => ContainerPhase::Running,
            v1::ContainerState::ContainerExited => ContainerPhase::Exited,
            v1::ContainerState::ContainerUnknown => ContainerPhase::Unknown,
        })
    };
    Ok(ContainerFilter {
        id: some(from.id),
        sandbox_id: some(from.pod_sandbox_id),
        phase: from.state.map(phase).transpose()?,
        labels: labels("filter.label_selector", from.label_selector)?,
    })
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
