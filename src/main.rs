//! `thawd`: the daemon. Wiring only: flags, configuration, logs, the node, the server, the end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use thawd::config::{Config, Flags};
use tokio::signal::unix::{SignalKind, signal};

/// How long work that is under way may hold the daemon's end up.
const END: Duration = Duration::from_secs(10);

/// A Kubernetes container runtime (CRI v1) built around checkpoint and restore.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file [default: /etc/thawd/config.toml, which may be absent].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of persistent files [default: /var/lib/thawd].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of volatile files [default: /run/thawd].
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Address of the CRI socket [default: unix://RUN/thawd.sock].
    #[arg(long, value_name = "unix:///PATH")]
    listen: Option<String>,
    /// Log filter, for instance "debug" or "info,lifecycle=debug" [default: info].
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let flags = Flags {
        config: arguments.config,
        root: arguments.root,
        run: arguments.run,
        listen: arguments.listen,
        log_level: arguments.log_level,
    };
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing is left to do when standard error is gone too.
            drop(writeln!(std::io::stderr(), "thawd: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let config = Config::load(flags)?;
    thawd::telemetry::start(&config.log_level, config.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let result = runtime.block_on(serve(config));
    // Threads that still wait for a program are left to it; the next start finds what it did.
    runtime.shutdown_timeout(END);
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    let node = lifecycle::node::Node::start(config.node)
        .await
        .context("start")?;
    tracing::info!(socket = %config.socket.display(), "serving CRI v1");
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: ending, containers go on"),
            _ = interrupt.recv() => tracing::info!("SIGINT: ending, containers go on"),
        }
    };
    cri_server::serve(node.clone(), &config.socket, end)
        .await
        .with_context(|| format!("serve on {}", config.socket.display()))?;
    node.shut_down().await;
    tracing::info!("ended");
    Ok(())
}
