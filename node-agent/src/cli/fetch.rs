//! `api fetch x509`, which `api fetch` means too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spiffe::workload::X509svidResponse;
use countersign_transport::file::{PRIVATE, PUBLIC, write_atomically};
use countersign_transport::{Clock as _, SystemClock};
use tokio::time::Instant;

use super::error::CommandError;
use super::jwt::FetchJwt;
use super::socket::SocketFlag;
use super::svids::{FetchedSvids, json};
use crate::pem;

/// `api fetch`.
#[derive(Debug, Args)]
pub(super) struct Fetch {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    flags: FetchX509,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Fetches X509 SVIDs from the Workload API
    X509(FetchX509),
    /// Fetches a JWT SVID from the Workload API
    Jwt(FetchJwt),
}

#[derive(Debug, Args)]
#[command(
    after_help = "What is fetched is what this very process is entitled to. To see it, and to write it to files:\n  \
    countersign-agent api fetch x509\n  \
    countersign-agent api fetch x509 -write /tmp/svids -silent"
)]
struct FetchX509 {
    #[command(flatten)]
    socket: SocketFlag,
    /// Time to wait for a response
    #[arg(long, default_value = "5s", value_parser = countersign_config::parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// Suppress stdout
    #[arg(long)]
    silent: bool,
    /// Write SVID data to the specified path (optional)
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Fetch {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self.what {
            Some(What::X509(flags)) => flags.run(printer).await,
            Some(What::Jwt(verb)) => verb.run(printer).await,
            None => self.flags.run(printer).await,
        }
    }
}

impl FetchX509 {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let start = Instant::now();
        let asked = tokio::time::timeout(self.timeout, self.ask()).await;
        let response = asked.map_err(|_| CommandError::TimedOut(self.timeout))??;
        let after = start.elapsed();
        let answer = FetchedSvids::new(&response, SystemClock.now())?;
        let pretty = self.output.output == Output::Pretty;
        match (self.silent, pretty) {
            (true, _) => {}
            (false, true) => answer.print(printer, after),
            (false, false) => printer.line(json(&response)),
        }
        if let Some(directory) = &self.write {
            let mut told = |what: String| {
                if pretty && !self.silent {
                    printer.line(what);
                }
            };
            write(&answer, directory, &mut told)?;
        }
        Ok(())
    }

    async fn ask(&self) -> Result<X509svidResponse, CommandError> {
        let mut answers = self.socket.connect().await?.x509_svids().await?;
        answers.message().await?.ok_or(CommandError::Ended)
    }
}

/// The files that SPIRE writes: `svid.N.pem`, `svid.N.key`, `bundle.N.pem`, `federated_bundle.N.M.pem`.
fn write(
    answer: &FetchedSvids,
    directory: &Path,
    told: &mut impl FnMut(String),
) -> Result<(), CommandError> {
    if !directory.is_dir() {
        return Err(CommandError::NoDirectory(directory.to_owned()));
    }
    for (number, fetched) in answer.svids.iter().enumerate() {
        let path = directory.join(format!("svid.{number}.pem"));
        told(format!(
            "Writing SVID #{number} to file {}.",
            path.display()
        ));
        write_atomically(
            &path,
            pem::certificates(fetched.svid.chain()).as_bytes(),
            PUBLIC,
        )?;

        let path = directory.join(format!("svid.{number}.key"));
        told(format!("Writing key #{number} to file {}.", path.display()));
        write_atomically(
            &path,
            pem::private_key(&fetched.svid.key().to_pkcs8()).as_bytes(),
            PRIVATE,
        )?;

        let path = directory.join(format!("bundle.{number}.pem"));
        told(format!(
            "Writing bundle #{number} to file {}.",
            path.display()
        ));
        let bundle = pem::certificates(fetched.bundle.iter().map(|a| a.der()));
        write_atomically(&path, bundle.as_bytes(), PUBLIC)?;

        for (index, (td, authorities)) in answer.federated.iter().enumerate() {
            let path = directory.join(format!("federated_bundle.{number}.{index}.pem"));
            told(format!(
                "Writing federated bundle #{index} for trust domain {td} to file {}.",
                path.display()
            ));
            write_atomically(
                &path,
                pem::certificates(authorities.iter().map(|a| a.der())).as_bytes(),
                PUBLIC,
            )?;
        }
    }
    Ok(())
}
