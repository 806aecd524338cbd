//! `agent list`, `show`, `count`, `evict`, `ban` and `purge`.

use clap::{Args, Subcommand, ValueEnum};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, list_agents_request,
};
use countersign_proto::spire::api::types;

use crate::client::CallFlags;
use crate::error::CommandError;
use crate::flag::{self, InvalidFlag, Match, go_time, id_text, plural, required_id};
use crate::{json, page};

mod purge;

/// Agents in one page; a page is well below the longest answer.
const PAGE_SIZE: i32 = 1000;
const ID_REQUIRED: &str = "a SPIFFE ID is required";
/// How `-expiresBefore` is written, as Go describes layouts.
const GO_LAYOUT: &str = "2006-01-02 15:04:05 -0700 -07";

/// Verbs on node agents.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentVerb {
    /// Lists attested agents and their SPIFFE IDs
    #[command(
        after_help = "Example: the agents that came with a join token and are not banned\n  \
        countersign-server agent list -attestationType join_token -banned false"
    )]
    List(FilterAgents),
    /// Shows the details of an attested agent given its SPIFFE ID
    #[command(
        after_help = "Example:\n  countersign-server agent show -spiffeID spiffe://example.org/spire/agent/join_token/TOKEN"
    )]
    Show(OneAgent),
    /// Counts attested agents
    #[command(
        after_help = "Example:\n  countersign-server agent count -attestationType join_token"
    )]
    Count(FilterAgents),
    /// Evicts an attested agent given its SPIFFE ID: it has to attest again, which also lifts a ban
    #[command(
        after_help = "Example:\n  countersign-server agent evict -spiffeID spiffe://example.org/spire/agent/join_token/TOKEN"
    )]
    Evict(OneAgent),
    /// Bans an attested agent given its SPIFFE ID: it gets nothing any more, and can't attest again
    #[command(
        after_help = "Example:\n  countersign-server agent ban -spiffeID spiffe://example.org/spire/agent/join_token/TOKEN\n\
        To lift the ban, evict the agent."
    )]
    Ban(OneAgent),
    /// Purges expired agents that were attested using a non-TOFU security model, based on a given time
    #[command(
        after_help = "Example: which agents would be purged that expired a week ago\n  \
        countersign-server agent purge -expiredFor 168h -dryRun\n\
        Only agents that can attest again are purged, and no banned ones, since evicting them would lift the ban."
    )]
    Purge(purge::PurgeAgents),
}

/// Which agents are meant.
#[derive(Debug, Args)]
pub(crate) struct FilterAgents {
    /// A colon-delimited type:value selector. Can be used more than once
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// The match mode used when filtering by selectors
    #[arg(long = "matchSelectorsOn", value_enum, default_value_t = Match::Superset, value_name = "MODE")]
    match_selectors_on: Match,
    /// Filter by attestation type, like join_token or x509pop
    #[arg(long = "attestationType", value_name = "TYPE")]
    attestation_type: Option<String>,
    /// Only agents that can (true) or can't (false) re-attest
    #[arg(long = "canReattest", value_enum, value_name = "BOOL")]
    can_reattest: Option<Tristate>,
    /// Only agents that are banned (true) or not (false)
    #[arg(long, value_enum, value_name = "BOOL")]
    banned: Option<Tristate>,
    /// Filter by expiration time (format: "2006-01-02 15:04:05 -0700 -07")
    #[arg(long = "expiresBefore", value_name = "TIME")]
    expires_before: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
}

/// The value of a filter that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tristate {
    True,
    False,
    /// No filter
    All,
}

/// The agent that is meant.
#[derive(Debug, Args)]
pub(crate) struct OneAgent {
    /// The SPIFFE ID of the agent (agent identity)
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
}

impl AgentVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::List(filter) => filter.list(printer).await,
            Self::Show(one) => one.show(printer).await,
            Self::Count(filter) => filter.count(printer).await,
            Self::Evict(one) => one.evict(printer).await,
            Self::Ban(one) => one.ban(printer).await,
            Self::Purge(purge) => purge.run(printer).await,
        }
    }
}

