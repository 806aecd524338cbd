//! The server's administration verbs: SPIRE's verbs, flags and printed text.
//!
//! Every verb here is a client of a running server's admin socket, so this crate knows the API and not the server.
//! `run` and `validate`, which read the server's configuration, are in the server, whose command line contains these
//! verbs. All printing goes through one [`Printer`], so that tests read what people read.

mod agent;
mod authority;
mod batch;
mod bundle;
mod bundle_data;
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
mod page;
mod pem;
mod relationship;
mod token;
mod upstream_authority;

use std::process::ExitCode;

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};
use countersign_daemon::cli::{Exit, Printer};

use error::CommandError;

/// One administration verb with its flags, to be flattened into the verbs of a command line.
#[derive(Debug)]
pub struct AdminVerb(Verb);

#[derive(Debug, Subcommand)]
enum Verb {
    /// Determines server health status
    Healthcheck(health::Healthcheck),
    /// Join tokens
    #[command(subcommand)]
    Token(token::TokenVerb),
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
    Jwt(mint::MintJwtVerb),
    /// X.509-SVIDs
    #[command(subcommand)]
    X509(mint::MintX509Verb),
    /// This server's own authorities, rotated by hand
    #[command(name = "localauthority", subcommand)]
    LocalAuthority(authority::LocalAuthorityVerb),
    /// The upstream authorities of this server
    #[command(name = "upstreamauthority", subcommand)]
    UpstreamAuthority(upstream_authority::UpstreamAuthorityVerb),
    /// What the server knows about itself
    #[command(subcommand)]
    Debug(debug::DebugVerb),
    /// Relationships with foreign trust domains
    #[command(subcommand)]
    Federation(federation::FederationVerb),
}

// Written out, since deriving would make every verb's flags part of this crate's interface.
impl FromArgMatches for AdminVerb {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Verb::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Subcommand for AdminVerb {
    fn augment_subcommands(command: Command) -> Command {
        Verb::augment_subcommands(command)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Verb::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Verb::has_subcommand(name)
    }
}

impl AdminVerb {
    /// Calls the server and prints its answer.
    pub fn execute(self, printer: &mut Printer) -> ExitCode {
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
        match runtime.block_on(self.0.run(printer)) {
            Ok(()) => printer.exit(Exit::Success),
            Err(error) => {
                printer.error(&error);
                printer.exit(Exit::Failure)
            }
        }
    }
}

impl Verb {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Healthcheck(verb) => verb.run(printer).await,
            Self::Token(verb) => verb.run(printer).await,
            Self::Entry(verb) => verb.run(printer).await,
            Self::Agent(verb) => verb.run(printer).await,
            Self::Bundle(verb) => verb.run(printer).await,
            Self::Logger(verb) => verb.run(printer).await,
            Self::Jwt(verb) => verb.run(printer).await,
            Self::X509(verb) => verb.run(printer).await,
            Self::LocalAuthority(verb) => verb.run(printer).await,
            Self::UpstreamAuthority(verb) => verb.run(printer).await,
            Self::Debug(verb) => verb.run(printer).await,
            Self::Federation(verb) => verb.run(printer).await,
        }
    }
}
