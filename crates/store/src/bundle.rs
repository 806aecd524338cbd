//! Bundles, and the journal of the authority whose certificates and keys they hold.

use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::{Bundle, TrustDomain};
use countersign_proto::store::v1;
use futures::FutureExt as _;
use prost::Message as _;

use crate::backend::{Key, Seq, Table};
use crate::{Pending, Store, StoreError, damaged};

/// The result of an edit of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleChange {
    /// The bundle changed: its sequence number is incremented.
    Changed,
    /// The bundle is unchanged, and keeps its sequence number.
    Unchanged,
}

impl Store {
    /// The bundle of a trust domain.
    ///
    /// # Errors
    /// The store failed.
    pub async fn bundle_get(&self, td: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        let found = self.read::<Bundle>(&bundle_key(td)).await?;
        Ok(found.map(|record| record.value))
    }

    /// Adds the authorities that the bundle of a trust domain lacks; makes the bundle if there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn bundle_append(
        &self,
        td: &TrustDomain,
        x509: &[X509Authority],
        jwt: &[JwtAuthority],
    ) -> Result<Pending<Bundle>, StoreError> {
        self.bundle_edit(td, None, |bundle| append(bundle, x509, jwt))
            .await
    }

    /// The journal of a server's authority.
    ///
    /// # Errors
    /// The store failed.
    pub async fn journal_get(&self, server: &str) -> Result<Option<v1::Journal>, StoreError> {
        let key = journal_key(server);
        let row = self.row(&key).await?;
        row.map(|row| v1::Journal::decode(row.value).map_err(|e| damaged(&key, &e)))
            .transpose()
    }

    /// Writes the journal of a server's authority and changes the bundle of its trust domain, in one commit. Only the
    /// server itself writes its journal. `edit` may be called again when another server changed the bundle meanwhile;
    /// the bundle is made if there is none.
    ///
    /// # Errors
    /// The store failed: then neither was written, or it isn't known and the store is broken.
    pub async fn journal_put(
        &self,
        server: &str,
        journal: &v1::Journal,
        td: &TrustDomain,
        edit: impl Fn(&mut Bundle) -> BundleChange + Send + Sync,
    ) -> Result<Pending<Bundle>, StoreError> {
        self.bundle_edit(td, Some((journal_key(server), journal)), edit)
            .await
    }

    /// Changes a bundle, and increments its sequence number. Writes the journal too, whether or not the bundle changes.
    async fn bundle_edit(
        &self,
        td: &TrustDomain,
        journal: Option<(Key, &v1::Journal)>,
        edit: impl Fn(&mut Bundle) -> BundleChange + Send + Sync,
    ) -> Result<Pending<Bundle>, StoreError> {
        let (journal, edit) = (&journal, &edit);
        self.retry("change the bundle", move |txn| {
            async move {
                if let Some((key, journal)) = journal {
                    txn.put_row(key.clone(), journal.encode_to_vec().into());
                }
                let found = txn.read::<Bundle>(&bundle_key(td)).await?;
                let is_new = found.is_none();
                let (mut bundle, created) = found.map_or_else(
                    || (Bundle::empty(td.clone()), Seq::ZERO),
                    |record| (record.value, record.created),
                );
                // A new bundle is written even if it is empty: the journal is never without one.
                if edit(&mut bundle) == BundleChange::Changed || is_new {
                    bundle.sequence_number = bundle.sequence_number.saturating_add(1);
                    txn.put(&bundle, created);
                }
                Ok(bundle)
            }
            .boxed()
        })
        .await
    }
}

fn append(bundle: &mut Bundle, x509: &[X509Authority], jwt: &[JwtAuthority]) -> BundleChange {
    let mut change = BundleChange::Unchanged;
    for authority in x509 {
        if !bundle
            .x509_authorities
            .iter()
            .any(|a| a.der() == authority.der())
        {
            // Only the server decides whether an authority is tainted.
            bundle.x509_authorities.push(authority.with_tainted(false));
            change = BundleChange::Changed;
        }
    }
    for authority in jwt {
        if !bundle
            .jwt_authorities
            .iter()
            .any(|a| a.key_id == authority.key_id)
        {
            bundle.jwt_authorities.push(JwtAuthority {
                tainted: false,
                ..authority.clone()
            });
            change = BundleChange::Changed;
        }
    }
    change
}

pub(super) fn bundle_key(td: &TrustDomain) -> Key {
    Key::new(Table::Bundle, td.as_str())
}

fn journal_key(server: &str) -> Key {
    Key::new(Table::Ca, server)
}
