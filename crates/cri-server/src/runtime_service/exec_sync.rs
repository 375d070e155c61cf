//! `ExecSync`: runs a command in a container and waits for it.

use lifecycle::node::Node;
use tonic::Status;

use crate::convert::check::{Checked, id, invalid, no_nul};
use crate::convert::time::limit;
use crate::layer::{About, about};
use crate::{status, v1};

/// Most bytes of a stream in the answer: it and the other one share a message with the rest, and
/// what is over is dropped (CVE-2022-1708).
const STREAM_BYTES: usize = (16 << 20) - 4096;

pub(super) async fn call(
    node: &Node,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse, Status> {
    let container = id("container_id", request.container_id)?;
    about(About::Container, &container);
    let command = command(request.cmd)?;
    let timeout = limit("timeout", request.timeout)?;
    let output = node
        .exec_sync(&container, command, timeout)
        .await
        .map_err(|error| status::lifecycle(&error))?;
    let (mut stdout, mut stderr) = (output.stdout, output.stderr);
    stdout.truncate(STREAM_BYTES);
    stderr.truncate(STREAM_BYTES.saturating_sub(stdout.len()));
    Ok(v1::ExecSyncResponse {
        stdout,
        stderr,
        exit_code: output.exit_code.into(),
    })
}

fn command(words: Vec<String>) -> Checked<Vec<String>> {
    if words.first().is_none_or(String::is_empty) {
        return Err(invalid("cmd", "must name a program"));
    }
    for (index, word) in words.iter().enumerate() {
        no_nul(&format!("cmd[{index}]"), word)?;
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_a_program() {
        assert!(command(vec![]).is_err());
        assert!(command(vec![String::new(), "x".into()]).is_err());
        assert!(command(vec!["sh".into(), "a\0b".into()]).is_err());
        let words = vec!["sh".to_owned(), "-c".to_owned(), String::new()];
        assert_eq!(command(words.clone()), Ok(words));
    }
}
