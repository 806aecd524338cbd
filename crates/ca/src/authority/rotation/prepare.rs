//! Preparing the next authority: its key, its certificate or public key, and the commit that publishes them.
//!
//! An upstream authority is involved in two places: [`Rotation::certify`] has it sign an X.509 authority's certificate,
//! [`Rotation::jwt_keys_after`] publishes a JWT key through it.

use std::sync::Arc;

use countersign_identity::SigningKey as _;
use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::issue::self_signed_authority;
use countersign_identity::jwt::random_key_id;
use countersign_transport::error::Chain;
use tracing::{info, warn};

use super::publication::{Publication, validity};
use super::{Rotation, RotationError};
use crate::authority::Settings;
use crate::authority::journal::{Jwt, Kind, Named, Slot, SlotStatus, X509};
use crate::authority::schedule::Validity;
use crate::keymanager::{KeyManager, KeyManagerError, KeyName, ManagedKey};

/// A certified X.509 authority, and the roots to publish for it.
pub(super) struct Certified {
    /// Its certificate and its issuers.
    pub(super) authority: X509,
    /// The roots that it leads to; the certificate itself if it is self-signed.
    pub(super) roots: Vec<X509Authority>,
}

impl Rotation {
    /// Generates the key of the next authority, and publishes it.
    pub(super) async fn prepare(&mut self, kind: Kind) -> Result<(), RotationError> {
        let key_type = match (kind, &self.settings().jwt) {
            (Kind::Jwt, Some(jwt)) => jwt.key_type,
            _ => self.settings().ca_key_type,
        };
        let key = blocking(&self.keys, move |keys| keys.generate(key_type)).await?;
        let prepared = match kind {
            Kind::X509 => self.x509_slot(&key).await.map(|(slot, publication)| {
                log_prepared(kind, &slot);
                let slots = self.journal.x509.with_prepared(slot);
                (self.journal.with_x509(slots), publication)
            }),
            Kind::Jwt => self.jwt_slot(&key).await.map(|(slot, publication)| {
                log_prepared(kind, &slot);
                let slots = self.journal.jwt.with_prepared(slot);
                (self.journal.with_jwt(slots), publication)
            }),
        };
        let (journal, publication) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.forget(key.name()).await;
                return Err(error);
            }
        };
        // If this fails the key stays: the commit may have taken effect all the same. `settle` asks the store.
        self.held.insert(key.name().clone(), key);
        self.write(&journal, publication).await?;
        self.take(journal).await;
        info!("{kind} authority published");
        Ok(())
    }

    async fn x509_slot(
        &self,
        key: &ManagedKey,
    ) -> Result<(Slot<X509>, Publication), RotationError> {
        let Certified { authority, roots } = self.certify(key).await?;
        let publication = Publication {
            x509: roots,
            jwt: Vec::new(),
        };
        Ok((
            prepared(key, validity(&authority.certificate), authority),
            publication,
        ))
    }

    async fn jwt_slot(
        &mut self,
        key: &ManagedKey,
    ) -> Result<(Slot<Jwt>, Publication), RotationError> {
        let authority = Jwt {
            key_id: random_key_id()?,
            public_key: key.spki().to_vec(),
        };
        let validity = Validity::of_ttl(self.settings().ca_ttl, self.clock.now());
        let slot = prepared(key, validity, authority);
        let publication = Publication {
            x509: Vec::new(),
            jwt: self.jwt_keys_after(slot.published()).await?,
        };
        Ok((slot, publication))
    }

    /// A certificate for the key: from the upstream authority if there is one, else self-signed.
    async fn certify(&self, key: &ManagedKey) -> Result<Certified, RotationError> {
        if let Some(upstream) = &self.upstream {
            return self.certify_upstream(&upstream.authority, key).await;
        }
        let Settings {
            trust_domain,
            ca_subject,
            ca_ttl,
            ..
        } = self.settings().clone();
        let now = self.clock.now();
        let key = key.clone();
        let signed = blocking_job(move || {
            self_signed_authority(&trust_domain, &ca_subject, &key, ca_ttl, now)
        })
        .await?;
        let certificate = X509Authority::new(signed?)?;
        Ok(Certified {
            roots: vec![certificate.clone()],
            authority: X509 {
                certificate,
                issuers: Vec::new(),
            },
        })
    }

    /// Publishes a JWT key upstream, if there is an upstream authority. Returns the keys to add to our own bundle.
    async fn jwt_keys_after(
        &mut self,
        published: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, RotationError> {
        match &mut self.upstream {
            Some(upstream) => upstream.publish(published).await,
            None => Ok(vec![published]),
        }
    }

    /// Removes a key that no slot names. A failure does no harm: the next start removes the key.
    pub(super) async fn forget(&mut self, name: &KeyName) {
        self.held.remove(name);
        let remove = name.clone();
        if let Err(error) = blocking(&self.keys, move |keys| keys.remove(&remove)).await {
            warn!(key = %name, error = %Chain(&error), "Key was not removed");
        }
    }
}

fn prepared<A>(key: &ManagedKey, validity: Validity, authority: A) -> Slot<A> {
    Slot {
        status: SlotStatus::Prepared,
        key: key.name().clone(),
        validity,
        tainted: false,
        authority,
    }
}

fn log_prepared<A: Named>(kind: Kind, slot: &Slot<A>) {
    info!(
        authority_id = slot.id(),
        expires = %slot.validity.not_after,
        "{kind} authority prepared"
    );
}

pub(super) async fn blocking<T: Send + 'static>(
    keys: &Arc<dyn KeyManager>,
    call: impl FnOnce(&dyn KeyManager) -> Result<T, KeyManagerError> + Send + 'static,
) -> Result<T, RotationError> {
    let keys = Arc::clone(keys);
    Ok(blocking_job(move || call(&*keys)).await??)
}

pub(super) async fn blocking_job<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RotationError> {
    tokio::task::spawn_blocking(job)
        .await
        .map_err(|error| RotationError::Job(error.into()))
}
