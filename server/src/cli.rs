//! The server's command line: `run` and `validate`, which read the configuration, and the administration verbs of
//! `countersign-server-cli`, which are clients of the running server's admin socket.

mod run;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use countersign_daemon::cli::{self, Printer};
use countersign_server_cli::AdminVerb;

#[derive(Debug, Parser)]
#[command(
    name = "countersign-server",
    version,
    about = "Attests node agents, keeps registration entries and issues X.509-SVIDs.",
    after_help = "Start with:\n  countersign-server run -config server.conf\n\
                  then, beside it:\n  countersign-server token generate -spiffeID spiffe://example.org/node\n  \
                  countersign-server entry create -h\n\n\
                  Flags may be written with one dash, as SPIRE does, or with two."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the server
    Run(run::Run),
    /// Validates a server configuration file
    Validate(run::Validate),
    #[command(flatten)]
    Admin(AdminVerb),
}

/// The verbs and flags, for whoever lists them.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program with these arguments, the first of which is its name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    execute(args, &mut Printer::stdio())
}

fn execute(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> ExitCode {
    cli::execute(args, printer, |Arguments { verb }, printer| match verb {
        Verb::Run(run) => run.execute(printer),
        Verb::Validate(validate) => validate.execute(printer),
        Verb::Admin(verb) => verb.execute(printer),
    })
}

#[cfg(test)]
mod tests;
