//! A registration entry: the fields that the server sends to a node agent.

use countersign_identity::entry::{InvalidEntryId, MAX_HINT_LEN};
use countersign_identity::selector::InvalidSelector;
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{EntryId, SelectorSet, SpiffeId, TrustDomain};
use countersign_proto::convert::selector;
use countersign_proto::spire::api::types;

/// An entry that the server authorised for this node: only the fields of [`AuthorizedEntry::mask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedEntry {
    /// Unique in the trust domain.
    pub id: EntryId,
    /// The workload's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The selectors that a process must all have. Never empty.
    pub selectors: SelectorSet,
    /// Foreign trust domains whose bundles the workload gets as well.
    pub federates_with: Vec<TrustDomain>,
    /// Changes with each update of the entry.
    pub revision: i64,
    /// When the entry was created, in Unix seconds; 0 if the server did not send it.
    pub created_at: i64,
    /// Tells workloads with several SVIDs what this one is for; often empty.
    pub hint: String,
    /// How the SVID reaches the workload.
    pub delivery: Delivery,
    /// Whether the entry is `admin` or `downstream`: its SVID may administer the server or request a CA from it.
    /// Delegates never get such an SVID.
    pub privileged: bool,
}

/// How an entry's SVID reaches its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Over the Workload API, signed ahead of the first request.
    Prefetched,
    /// Over the Workload API, signed once a caller asks.
    OnDemand,
    /// By a store; never over the Workload API.
    Stored,
}

