//! `agent purge`: evicts agents that expired long ago.

use std::time::Duration;

use clap::Args;
use countersign_config::parse_duration;
use countersign_daemon::cli::Printer;
use countersign_identity::UnixTime;
use countersign_proto::spire::api::server::agent::v1::{
    DeleteAgentRequest, ListAgentsRequest, list_agents_request,
};
use countersign_proto::spire::api::types;
use countersign_transport::error::Chain;
use countersign_transport::{Clock as _, SystemClock};

use crate::client::{CallFlags, Client};
use crate::error::{CommandError, During as _};
use crate::flag::{id_text, plural};

/// `agent purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeAgents {
    /// Amount of time that has passed since the agent's SVID has expired. It is used to determine which agents to purge
    #[arg(long = "expiredFor", value_name = "DURATION", default_value = "720h0m0s", value_parser = parse_duration)]
    expired_for: Duration,
    /// Indicates that the command will not perform any action, but will print the agents that would be purged
    #[arg(long = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    flags: CallFlags,
}

/// What became of an agent that has been expired for long enough.
struct Purged {
    id: String,
    deleted: bool,
    error: Option<String>,
}

impl PurgeAgents {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let client = self.flags.connect().await?;
        let due = self.due(&client).await?;
        let mut outcomes = Vec::with_capacity(due.len());
        for agent in due {
            let mut outcome = Purged {
                id: id_text(agent.id.as_ref()),
                deleted: false,
                error: None,
            };
            if !self.dry_run {
                let request = DeleteAgentRequest { id: agent.id };
                match client.call(client.agent().delete_agent(request)).await {
                    Ok(()) => outcome.deleted = true,
                    Err(error) => outcome.error = Some(Chain(&error).to_string()),
                }
            }
            outcomes.push(outcome);
        }
        if self.flags.json() {
            printer.line(to_json(&outcomes));
        } else {
            self.print(printer, &outcomes);
        }
        Ok(())
    }

    /// The agents that can attest again and have been expired for long enough. Banned ones stay: evicting them would
    /// lift the ban.
    async fn due(&self, client: &Client) -> Result<Vec<types::Agent>, CommandError> {
        let request = ListAgentsRequest {
            filter: Some(list_agents_request::Filter {
                by_can_reattest: Some(true),
                by_banned: Some(false),
                ..Default::default()
            }),
            output_mask: Some(types::AgentMask {
                x509svid_expires_at: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let listed = client.call(client.agent().list_agents(request)).await;
        let mut agents = listed.during("failed to list agents")?.agents;
        let now = SystemClock.now();
        agents.retain(|agent| {
            let expired = UnixTime::from_i64(agent.x509svid_expires_at);
            now.since(expired) > self.expired_for
        });
        Ok(agents)
    }

    fn print(&self, printer: &mut Printer, outcomes: &[Purged]) {
        if outcomes.is_empty() {
            printer.line("No agents to purge.");
            return;
        }
        let found = plural(outcomes.len(), "expired agent", "expired agents");
        printer.line(format_args!("Found {found}\n"));
        let id = |printer: &mut Printer, outcome: &Purged| {
            printer.line(format_args!("SPIFFE ID         : {}", outcome.id));
        };
        if self.dry_run {
            printer.line("\nAgents that can be purged:");
            outcomes.iter().for_each(|outcome| id(printer, outcome));
            return;
        }
        if outcomes.iter().any(|outcome| outcome.deleted) {
            printer.line("Agents purged:");
            let purged = outcomes.iter().filter(|outcome| outcome.deleted);
            purged.for_each(|outcome| id(printer, outcome));
        }
        if outcomes.iter().any(|outcome| outcome.error.is_some()) {
            printer.line("Agents not purged:");
        }
        for outcome in outcomes {
            if let Some(error) = &outcome.error {
                id(printer, outcome);
                printer.line(format_args!("Error             : {error}"));
            }
        }
    }
}

fn to_json(outcomes: &[Purged]) -> serde_json::Value {
    let agents = outcomes.iter().map(|outcome| {
        let mut agent = serde_json::json!({ "agent_id": outcome.id, "deleted": outcome.deleted });
        if let (Some(error), Some(fields)) = (&outcome.error, agent.as_object_mut()) {
            fields.insert("error".into(), error.clone().into());
        }
        agent
    });
    serde_json::json!({ "expired_agents": agents.collect::<Vec<_>>() })
}