impl FilterAgents {
    async fn list(self, printer: &mut Printer) -> Result<(), CommandError> {
        let filter = self.to_filter()?;
        let client = self.flags.connect().await?;
        let mut agents = Vec::new();
        let list = async |page_token| {
            let request = ListAgentsRequest {
                filter: Some(filter.clone()),
                output_mask: None,
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = client.call(client.agent().list_agents(request)).await?;
            Ok((page.agents, page.next_page_token))
        };
        page::each(list, |page| agents.extend(page)).await?;
        if self.flags.json() {
            let all = ListAgentsResponse {
                agents,
                next_page_token: String::new(),
            };
            return Ok(json::print(printer, &all)?);
        }
        if agents.is_empty() {
            printer.line("No attested agents found");
            return Ok(());
        }
        printer.line(format_args!(
            "Found {}:\n",
            plural(agents.len(), "attested agent", "attested agents")
        ));
        agents.iter().for_each(|agent| print_agent(printer, agent));
        Ok(())
    }

    async fn count(self, printer: &mut Printer) -> Result<(), CommandError> {
        let filter = self.to_filter()?;
        let client = self.flags.connect().await?;
        let request = CountAgentsRequest {
            filter: Some(filter.into()),
        };
        let response = client.call(client.agent().count_agents(request)).await?;
        if self.flags.json() {
            return Ok(json::print(printer, &response)?);
        }
        let count = usize::try_from(response.count).unwrap_or_default();
        printer.line(plural(count, "attested agent", "attested agents"));
        Ok(())
    }

    fn to_filter(&self) -> Result<list_agents_request::Filter, CommandError> {
        let by_expires_before = self.expires_before.clone().unwrap_or_default();
        if !by_expires_before.is_empty() {
            check_go_time(&by_expires_before)?;
        }
        Ok(list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone().unwrap_or_default(),
            by_selector_match: flag::selector_match(&self.selectors, self.match_selectors_on)?,
            by_banned: to_bool(self.banned),
            by_can_reattest: to_bool(self.can_reattest),
            by_expires_before,
        })
    }
}

/// The server ignores a time that it can't read, so that a mistake would list everything: refused here.
fn check_go_time(text: &str) -> Result<(), InvalidFlag> {
    let format = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute] \
         [offset_hour sign:mandatory]"
    );
    match time::PrimitiveDateTime::parse(text, format) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidFlag::Time {
            text: text.to_owned(),
            layout: GO_LAYOUT,
        }),
    }
}

const fn to_bool(state: Option<Tristate>) -> Option<bool> {
    match state {
        Some(Tristate::True) => Some(true),
        Some(Tristate::False) => Some(false),
        Some(Tristate::All) | None => None,
    }
}

impl OneAgent {
    async fn show(self, printer: &mut Printer) -> Result<(), CommandError> {
        let request = GetAgentRequest {
            id: Some(required_id(self.spiffe_id, ID_REQUIRED)?),
            output_mask: None,
        };
        let client = self.flags.connect().await?;
        let agent = client.call(client.agent().get_agent(request)).await?;
        if self.flags.json() {
            return Ok(json::print(printer, &agent)?);
        }
        printer.line("Found an attested agent given its SPIFFE ID\n");
        print_agent(printer, &agent);
        for selector in &agent.selectors {
            printer.line(format_args!(
                "Selectors         : {}:{}",
                selector.r#type, selector.value
            ));
        }
        Ok(())
    }

    async fn evict(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = Some(required_id(self.spiffe_id, ID_REQUIRED)?);
        let client = self.flags.connect().await?;
        let request = DeleteAgentRequest { id };
        client.call(client.agent().delete_agent(request)).await?;
        report(printer, &self.flags, "Agent evicted successfully");
        Ok(())
    }

    async fn ban(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = Some(required_id(self.spiffe_id, ID_REQUIRED)?);
        let client = self.flags.connect().await?;
        let request = BanAgentRequest { id };
        client.call(client.agent().ban_agent(request)).await?;
        report(printer, &self.flags, "Agent banned successfully");
        Ok(())
    }
}

fn report(printer: &mut Printer, flags: &CallFlags, text: &str) {
    printer.line(if flags.json() { "{}" } else { text });
}

fn print_agent(printer: &mut Printer, agent: &types::Agent) {
    let mut field = |name: &str, value: &str| printer.line(format_args!("{name:<18}: {value}"));
    field("SPIFFE ID", &id_text(agent.id.as_ref()));
    field("Attestation type", &agent.attestation_type);
    field("Expiration time", &go_time(agent.x509svid_expires_at));
    if agent.banned {
        field("Banned", "true");
    } else {
        field("Serial number", &agent.x509svid_serial_number);
    }
    field("Can re-attest", &agent.can_reattest.to_string());
    if !agent.agent_version.is_empty() {
        field("Agent version", &agent.agent_version);
    }
    printer.line("");
}
