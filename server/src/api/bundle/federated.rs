//! The bundles of foreign trust domains, as administrators write and remove them.

use std::collections::BTreeSet;

use countersign_identity::{Bundle, EntryId, TrustDomain};
use countersign_proto::spire::api::types;
use countersign_store::{BundleError, Federating};
use tonic::Code;

use super::BundleService;
use crate::api::status::ApiError;
use crate::index::{EntryFilter, Match, Page};

impl BundleService {
    pub(super) async fn create(&self, bundle: types::Bundle) -> Result<Bundle, ApiError> {
        let own = "creating a federated bundle for the server's own trust domain is not allowed";
        let bundle = self.foreign_bundle(bundle, own)?;
        let summary = "unable to create bundle";
        let parts = &self.0.parts;
        let created = parts
            .store
            .bundle_create(&bundle)
            .await
            .map_err(|error| bundle_error(summary, &error))?;
        Ok(parts.index.visible(created).await?)
    }

    pub(super) async fn update(
        &self,
        bundle: types::Bundle,
        mask: Option<&types::BundleMask>,
    ) -> Result<Bundle, ApiError> {
        let own = "updating a federated bundle for the server's own trust domain is not allowed";
        let bundle = self.foreign_bundle(bundle, own)?;
        let summary = "failed to update bundle";
        let parts = &self.0.parts;
        let changed = parts
            .store
            .bundle_update(&bundle.trust_domain, |old| updated(old, &bundle, mask))
            .await
            .map_err(|error| bundle_error(summary, &error))?;
        Ok(parts.index.visible(changed).await?)
    }

    pub(super) async fn set(&self, bundle: types::Bundle) -> Result<Bundle, ApiError> {
        let own = "setting a federated bundle for the server's own trust domain is not allowed";
        let bundle = self.foreign_bundle(bundle, own)?;
        let parts = &self.0.parts;
        let set = parts.store.bundle_set(&bundle).await;
        let set = set.map_err(|e| ApiError::store("failed to set bundle", &e))?;
        Ok(parts.index.visible(set).await?)
    }

    pub(super) async fn delete(&self, td: &str, mode: Federating) -> Result<(), ApiError> {
        let own = "removing the bundle for the server trust domain is not allowed";
        let td = self.foreign(td, own)?;
        let summary = "failed to delete federated bundle";
        let parts = &self.0.parts;
        let federating = self.federating(&td);
        let deleted = parts.store.bundle_delete(&td, mode, &federating).await;
        let deleted = deleted.map_err(|error| bundle_error(summary, &error))?;
        parts.index.visible(deleted).await?;
        // Entries that were made while the bundle was removed; from now on none can be.
        let late = self.federating(&td);
        if !late.is_empty() {
            let parted = parts.store.part(&td, mode, &late).await;
            let parted = parted.map_err(|e| ApiError::store(summary, &e))?;
            parts.index.visible(parted).await?;
        }
        Ok(())
    }

    fn federating(&self, td: &TrustDomain) -> Vec<EntryId> {
        let filter = EntryFilter {
            federates_with: Some((Match::Any, BTreeSet::from([td.clone()]))),
            ..EntryFilter::default()
        };
        let records = self.0.parts.index.entries(&filter, Page::All);
        records
            .iter()
            .map(|record| record.value.id.clone())
            .collect()
    }

    fn foreign_bundle(&self, bundle: types::Bundle, own: &str) -> Result<Bundle, ApiError> {
        self.foreign(&bundle.trust_domain, own)?;
        Bundle::try_from(bundle)
            .map_err(|e| ApiError::new(Code::InvalidArgument, "failed to convert bundle", e))
    }

    /// A trust domain that is not this server's own; `own` is said of that.
    pub(super) fn foreign(&self, td: &str, own: &str) -> Result<TrustDomain, ApiError> {
        let summary = "trust domain argument is not valid";
        let td = TrustDomain::from_name_or_id(td)
            .map_err(|e| ApiError::new(Code::InvalidArgument, summary, e))?;
        if td == self.0.parts.trust_domain {
            return Err(ApiError::invalid(own));
        }
        Ok(td)
    }
}

fn bundle_error(summary: &str, error: &BundleError) -> ApiError {
    match error {
        BundleError::Exists => ApiError::plain(Code::AlreadyExists, error.to_string()),
        BundleError::Missing => ApiError::not_found(error.to_string()),
        BundleError::Federated(_) => ApiError::new(Code::FailedPrecondition, summary, error),
        BundleError::Store(error) => ApiError::store(summary, error),
    }
}

/// The old bundle with those fields of the new one that the mask names; with all of them if there is no mask.
fn updated(old: &Bundle, new: &Bundle, mask: Option<&types::BundleMask>) -> Bundle {
    let Some(mask) = mask else {
        return new.clone();
    };
    let types::BundleMask {
        x509_authorities,
        jwt_authorities,
        refresh_hint,
        sequence_number,
        wit_authorities: _,
    } = *mask;
    let mut bundle = old.clone();
    if x509_authorities {
        bundle.x509_authorities.clone_from(&new.x509_authorities);
    }
    if jwt_authorities {
        bundle.jwt_authorities.clone_from(&new.jwt_authorities);
    }
    if refresh_hint {
        bundle.refresh_hint = new.refresh_hint;
    }
    if sequence_number {
        bundle.sequence_number = new.sequence_number;
    }
    bundle
}
