//! The server's command line: SPIRE's verbs, flags and printed text.
//!
//! `run` and `validate` read the configuration; every other verb is a client of the running server's admin socket. All
//! printing goes through one [`Printer`], so that tests read what people read.

mod agent;
mod authority;
mod bundle;
mod client;
mod debug;
mod entry;
mod error;
mod federation;
mod flag;
mod health;
mod input;
mod json;
mod logger;
mod mint;
mod pem;
mod run;
mod token;
mod upstream_authority;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use countersign_daemon::cli::{Exit, Printer};

use error::CommandError;

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
    /// Determines server health status
    Healthcheck(health::Healthcheck),
    /// Join tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Registration entries
    #[command(subcommand)]
    Entry(entry::EntryVerb),
    /// Attested node agents
    #[command(subcommand)]
    Agent(agent::AgentVerb),
    /// Trust bundles
    #[command(subcommand)]
    Bundle(bundle::BundleVerb),
    /// The server's log
    #[command(subcommand)]
    Logger(logger::LoggerVerb),
    /// JWT-SVIDs
    #[command(subcommand)]
    Jwt(mint::JwtVerb),
    /// X.509-SVIDs
    #[command(subcommand)]
    X509(mint::X509Verb),
    /// This server's own authorities, rotated by hand
    #[command(name = "localauthority", subcommand)]
    LocalAuthority(authority::LocalAuthority),
    /// X.509 authorities above this server's
    #[command(name = "upstreamauthority", subcommand)]
    UpstreamAuthority(upstream_authority::UpstreamAuthorityVerb),
    /// What the server knows of itself
    #[command(subcommand)]
    Debug(debug::DebugVerb),
    /// Relationships with foreign trust domains
    #[command(subcommand)]
    Federation(federation::FederationVerb),
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
    let arguments: Arguments = match countersign_daemon::cli::parse(args, printer) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match arguments.verb {
        Verb::Run(run) => run.execute(printer),
        Verb::Validate(validate) => validate.execute(printer),
        verb => ask(verb, printer),
    }
}

/// Runs a verb that is a client of the server.
fn ask(verb: Verb, printer: &mut Printer) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.error(&error);
            return printer.exit(Exit::Failure);
        }
    };
    match runtime.block_on(ask_server(verb, printer)) {
        Ok(()) => printer.exit(Exit::Success),
        Err(error) => {
            printer.error_text(&format!("Error: {}\n", error.told()));
            printer.exit(Exit::Failure)
        }
    }
}

async fn ask_server(verb: Verb, printer: &mut Printer) -> Result<(), CommandError> {
    match verb {
        // These two are no clients; `execute` has taken them.
        Verb::Run(_) | Verb::Validate(_) => Ok(()),
        Verb::Healthcheck(verb) => verb.run(printer).await,
        Verb::Token(verb) => verb.run(printer).await,
        Verb::Entry(verb) => verb.run(printer).await,
        Verb::Agent(verb) => verb.run(printer).await,
        Verb::Bundle(verb) => verb.run(printer).await,
        Verb::Logger(verb) => verb.run(printer).await,
        Verb::Jwt(verb) => verb.run(printer).await,
        Verb::X509(verb) => verb.run(printer).await,
        Verb::LocalAuthority(verb) => verb.run(printer).await,
        Verb::UpstreamAuthority(verb) => verb.run(printer).await,
        Verb::Debug(verb) => verb.run(printer).await,
        Verb::Federation(verb) => verb.run(printer).await,
    }
}

#[cfg(test)]
mod tests;
