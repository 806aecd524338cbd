//! The command line: SPIRE's verbs, flags and printed text.
//!
//! `run` and `validate` read the configuration; the other verbs are clients of the Workload API, as workloads are. All
//! printing goes through one [`Printer`], so that tests see the same output as users.

mod admin;
mod error;
mod fetch;
mod healthcheck;
mod jwt;
mod run;
mod socket;
mod svids;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use countersign_daemon::cli::{self, Exit, Printer};

use error::CommandError;

#[derive(Debug, Parser)]
#[command(
    name = "countersign-agent",
    version,
    about = "Attests its node to a server and serves X.509-SVIDs to the workloads on it.",
    after_help = "Start with a join token from `countersign-server token generate`:\n  \
                  countersign-agent run -config agent.conf -joinToken TOKEN\n\
                  then see what a process of yours gets:\n  \
                  countersign-agent api fetch x509\n\n\
                  Flags may be written with one dash, as SPIRE does, or with two."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the agent
    Run(Box<run::Run>),
    /// Validates an agent configuration file
    Validate(Box<run::Validate>),
    /// Determines agent health status
    Healthcheck(healthcheck::Healthcheck),
    /// Asks the Workload API as a workload does
    #[command(subcommand)]
    Api(Api),
    /// The level of the node agent's log
    #[command(subcommand)]
    Logger(admin::LoggerVerb),
    /// What the node agent knows of itself
    #[command(subcommand)]
    Debug(admin::DebugVerb),
}

#[derive(Debug, Subcommand)]
enum Api {
    /// Fetches SVIDs from the Workload API
    #[command(args_conflicts_with_subcommands = true)]
    Fetch(fetch::Fetch),
    /// Validates SVIDs of others
    #[command(subcommand)]
    Validate(jwt::ValidateVerb),
    /// Attaches to the Workload API and prints updates as they're received
    Watch(watch::Watch),
}

/// The verbs and flags.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program with these arguments, the first of which is its name.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    execute(args, &mut Printer::stdio())
}

fn execute(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> ExitCode {
    cli::execute(args, printer, |Arguments { verb }, printer| match verb {
        Verb::Run(run) => run.execute(printer),
        Verb::Validate(validate) => validate.execute(printer),
        Verb::Healthcheck(verb) => ask(verb.run(printer)).report(printer),
        Verb::Api(Api::Fetch(verb)) => ask(verb.run(printer)).report(printer),
        Verb::Api(Api::Validate(jwt::ValidateVerb::Jwt(verb))) => {
            ask(verb.run(printer)).report(printer)
        }
        Verb::Api(Api::Watch(verb)) => ask(verb.run(printer)).report(printer),
        Verb::Logger(verb) => ask(verb.run(printer)).report(printer),
        Verb::Debug(verb) => ask(verb.run(printer)).report(printer),
    })
}

/// The result of a client command.
struct Outcome(Result<(), CommandError>);

impl Outcome {
    fn report(self, printer: &mut Printer) -> ExitCode {
        match self.0 {
            Ok(()) => printer.exit(Exit::Success),
            Err(error) => {
                printer.error_text(&format!("{error}\n"));
                printer.exit(Exit::Failure)
            }
        }
    }
}

fn ask(command: impl Future<Output = Result<(), CommandError>>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    Outcome(
        runtime
            .map_err(CommandError::Runtime)
            .and_then(|runtime| runtime.block_on(command)),
    )
}

#[cfg(test)]
mod tests;