/// Why an entry from the server is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// Its ID.
    #[error("entry ID: {0}")]
    Id(#[from] InvalidEntryId),
    /// There is no SPIFFE ID.
    #[error("spiffe_id is missing")]
    SpiffeIdMissing,
    /// The SPIFFE ID is malformed.
    #[error("spiffe_id: {0}")]
    SpiffeId(InvalidId),
    /// There are no selectors, and an entry without any would match every process.
    #[error("selectors are missing")]
    SelectorsMissing,
    /// A selector is malformed.
    #[error("selector: {0}")]
    Selector(#[from] InvalidSelector),
    /// A trust domain is malformed.
    #[error("federates_with: {0}")]
    FederatesWith(InvalidId),
    /// The revision is negative.
    #[error("revision_number is negative")]
    Revision,
    /// The hint is too long.
    #[error("hint is longer than {MAX_HINT_LEN} bytes")]
    Hint,
}

impl AuthorizedEntry {
    /// Whether both look the same to callers. The revision does not count: callers see only the SVID signed for it.
    #[must_use]
    pub(crate) fn serves_like(&self, other: &Self) -> bool {
        *self
            == Self {
                revision: self.revision,
                ..other.clone()
            }
    }

    /// The requested fields (wire contract, D.2).
    #[must_use]
    pub(crate) const fn mask() -> types::EntryMask {
        types::EntryMask {
            spiffe_id: true,
            parent_id: false,
            selectors: true,
            x509_svid_ttl: false,
            federates_with: true,
            admin: true,
            downstream: true,
            expires_at: false,
            dns_names: false,
            revision_number: true,
            store_svid: true,
            jwt_svid_ttl: false,
            hint: true,
            created_at: true,
            additional_attributes: true,
        }
    }
}

impl TryFrom<types::Entry> for AuthorizedEntry {
    type Error = InvalidEntry;

    fn try_from(entry: types::Entry) -> Result<Self, InvalidEntry> {
        let types::Entry {
            id,
            spiffe_id,
            selectors,
            federates_with,
            revision_number,
            created_at,
            hint,
            store_svid,
            additional_attributes,
            admin,
            downstream,
            // Not requested, or of no use to a node agent.
            parent_id: _,
            x509_svid_ttl: _,
            expires_at: _,
            dns_names: _,
            jwt_svid_ttl: _,
        } = entry;
        if selectors.is_empty() {
            return Err(InvalidEntry::SelectorsMissing);
        }
        if revision_number < 0 {
            return Err(InvalidEntry::Revision);
        }
        if hint.len() > MAX_HINT_LEN {
            return Err(InvalidEntry::Hint);
        }
        let on_demand = additional_attributes.is_some_and(|a| a.disable_x509_svid_prefetch);
        Ok(Self {
            id: EntryId::new(&id)?,
            spiffe_id: spiffe_id
                .ok_or(InvalidEntry::SpiffeIdMissing)?
                .try_into()
                .map_err(InvalidEntry::SpiffeId)?,
            selectors: selector::set(selectors)?,
            federates_with: federates_with
                .iter()
                .map(|td| TrustDomain::from_name_or_id(td).map_err(InvalidEntry::FederatesWith))
                .collect::<Result<_, _>>()?,
            revision: revision_number,
            created_at,
            hint,
            delivery: match (store_svid, on_demand) {
                (true, _) => Delivery::Stored,
                (false, true) => Delivery::OnDemand,
                (false, false) => Delivery::Prefetched,
            },
            privileged: admin || downstream,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use countersign_identity::Selector;

    use super::*;

    pub(crate) fn wire(id: &str, selectors: &[&str]) -> types::Entry {
        types::Entry {
            id: id.into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: format!("/{id}"),
            }),
            selectors: selectors
                .iter()
                .map(|s| Selector::parse(s).unwrap())
                .map(|s| types::Selector {
                    r#type: s.kind().into(),
                    value: s.value().into(),
                })
                .collect(),
            ..Default::default()
        }
    }

    pub(crate) fn entry(id: &str, selectors: &[&str]) -> AuthorizedEntry {
        wire(id, selectors).try_into().unwrap()
    }

    fn refused(change: impl FnOnce(&mut types::Entry)) -> InvalidEntry {
        let mut wire = wire("a", &["unix:uid:1"]);
        change(&mut wire);
        AuthorizedEntry::try_from(wire).unwrap_err()
    }

    #[test]
    fn a_bad_field_spoils_the_whole_entry() {
        assert_eq!(
            refused(|e| e.id.clear()),
            InvalidEntry::Id(InvalidEntryId::Empty)
        );
        assert_eq!(
            refused(|e| e.spiffe_id = None),
            InvalidEntry::SpiffeIdMissing
        );
        assert_eq!(
            refused(|e| e.spiffe_id.as_mut().unwrap().path = "a".into()),
            InvalidEntry::SpiffeId(InvalidId::PathLeadingSlash)
        );
        assert_eq!(
            refused(|e| e.selectors.clear()),
            InvalidEntry::SelectorsMissing
        );
        assert_eq!(
            refused(|e| e.selectors[0].value.clear()),
            InvalidEntry::Selector(InvalidSelector::ValueMissing)
        );
        assert!(matches!(
            refused(|e| e.federates_with = vec!["A".into()]),
            InvalidEntry::FederatesWith(_)
        ));
        assert_eq!(refused(|e| e.revision_number = -1), InvalidEntry::Revision);
        assert_eq!(
            refused(|e| e.hint = "x".repeat(MAX_HINT_LEN + 1)),
            InvalidEntry::Hint
        );
    }

    #[test]
    fn delivery_follows_the_flags_and_trust_domains_may_come_as_ids() {
        let mut wire = wire("a", &["unix:uid:1"]);
        wire.federates_with = vec!["spiffe://other.org".into(), "third.org".into()];
        assert_eq!(
            AuthorizedEntry::try_from(wire.clone()).unwrap().delivery,
            Delivery::Prefetched
        );
        let on_demand = types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            ..Default::default()
        };
        wire.additional_attributes = Some(on_demand);
        assert_eq!(
            AuthorizedEntry::try_from(wire.clone()).unwrap().delivery,
            Delivery::OnDemand
        );
        wire.store_svid = true;
        let entry = AuthorizedEntry::try_from(wire).unwrap();
        assert_eq!(entry.delivery, Delivery::Stored);
        assert_eq!(
            entry
                .federates_with
                .iter()
                .map(TrustDomain::as_str)
                .collect::<Vec<_>>(),
            ["other.org", "third.org"]
        );
    }
}
