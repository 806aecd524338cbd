//! What a server records about its authorities: the row `ca/<server id>`.
//!
//! The journal names keys, it never holds them. It is committed together with the bundle, so that whatever the server
//! signs with was published, and it is checked against the key manager at the start. X.509 and JWT authorities go the
//! same way through two slots each; only what an authority consists of differs.

mod stored;

use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::issue::{IssueError, IssuingCa};
use countersign_identity::jwt::JwtSigner;
use countersign_identity::{SigningKey, UnixTime};
use rustls_pki_types::CertificateDer;

use super::schedule::Validity;
use crate::keymanager::{KeyName, ManagedKey};

/// The two kinds of authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Signs X.509-SVIDs.
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
}

impl Kind {
    /// The kind in the labels of metrics and spans.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        })
    }
}

/// The state of an authority in its life cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStatus {
    /// Published in the bundle, not signing yet.
    Prepared,
    /// Signs.
    Active,
    /// No longer signing; stays in the bundle so that the SVIDs it signed still verify.
    Old,
}

/// One authority, and its key's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot<A> {
    /// Its state.
    pub status: SlotStatus,
    /// The key's name in the key manager.
    pub key: KeyName,
    /// How long it is valid.
    pub validity: Validity,
    /// Whether everything that it signed must be renewed at once.
    pub tainted: bool,
    /// Its public part: the certificates or the public key.
    pub authority: A,
}

/// The certificates of an X.509 authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509 {
    /// Its own.
    pub certificate: X509Authority,
    /// Its issuers, nearest first, without the root; none if it is self-signed or signed by a root.
    pub issuers: Vec<CertificateDer<'static>>,
}

/// The public half of a JWT authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Names the key in headers.
    pub key_id: String,
    /// SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

/// What both kinds of authority have in common.
pub trait Named {
    /// The authority's ID, as administrators name it.
    fn id(&self) -> &str;

    /// The ID of its upstream authority; empty if there is none or it is not known.
    fn upstream_id(&self) -> &str {
        ""
    }
}

impl Named for X509 {
    fn id(&self) -> &str {
        self.certificate.authority_id()
    }

    fn upstream_id(&self) -> &str {
        self.certificate.issuer_id()
    }
}

impl Named for Jwt {
    fn id(&self) -> &str {
        &self.key_id
    }
}

impl<A: Named> Slot<A> {
    /// The authority's ID, as administrators name it.
    #[must_use]
    pub fn id(&self) -> &str {
        self.authority.id()
    }
}

impl Slot<X509> {
    /// Ready to sign with its key.
    ///
    /// # Errors
    /// Certificate and key don't belong together.
    pub fn issuing_ca(&self, key: &ManagedKey) -> Result<IssuingCa, IssueError> {
        let X509 {
            certificate,
            issuers,
        } = &self.authority;
        // SVIDs carry their issuers up to but without the root.
        let own = (!certificate.is_root()).then(|| certificate.der().clone());
        let chain = own.into_iter().chain(issuers.iter().cloned()).collect();
        IssuingCa::new(certificate.der().clone(), chain, key.signer())
    }
}

impl Slot<Jwt> {
    /// Ready to sign with its key; `None` if the key does not belong to it.
    #[must_use]
    pub fn signer(&self, key: &ManagedKey) -> Option<JwtSigner> {
        let Jwt { key_id, public_key } = &self.authority;
        let not_after = self.validity.not_after;
        (key.spki() == public_key.as_slice())
            .then(|| JwtSigner::new(key.signer(), key_id.clone(), not_after))
    }

    /// As it appears in bundles.
    #[must_use]
    pub fn published(&self) -> JwtAuthority {
        let Jwt { key_id, public_key } = &self.authority;
        JwtAuthority {
            key_id: key_id.clone(),
            public_key: public_key.clone(),
            expires_at: Some(self.validity.not_after),
            tainted: self.tainted,
        }
    }
}

