//! CRI over the daemon's socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use cri_server::v1;
use cri_server::v1::image_service_client::ImageServiceClient;
use cri_server::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

/// Time for one call; an import copies and unpacks layers.
const CALL: Duration = Duration::from_secs(1800);

/// A connection to the daemon.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Client {
    /// Connects to `address`.
    pub(crate) fn connect(address: &str) -> anyhow::Result<Self> {
        let socket = thawd::config::socket_path(address)?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let channel = runtime
            .block_on(endpoint.connect())
            .with_context(|| format!("connect to thawd at {address} (is it running? --address or THAWD_ADDRESS name another socket)"))?;
        Ok(Self { runtime, channel })
    }

    /// The daemon's root directory, as its verbose status tells.
    pub(crate) fn root(&self) -> anyhow::Result<PathBuf> {
        let mut client = RuntimeServiceClient::new(self.channel.clone());
        let request = v1::StatusRequest { verbose: true };
        let answer = self.runtime.block_on(client.status(request))?.into_inner();
        for text in answer.info.values() {
            let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            if let Some(root) = value
                .get("rootDirectory")
                .and_then(serde_json::Value::as_str)
            {
                return Ok(PathBuf::from(root));
            }
        }
        Err(anyhow!(
            "the daemon does not tell its root directory: it is no thawd"
        ))
    }

    /// Lets the daemon take a prepared import in; returns the image's id.
    pub(crate) fn pull(&self, name: &str) -> anyhow::Result<String> {
        let mut client = ImageServiceClient::new(self.channel.clone());
        let image = v1::ImageSpec {
            image: name.to_owned(),
            ..v1::ImageSpec::default()
        };
        let mut request = tonic::Request::new(v1::PullImageRequest {
            image: Some(image),
            ..v1::PullImageRequest::default()
        });
        request.set_timeout(CALL);
        let answer = self.runtime.block_on(client.pull_image(request));
        let answer = answer.map_err(|status| anyhow!("{}: {}", status.code(), status.message()))?;
        Ok(answer.into_inner().image_ref)
    }
}
