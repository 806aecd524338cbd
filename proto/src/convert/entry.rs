//! Registration entries.

use std::time::Duration;

use countersign_identity::entry::{
    AdditionalAttributes, DnsName, InvalidDnsName, InvalidEntryId, MAX_HINT_LEN,
};
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{
    Entry, EntryId, Selector, SelectorSet, SpiffeId, TrustDomain, UnixTime,
};

use super::selector::{self, InvalidSelectors};
use crate::spire::api::types;

mod update;

pub use update::EntryUpdate;

/// The most selectors that one entry may have.
pub const MAX_SELECTORS: usize = 1_024;
/// The most DNS names that one entry may have.
pub const MAX_DNS_NAMES: usize = 256;
/// The most trust domains that one entry may federate with.
pub const MAX_FEDERATES_WITH: usize = 256;

/// Why a message is no registration entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEntry {
    /// The entry's own ID.
    #[error("invalid entry ID: {0}")]
    Id(#[from] InvalidEntryId),
    /// There is no parent.
    #[error("invalid parent ID: request must specify SPIFFE ID")]
    ParentIdMissing,
    /// The parent.
    #[error("invalid parent ID: {0}")]
    ParentId(InvalidId),
    /// The parent is a trust domain instead of somebody in it.
    #[error("invalid parent ID: {0:?} is not a member of trust domain {td:?}; path is empty", td = .0.trust_domain_name())]
    ParentIdWithoutPath(SpiffeId),
    /// There is no SPIFFE ID.
    #[error("invalid spiffe ID: request must specify SPIFFE ID")]
    SpiffeIdMissing,
    /// The SPIFFE ID.
    #[error("invalid spiffe ID: {0}")]
    SpiffeId(InvalidId),
    /// The SPIFFE ID is no workload's: it has no path, or a reserved one.
    #[error(
        "invalid spiffe ID: {0:?} is not a workload in trust domain {td:?}; path is {fault}",
        td = .0.trust_domain_name(),
        fault = if .0.path().is_empty() { "empty" } else { "in the reserved namespace" }
    )]
    SpiffeIdNotWorkload(SpiffeId),
    /// There are no selectors.
    #[error("selector list is empty")]
    SelectorsEmpty,
    /// More than [`MAX_SELECTORS`].
    #[error("more than {MAX_SELECTORS} selectors")]
    SelectorsTooMany,
    /// A selector.
    #[error("{0}")]
    Selectors(#[from] InvalidSelectors),
    /// The lifetime of X.509-SVIDs.
    #[error("X509-SVID TTL must not be negative")]
    X509SvidTtl,
    /// The lifetime of JWT-SVIDs.
    #[error("JWT-SVID TTL must not be negative")]
    JwtSvidTtl,
    /// A trust domain to federate with.
    #[error("invalid federated trust domain: {0}")]
    FederatesWith(InvalidId),
    /// More than [`MAX_FEDERATES_WITH`].
    #[error("federates with more than {MAX_FEDERATES_WITH} trust domains")]
    FederatesWithTooMany,
    /// A DNS name.
    #[error("invalid DNS name \"{name}\": {why}")]
    DnsName {
        /// As it was given, cut at 255 characters.
        name: String,
        /// What is wrong with it.
        why: InvalidDnsName,
    },
    /// A DNS name that comes twice.
    #[error("DNS name \"{0}\" is repeated")]
    DnsNameRepeated(String),
    /// More than [`MAX_DNS_NAMES`].
    #[error("more than {MAX_DNS_NAMES} DNS names")]
    DnsNamesTooMany,
    /// The expiry.
    #[error("expiry must not be negative")]
    ExpiresAt,
    /// The hint.
    #[error("hint is too long, max length is {MAX_HINT_LEN} characters")]
    Hint,
    /// The revision.
    #[error("revision number must not be negative")]
    RevisionNumber,
    /// The time of creation.
    #[error("creation time must not be negative")]
    CreatedAt,
    /// An SVID that goes to a store outside needs selectors of one type.
    #[error("selector types must be the same when store SVID is enabled")]
    StoreSvidSelectors,
    /// An SVID that goes to a store outside can't wait for a workload to ask.
    #[error("specifying cache behaviour is incompatible with storable SVIDs")]
    StoreSvidPrefetch,
}

impl InvalidEntry {
    /// Whether something comes twice that may come once. SPIRE tells this as a conflict, not as a malformed entry.
    #[must_use]
    pub const fn is_repetition(&self) -> bool {
        matches!(
            self,
            Self::Selectors(InvalidSelectors::Repeated(_)) | Self::DnsNameRepeated(_)
        )
    }

