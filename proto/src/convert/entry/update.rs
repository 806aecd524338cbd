//! Updates of registration entries: the fields that a mask names.

use std::time::Duration;

use countersign_identity::entry::{AdditionalAttributes, DnsName, MAX_HINT_LEN};
use countersign_identity::{Entry, SelectorSet, SpiffeId, TrustDomain, UnixTime};

use super::{
    InvalidEntry, check_store, federation, names, parent, selectors_of, time, ttl, workload,
};
use crate::spire::api::types;

/// The new values of those fields of an entry that an update changes. Each is valid by itself; what depends on fields
/// that stay as they are is checked by [`EntryUpdate::apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryUpdate {
    parent_id: Option<SpiffeId>,
    spiffe_id: Option<SpiffeId>,
    selectors: Option<SelectorSet>,
    x509_svid_ttl: Option<Option<Duration>>,
    jwt_svid_ttl: Option<Option<Duration>>,
    federates_with: Option<Vec<TrustDomain>>,
    admin: Option<bool>,
    downstream: Option<bool>,
    store_svid: Option<bool>,
    expires_at: Option<Option<UnixTime>>,
    dns_names: Option<Vec<DnsName>>,
    hint: Option<String>,
    attributes: Option<AdditionalAttributes>,
}

impl EntryUpdate {
    /// Takes the fields that the mask names, or all if there is none. The ID, the revision and the time of creation are
    /// never changed, whatever the mask says.
    ///
    /// # Errors
    /// A field that the mask names is invalid; of several the one that SPIRE finds first.
    pub fn new(entry: types::Entry, mask: Option<&types::EntryMask>) -> Result<Self, InvalidEntry> {
        let named = |field: fn(&types::EntryMask) -> bool| mask.is_none_or(field);
        let types::Entry {
            id: _,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl,
            federates_with,
            admin,
            downstream,
            expires_at,
            dns_names,
            revision_number: _,
            store_svid,
            jwt_svid_ttl,
            hint,
            created_at: _,
            additional_attributes,
        } = entry;
        // In the order of the conversion of a whole entry.
        let parent_id = named(|mask| mask.parent_id).then(|| parent(parent_id));
        let parent_id = parent_id.transpose()?;
        let spiffe_id = named(|mask| mask.spiffe_id).then(|| workload(spiffe_id));
        let spiffe_id = spiffe_id.transpose()?;
        let dns_names = named(|mask| mask.dns_names).then(|| names(&dns_names));
        let dns_names = dns_names.transpose()?;
        let federates_with = named(|mask| mask.federates_with).then(|| federation(&federates_with));
        let federates_with = federates_with.transpose()?;
        let selectors = named(|mask| mask.selectors).then(|| selectors_of(selectors));
        let selectors = selectors.transpose()?;
        let hint = named(|mask| mask.hint).then_some(hint);
        if hint.as_ref().is_some_and(|hint| hint.len() > MAX_HINT_LEN) {
            return Err(InvalidEntry::Hint);
        }
        let attributes = named(|mask| mask.additional_attributes)
            .then(|| additional_attributes.map(Into::into).unwrap_or_default());
        let store_svid = named(|mask| mask.store_svid).then_some(store_svid);
        check_store(
            store_svid.unwrap_or_default(),
            &selectors.clone().unwrap_or_default(),
            attributes.unwrap_or_default(),
        )?;
        let lifetime = |named: bool, seconds: i32, error: InvalidEntry| {
            named.then(|| ttl(seconds).ok_or(error)).transpose()
        };
        Ok(Self {
            parent_id,
            spiffe_id,
            selectors,
            x509_svid_ttl: lifetime(
                named(|mask| mask.x509_svid_ttl),
                x509_svid_ttl,
                InvalidEntry::X509SvidTtl,
            )?,
            jwt_svid_ttl: lifetime(
                named(|mask| mask.jwt_svid_ttl),
                jwt_svid_ttl,
                InvalidEntry::JwtSvidTtl,
            )?,
            federates_with,
            admin: named(|mask| mask.admin).then_some(admin),
            downstream: named(|mask| mask.downstream).then_some(downstream),
            store_svid,
            expires_at: named(|mask| mask.expires_at)
                .then(|| time(expires_at).ok_or(InvalidEntry::ExpiresAt))
                .transpose()?,
            dns_names,
            hint,
            attributes,
        })
    }

    /// The entry after the update.
    ///
    /// # Errors
    /// A new value does not go with one that stays: an SVID for a store needs selectors of one type, for example.
    pub fn apply(&self, old: &Entry) -> Result<Entry, InvalidEntry> {
        let mut entry = old.clone();
        set(&mut entry.parent_id, self.parent_id.as_ref());
        set(&mut entry.spiffe_id, self.spiffe_id.as_ref());
        set(&mut entry.selectors, self.selectors.as_ref());
        set(&mut entry.x509_svid_ttl, self.x509_svid_ttl.as_ref());
        set(&mut entry.jwt_svid_ttl, self.jwt_svid_ttl.as_ref());
        set(&mut entry.federates_with, self.federates_with.as_ref());
        set(&mut entry.admin, self.admin.as_ref());
        set(&mut entry.downstream, self.downstream.as_ref());
        set(&mut entry.store_svid, self.store_svid.as_ref());
        set(&mut entry.expires_at, self.expires_at.as_ref());
        set(&mut entry.dns_names, self.dns_names.as_ref());
        set(&mut entry.hint, self.hint.as_ref());
        set(&mut entry.attributes, self.attributes.as_ref());
        check_store(entry.store_svid, &entry.selectors, entry.attributes)?;
        Ok(entry)
    }
}

fn set<T: Clone>(field: &mut T, new: Option<&T>) {
    if let Some(new) = new {
        field.clone_from(new);
    }
}
