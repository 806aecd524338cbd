//! The intruder: a registered workload with an SVID, to which the policy gives no right to anything.

use axum::body::Bytes;

use super::agent::Agent;
use crate::script::Name;

/// Tries to call the reviewer: through the library, and then by hand.
pub(super) async fn intrude(agent: &Agent) -> anyhow::Result<()> {
    let reviewer = agent.client(Name::Reviewer)?;
    agent.call(reviewer, "/reviews", Bytes::new()).await;
    let own_chain = |attacker: &countersign_attacker::Attacker| Ok(attacker.start()?);
    agent
        .call_by_hand(Name::Reviewer, "/reviews", own_chain)
        .await
}