    /// Whether it is SPIRE's store that finds this, and not its API: the caller is then told that the entry could not be
    /// made or changed, not that it could not be converted.
    #[must_use]
    pub const fn is_found_by_store(&self) -> bool {
        matches!(
            self,
            Self::Id(_)
                | Self::X509SvidTtl
                | Self::JwtSvidTtl
                | Self::StoreSvidSelectors
                | Self::StoreSvidPrefetch
        ) || self.is_repetition()
    }
}

impl TryFrom<types::Entry> for Entry {
    type Error = InvalidEntry;

    /// Whether the IDs belong to the right trust domain is not known here.
    fn try_from(entry: types::Entry) -> Result<Self, InvalidEntry> {
        let types::Entry {
            id,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl,
            federates_with,
            admin,
            downstream,
            expires_at,
            dns_names,
            revision_number,
            store_svid,
            jwt_svid_ttl,
            hint,
            created_at,
            additional_attributes,
        } = entry;
        // In SPIRE's order, so that of several faults the same one is told: first what its API checks, then its store.
        let parent_id = parent(parent_id)?;
        let spiffe_id = workload(spiffe_id)?;
        let dns_names = names(&dns_names)?;
        let federates_with = federation(&federates_with)?;
        let selectors = selectors_of(selectors)?;
        if hint.len() > MAX_HINT_LEN {
            return Err(InvalidEntry::Hint);
        }
        let attributes = additional_attributes.map(Into::into).unwrap_or_default();
        check_store(store_svid, &selectors, attributes)?;
        Ok(Self {
            id: EntryId::new(&id)?,
            parent_id,
            spiffe_id,
            selectors,
            x509_svid_ttl: ttl(x509_svid_ttl).ok_or(InvalidEntry::X509SvidTtl)?,
            jwt_svid_ttl: ttl(jwt_svid_ttl).ok_or(InvalidEntry::JwtSvidTtl)?,
            federates_with,
            admin,
            downstream,
            store_svid,
            expires_at: time(expires_at).ok_or(InvalidEntry::ExpiresAt)?,
            dns_names,
            revision_number: (revision_number >= 0)
                .then_some(revision_number)
                .ok_or(InvalidEntry::RevisionNumber)?,
            created_at: time(created_at)
                .ok_or(InvalidEntry::CreatedAt)?
                .unwrap_or_default(),
            hint,
            attributes,
        })
    }
}

impl From<types::entry::AdditionalAttributes> for AdditionalAttributes {
    fn from(attributes: types::entry::AdditionalAttributes) -> Self {
        let types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch,
            jwt_svid_include_jti,
        } = attributes;
        Self {
            disable_x509_svid_prefetch,
            jwt_svid_include_jti,
        }
    }
}

impl From<&Entry> for types::Entry {
    fn from(entry: &Entry) -> Self {
        let AdditionalAttributes {
            disable_x509_svid_prefetch,
            jwt_svid_include_jti,
        } = entry.attributes;
        Self {
            id: entry.id.to_string(),
            spiffe_id: Some((&entry.spiffe_id).into()),
            parent_id: Some((&entry.parent_id).into()),
            selectors: selector::to_wire(&entry.selectors),
            x509_svid_ttl: seconds(entry.x509_svid_ttl),
            federates_with: entry
                .federates_with
                .iter()
                .map(ToString::to_string)
                .collect(),
            admin: entry.admin,
            downstream: entry.downstream,
            expires_at: entry.expires_at.map_or(0, UnixTime::as_i64),
            dns_names: entry
                .dns_names
                .iter()
                .map(|name| name.as_str().to_owned())
                .collect(),
            revision_number: entry.revision_number,
            store_svid: entry.store_svid,
            jwt_svid_ttl: seconds(entry.jwt_svid_ttl),
            hint: entry.hint.clone(),
            created_at: entry.created_at.as_i64(),
            // An entry that sets none of them has none, as with SPIRE.
            additional_attributes: (entry.attributes != AdditionalAttributes::default()).then_some(
                types::entry::AdditionalAttributes {
                    disable_x509_svid_prefetch,
                    jwt_svid_include_jti,
                },
            ),
        }
    }
}

/// Keeps the fields that are asked for, and the ID; all of them if there is no mask.
#[must_use]
pub fn masked(entry: types::Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    match mask {
        Some(mask) => {
            let bare = types::Entry {
                id: entry.id.clone(),
                ..Default::default()
            };
            overlaid(bare, entry, mask)
        }
        None => entry,
    }
}

