//! `thaw`: the command line for people. It reads archives itself, and otherwise speaks CRI to the
//! daemon; there is no private API between the two.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[path = "thaw/archive.rs"]
mod archive;
#[path = "thaw/client.rs"]
mod client;
#[path = "thaw/image.rs"]
mod image;

/// Looks into checkpoints, and loads images into thawd.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address of thawd's socket.
    #[arg(long, global = true, env = "THAWD_ADDRESS", default_value = thawd::config::DEFAULT_LISTEN)]
    address: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load images into the daemon, or make one of a checkpoint.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Show what is in a checkpoint archive.
    Inspect {
        /// The archive.
        archive: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read an archive as a stranger's and print one line for each thing that is wrong.
    ///
    /// The exit status is 0 when nothing is wrong and 1 otherwise.
    Verify {
        /// The archive.
        archive: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Load an OCI layout or docker-archive tar.
    Load {
        /// The file; "-" is standard input.
        file: PathBuf,
        /// Name the image NAME instead of what the file says; may be repeated.
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make an image whose one layer is a checkpoint archive, without a second copy of it.
    FromCheckpoint {
        /// The archive.
        archive: PathBuf,
        /// The image's name, for instance localhost/counter:frozen.
        name: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            use std::io::Write as _;
            // Nothing is left to do when standard error is gone too.
            let told = lifecycle::error::chain(error.as_ref());
            drop(writeln!(std::io::stderr(), "thaw: {told}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Image {
            command: ImageCommand::Load { file, names },
        } => {
            image::load(&arguments.address, &file, &names)?;
        }
        Command::Image {
            command: ImageCommand::FromCheckpoint { archive, name },
        } => {
            image::from_checkpoint(&arguments.address, &archive, &name)?;
        }
        Command::Inspect { archive, json } => archive::inspect(&archive, json)?,
        Command::Verify { archive } => return archive::verify(&archive),
    }
    Ok(ExitCode::SUCCESS)
}
