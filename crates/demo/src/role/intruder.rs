//! The intruder: a registered workload with an SVID, that policy gives no right to anything.

use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::SpiffeId;
use countersign_mesh::Reason;
use countersign_tests::attacker::{self, Attacker};
use http::Response;

use super::part::Part;
use crate::event::{By, Client, Event, Made, Outcome};
use crate::script::Name;

const PATH: &str = "/reviews";

/// Tries to have the reviewer approve something: through the library, and then by hand.
pub(super) async fn intrude(part: &Arc<Part>) -> anyhow::Result<()> {
    let reviewer = part.client(Name::Reviewer)?;
    part.call(reviewer, PATH, Bytes::new()).await?;

    let attacker = Attacker::join(part.endpoint(), &part.name().id()).await?;
    let callee = SpiffeId::parse(&Name::Reviewer.id())?;
    let place = part.place(Name::Reviewer)?.to_string();
    let response = attacker
        .call(&attacker.start()?, &callee, &place, PATH, Bytes::new())
        .await?;
    part.tell(&Event::Made(Made {
        members: part.members(),
        callee: callee.to_string(),
        action: format!("POST {PATH}"),
        client: Client::HandMade,
        outcome: read(&response),
    }));
    Ok(())
}

/// What a callee's answer to a call by hand says.
pub(super) fn read(response: &Response<Bytes>) -> Outcome {
    match attacker::reason(response) {
        Some(reason) => Outcome::Refused {
            reason: reason.to_owned(),
            by: By::Callee,
            sentence: Reason::from_wire(reason).sentence().to_owned(),
        },
        None if response.status().is_success() => Outcome::Answered,
        None => Outcome::Failed {
            why: format!("the answer was {}", response.status()),
        },
    }
}