/// The fields that the mask names from `over`, the others from `under`.
fn overlaid(under: types::Entry, over: types::Entry, mask: &types::EntryMask) -> types::Entry {
    types::Entry {
        id: under.id,
        spiffe_id: pick(mask.spiffe_id, over.spiffe_id, under.spiffe_id),
        parent_id: pick(mask.parent_id, over.parent_id, under.parent_id),
        selectors: pick(mask.selectors, over.selectors, under.selectors),
        x509_svid_ttl: pick(mask.x509_svid_ttl, over.x509_svid_ttl, under.x509_svid_ttl),
        federates_with: pick(
            mask.federates_with,
            over.federates_with,
            under.federates_with,
        ),
        admin: pick(mask.admin, over.admin, under.admin),
        downstream: pick(mask.downstream, over.downstream, under.downstream),
        expires_at: pick(mask.expires_at, over.expires_at, under.expires_at),
        dns_names: pick(mask.dns_names, over.dns_names, under.dns_names),
        revision_number: pick(
            mask.revision_number,
            over.revision_number,
            under.revision_number,
        ),
        store_svid: pick(mask.store_svid, over.store_svid, under.store_svid),
        jwt_svid_ttl: pick(mask.jwt_svid_ttl, over.jwt_svid_ttl, under.jwt_svid_ttl),
        hint: pick(mask.hint, over.hint, under.hint),
        created_at: pick(mask.created_at, over.created_at, under.created_at),
        additional_attributes: pick(
            mask.additional_attributes,
            over.additional_attributes,
            under.additional_attributes,
        ),
    }
}

fn pick<T>(first: bool, one: T, other: T) -> T {
    if first { one } else { other }
}

fn parent(id: Option<types::Spiffeid>) -> Result<SpiffeId, InvalidEntry> {
    let id = id.ok_or(InvalidEntry::ParentIdMissing)?;
    let id = SpiffeId::try_from(id).map_err(InvalidEntry::ParentId)?;
    if id.path().is_empty() {
        return Err(InvalidEntry::ParentIdWithoutPath(id));
    }
    Ok(id)
}

fn workload(id: Option<types::Spiffeid>) -> Result<SpiffeId, InvalidEntry> {
    let id = id.ok_or(InvalidEntry::SpiffeIdMissing)?;
    let id = SpiffeId::try_from(id).map_err(InvalidEntry::SpiffeId)?;
    if !id.is_workload() {
        return Err(InvalidEntry::SpiffeIdNotWorkload(id));
    }
    Ok(id)
}

fn selectors_of(selectors: Vec<types::Selector>) -> Result<SelectorSet, InvalidEntry> {
    if selectors.is_empty() {
        return Err(InvalidEntry::SelectorsEmpty);
    }
    if selectors.len() > MAX_SELECTORS {
        return Err(InvalidEntry::SelectorsTooMany);
    }
    Ok(selector::distinct(selectors)?)
}

fn federation(names: &[String]) -> Result<Vec<TrustDomain>, InvalidEntry> {
    if names.len() > MAX_FEDERATES_WITH {
        return Err(InvalidEntry::FederatesWithTooMany);
    }
    let mut all: Vec<TrustDomain> = Vec::with_capacity(names.len());
    for name in names {
        let td = TrustDomain::from_name_or_id(name).map_err(InvalidEntry::FederatesWith)?;
        // Federating twice is federating.
        if !all.contains(&td) {
            all.push(td);
        }
    }
    Ok(all)
}

fn names(names: &[String]) -> Result<Vec<DnsName>, InvalidEntry> {
    if names.len() > MAX_DNS_NAMES {
        return Err(InvalidEntry::DnsNamesTooMany);
    }
    let mut all: Vec<DnsName> = Vec::with_capacity(names.len());
    for name in names {
        let dns = DnsName::new(name).map_err(|why| InvalidEntry::DnsName {
            name: name.chars().take(255).collect(),
            why,
        })?;
        if all.contains(&dns) {
            return Err(InvalidEntry::DnsNameRepeated(name.clone()));
        }
        all.push(dns);
    }
    Ok(all)
}

fn check_store(
    store_svid: bool,
    selectors: &SelectorSet,
    attributes: AdditionalAttributes,
) -> Result<(), InvalidEntry> {
    if !store_svid {
        return Ok(());
    }
    if attributes.disable_x509_svid_prefetch {
        return Err(InvalidEntry::StoreSvidPrefetch);
    }
    let mut kinds = selectors.iter().map(Selector::kind);
    let first = kinds.next();
    if kinds.any(|kind| Some(kind) != first) {
        return Err(InvalidEntry::StoreSvidSelectors);
    }
    Ok(())
}

/// 0 is the server's default; negative is none.
fn ttl(seconds: i32) -> Option<Option<Duration>> {
    let seconds = u64::try_from(seconds).ok()?;
    Some((seconds != 0).then(|| Duration::from_secs(seconds)))
}

/// 0 is never; negative is none.
fn time(seconds: i64) -> Option<Option<UnixTime>> {
    let seconds = u64::try_from(seconds).ok()?;
    Some((seconds != 0).then(|| UnixTime::from_secs(seconds)))
}

fn seconds(ttl: Option<Duration>) -> i32 {
    ttl.map_or(0, |ttl| i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests;
