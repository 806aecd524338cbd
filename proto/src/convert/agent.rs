//! Attested nodes, which the wire calls agents.

use countersign_identity::node::Credential;
use countersign_identity::{Node, UnixTime};

use super::selector;
use crate::spire::api::types;

impl From<&Node> for types::Agent {
    /// Of a banned node the serial number is empty and the expiry 0.
    fn from(node: &Node) -> Self {
        let Node {
            id,
            attestation_type,
            current,
            pending: _,
            can_reattest,
            selectors,
            agent_version,
        } = node;
        let (serial, expires_at) = match current {
            Some(Credential { serial, expires_at }) => (serial.clone(), *expires_at),
            None => (String::new(), UnixTime::default()),
        };
        Self {
            id: Some(id.into()),
            attestation_type: attestation_type.clone(),
            x509svid_serial_number: serial,
            x509svid_expires_at: expires_at.as_i64(),
            selectors: selector::to_wire(selectors),
            banned: node.is_banned(),
            can_reattest: *can_reattest,
            agent_version: agent_version.clone(),
        }
    }
}

/// Keeps the fields that are asked for, and the ID; all of them if there is no mask.
#[must_use]
pub fn masked(agent: types::Agent, mask: Option<&types::AgentMask>) -> types::Agent {
    let Some(mask) = mask else { return agent };
    let types::AgentMask {
        attestation_type,
        x509svid_serial_number,
        x509svid_expires_at,
        selectors,
        banned,
        can_reattest,
        agent_version,
    } = *mask;
    types::Agent {
        id: agent.id,
        attestation_type: kept(attestation_type, agent.attestation_type),
        x509svid_serial_number: kept(x509svid_serial_number, agent.x509svid_serial_number),
        x509svid_expires_at: kept(x509svid_expires_at, agent.x509svid_expires_at),
        selectors: kept(selectors, agent.selectors),
        banned: banned && agent.banned,
        can_reattest: can_reattest && agent.can_reattest,
        agent_version: kept(agent_version, agent.agent_version),
    }
}

fn kept<T: Default>(wanted: bool, value: T) -> T {
    if wanted { value } else { T::default() }
}

#[cfg(test)]
mod tests {
    use countersign_identity::{Selector, SpiffeId};

    use super::*;

    fn node() -> Node {
        Node {
            id: SpiffeId::parse("spiffe://td/spire/agent/join_token/t").unwrap(),
            attestation_type: "join_token".into(),
            current: Some(Credential {
                serial: "17".into(),
                expires_at: UnixTime::from_secs(9),
            }),
            pending: Some(Credential {
                serial: "18".into(),
                expires_at: UnixTime::from_secs(99),
            }),
            can_reattest: true,
            selectors: [Selector::new("a", "b").unwrap()].into_iter().collect(),
            agent_version: "1.2".into(),
        }
    }

    fn wire() -> types::Agent {
        types::Agent {
            id: Some(types::Spiffeid {
                trust_domain: "td".into(),
                path: "/spire/agent/join_token/t".into(),
            }),
            attestation_type: "join_token".into(),
            x509svid_serial_number: "17".into(),
            x509svid_expires_at: 9,
            selectors: vec![types::Selector {
                r#type: "a".into(),
                value: "b".into(),
            }],
            banned: false,
            can_reattest: true,
            agent_version: "1.2".into(),
        }
    }

    #[test]
    fn a_node_shows_its_current_svid() {
        assert_eq!(types::Agent::from(&node()), wire());
        let banned = types::Agent::from(&Node {
            current: None,
            ..node()
        });
        assert!(banned.banned && banned.x509svid_serial_number.is_empty());
    }

    #[test]
    fn a_mask_keeps_what_it_names_and_the_id() {
        assert_eq!(masked(wire(), None), wire());
        let id = types::Agent {
            id: wire().id,
            ..Default::default()
        };
        assert_eq!(masked(wire(), Some(&types::AgentMask::default())), id);
        let mask = types::AgentMask {
            selectors: true,
            ..Default::default()
        };
        let want = types::Agent {
            selectors: wire().selectors,
            ..id
        };
        assert_eq!(masked(wire(), Some(&mask)), want);
    }
}
