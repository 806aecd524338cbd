//! `token generate`.

use clap::{Args, Subcommand};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;

use crate::client::CallFlags;
use crate::error::CommandError;
use crate::{flag, json};

/// Verbs on join tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Generates a join token
    #[command(
        after_help = "Example: a token for one node agent, which also gets a name of its own\n  \
        countersign-server token generate -spiffeID spiffe://example.org/node1 -ttl 600\n\
        Then, on that node:\n  countersign-agent run -config agent.conf -joinToken TOKEN"
    )]
    Generate(GenerateToken),
}

/// `token generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateToken {
    /// Additional SPIFFE ID to assign to the token's owner (optional)
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// How long the token can be used, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    ttl: i32,
    #[command(flatten)]
    flags: CallFlags,
}

impl TokenVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Generate(generate) = self;
        generate.run(printer).await
    }
}

impl GenerateToken {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let spiffe_id = flag::given(self.spiffe_id);
        let agent_id = spiffe_id.as_deref().map(flag::spiffe_id).transpose()?;
        let client = self.flags.connect().await?;
        let request = CreateJoinTokenRequest {
            ttl: self.ttl,
            token: String::new(),
            agent_id,
        };
        let token = client
            .call(client.agent().create_join_token(request))
            .await?;
        if self.flags.json() {
            return Ok(json::print(printer, &token)?);
        }
        printer.line(format_args!("Token: {}", token.value));
        if spiffe_id.is_none() {
            printer.line("Warning: Missing SPIFFE ID.");
        }
        Ok(())
    }
}