/// The two slots of one kind: the authority that signs, and the next one or the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots<A> {
    active: Option<Slot<A>>,
    other: Option<Slot<A>>,
}

impl<A> Default for Slots<A> {
    fn default() -> Self {
        Self {
            active: None,
            other: None,
        }
    }
}

impl<A: Clone> Slots<A> {
    /// The authority that signs.
    #[must_use]
    pub const fn active(&self) -> Option<&Slot<A>> {
        self.active.as_ref()
    }

    /// The authority beside it, prepared or old.
    #[must_use]
    pub const fn other(&self) -> Option<&Slot<A>> {
        self.other.as_ref()
    }

    /// The authority that was published to be the next.
    #[must_use]
    pub fn prepared(&self) -> Option<&Slot<A>> {
        self.other
            .as_ref()
            .filter(|slot| slot.status == SlotStatus::Prepared)
    }

    /// All authorities, the active one first.
    pub fn iter(&self) -> impl Iterator<Item = &Slot<A>> {
        self.active.iter().chain(&self.other)
    }

    /// Keeps only the wanted slots.
    pub fn retain(&mut self, wanted: impl Fn(&Slot<A>) -> bool) {
        self.active = self.active.take().filter(&wanted);
        self.other = self.other.take().filter(&wanted);
    }

    /// With this authority prepared; the previous content of its slot is dropped.
    #[must_use]
    pub fn with_prepared(&self, prepared: Slot<A>) -> Self {
        Self {
            active: self.active.clone(),
            other: Some(prepared),
        }
    }

    /// With the prepared authority active and the active one old. Without a prepared one, nothing changes.
    #[must_use]
    pub fn with_activated(&self) -> Self {
        // An old authority beside the active one never signs again.
        let Some(prepared) = self.prepared() else {
            return self.clone();
        };
        let status = |slot: &Slot<A>, status| Slot {
            status,
            ..slot.clone()
        };
        Self {
            active: Some(status(prepared, SlotStatus::Active)),
            other: self
                .active
                .as_ref()
                .map(|slot| status(slot, SlotStatus::Old)),
        }
    }

    /// With the authority beside the active one tainted.
    #[must_use]
    pub fn with_other_tainted(&self) -> Self {
        let mut slots = self.clone();
        if let Some(other) = &mut slots.other {
            other.tainted = true;
        }
        slots
    }

    /// With nothing beside the active authority.
    #[must_use]
    pub fn without_other(&self) -> Self {
        Self {
            active: self.active.clone(),
            other: None,
        }
    }

    fn validity(slot: Option<&Slot<A>>) -> Option<Validity> {
        slot.map(|slot| slot.validity)
    }

    /// The validity of the active and of the prepared authority.
    #[must_use]
    pub fn validities(&self) -> (Option<Validity>, Option<Validity>) {
        (
            Self::validity(self.active()),
            Self::validity(self.prepared()),
        )
    }

    /// The authorities that have not expired.
    pub fn current(&self, now: UnixTime) -> impl Iterator<Item = &Slot<A>> {
        self.iter().filter(move |slot| !slot.validity.is_over(now))
    }
}

/// The slots of one server; an empty journal is that of a first start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// X.509 authorities.
    pub x509: Slots<X509>,
    /// JWT authorities.
    pub jwt: Slots<Jwt>,
}

impl Journal {
    /// Whether a slot uses this key.
    #[must_use]
    pub fn names(&self, key: &KeyName) -> bool {
        self.x509.iter().any(|slot| slot.key == *key)
            || self.jwt.iter().any(|slot| slot.key == *key)
    }

    /// With other X.509 authorities.
    #[must_use]
    pub fn with_x509(&self, x509: Slots<X509>) -> Self {
        Self {
            x509,
            jwt: self.jwt.clone(),
        }
    }

    /// With other JWT authorities.
    #[must_use]
    pub fn with_jwt(&self, jwt: Slots<Jwt>) -> Self {
        Self {
            x509: self.x509.clone(),
            jwt,
        }
    }
}

#[cfg(test)]
mod tests;
