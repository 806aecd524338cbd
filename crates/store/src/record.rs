//! Conversion between rows and domain types, by the messages of `countersign.store.v1`.

use std::time::Duration;

use bytes::Bytes;
use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::entry::{AdditionalAttributes, DnsName};
use countersign_identity::federation::{EndpointProfile, EndpointUrl, Relationship};
use countersign_identity::node::Credential;
use countersign_identity::selector::InvalidSelector;
use countersign_identity::{
    Bundle, Entry, EntryId, Node, Selector, SelectorSet, SpiffeId, TrustDomain, UnixTime,
};
use countersign_proto::store::v1;
use countersign_transport::error::BoxError;
use prost::Message;

use crate::backend::{Key, Row, Seq, Table};
use crate::{Record, StoreError, damaged};

/// An object that has a row of its own.
pub(crate) trait Stored: Sized {
    /// The message that the row holds.
    type Message: Message + Default;

    /// The key of the object's row.
    fn key(&self) -> Key;

    /// The row's message. `created` is [`Seq::ZERO`] in the commit that creates the object, whose number is not known
    /// yet.
    fn message(&self, created: Seq) -> Self::Message;

    /// The object and `created` from the row's message.
    fn parse(message: Self::Message) -> Result<(Self, u64), BoxError>;

    /// The row's value.
    fn value(&self, created: Seq) -> Bytes {
        self.message(created).encode_to_vec().into()
    }

    /// The object in a row.
    fn read(row: &Row) -> Result<Record<Self>, StoreError> {
        let message =
            Self::Message::decode(row.value.clone()).map_err(|e| damaged(&row.key, &e))?;
        let (value, created) = Self::parse(message).map_err(|e| damaged(&row.key, &e))?;
        let created = if created == 0 {
            row.version
        } else {
            Seq::new(created)
        };
        Ok(Record { value, created })
    }
}

impl Stored for Entry {
    type Message = v1::Entry;

    fn key(&self) -> Key {
        Key::new(Table::Entry, self.id.as_str())
    }

    fn message(&self, created: Seq) -> v1::Entry {
        let AdditionalAttributes {
            disable_x509_svid_prefetch,
            jwt_svid_include_jti,
        } = self.attributes;
        v1::Entry {
            id: self.id.to_string(),
            spiffe_id: self.spiffe_id.to_string(),
            parent_id: self.parent_id.to_string(),
            selectors: selectors_out(&self.selectors),
            x509_svid_ttl: ttl_out(self.x509_svid_ttl),
            jwt_svid_ttl: ttl_out(self.jwt_svid_ttl),
            federates_with: self
                .federates_with
                .iter()
                .map(ToString::to_string)
                .collect(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.expires_at.map_or(0, UnixTime::as_i64),
            dns_names: self
                .dns_names
                .iter()
                .map(|name| name.as_str().to_owned())
                .collect(),
            revision: u64::try_from(self.revision_number).unwrap_or(0),
            store_svid: self.store_svid,
            hint: self.hint.clone(),
            created_at: self.created_at.as_i64(),
            disable_x509_svid_prefetch,
            jwt_svid_include_jti,
            created_seq: created.get(),
        }
    }

    fn parse(message: v1::Entry) -> Result<(Self, u64), BoxError> {
        let v1::Entry {
            id,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl,
            jwt_svid_ttl,
            federates_with,
            admin,
            downstream,
            expires_at,
            dns_names,
            revision,
            store_svid,
            hint,
            created_at,
            disable_x509_svid_prefetch,
            jwt_svid_include_jti,
            created_seq,
        } = message;
        let entry = Self {
            id: EntryId::new(&id)?,
            spiffe_id: SpiffeId::parse(&spiffe_id)?,
            parent_id: SpiffeId::parse(&parent_id)?,
            selectors: selectors_in(&selectors)?,
            x509_svid_ttl: ttl_in(x509_svid_ttl),
            jwt_svid_ttl: ttl_in(jwt_svid_ttl),
            federates_with: federates_with
                .iter()
                .map(|name| TrustDomain::new(name))
                .collect::<Result<_, _>>()?,
            admin,
            downstream,
            store_svid,
            expires_at: time_in(expires_at),
            dns_names: dns_names
                .iter()
                .map(|name| DnsName::new(name))
                .collect::<Result<_, _>>()?,
            revision_number: i64::try_from(revision)?,
            created_at: UnixTime::from_i64(created_at),
            hint,
            attributes: AdditionalAttributes {
                disable_x509_svid_prefetch,
                jwt_svid_include_jti,
            },
        };
        Ok((entry, created_seq))
    }
}

impl Stored for Node {
    type Message = v1::Node;

    fn key(&self) -> Key {
        Key::new(Table::Node, self.id.as_str())
    }

    fn message(&self, created: Seq) -> v1::Node {
        let (serial, expires_at) = credential_out(self.current.as_ref());
        let (pending_serial, pending_expires_at) = credential_out(self.pending.as_ref());
        v1::Node {
            id: self.id.to_string(),
            attestation_type: self.attestation_type.clone(),
            serial,
            expires_at,
            pending_serial,
            pending_expires_at,
            selectors: selectors_out(&self.selectors),
            can_reattest: self.can_reattest,
            agent_version: self.agent_version.clone(),
            created_seq: created.get(),
        }
    }

    fn parse(message: v1::Node) -> Result<(Self, u64), BoxError> {
        let v1::Node {
            id,
            attestation_type,
            serial,
            expires_at,
            pending_serial,
            pending_expires_at,
            selectors,
            can_reattest,
            agent_version,
            created_seq,
        } = message;
        let node = Self {
            id: SpiffeId::parse(&id)?,
            attestation_type,
            current: credential_in(serial, expires_at),
            pending: credential_in(pending_serial, pending_expires_at),
            can_reattest,
            selectors: selectors_in(&selectors)?,
            agent_version,
        };
        Ok((node, created_seq))
    }
}

impl Stored for Bundle {
    type Message = v1::Bundle;

    fn key(&self) -> Key {
        Key::new(Table::Bundle, self.trust_domain.as_str())
    }

    fn message(&self, created: Seq) -> v1::Bundle {
        v1::Bundle {
            trust_domain: self.trust_domain.to_string(),
            x509_authorities: self
                .x509_authorities
                .iter()
                .map(|authority| v1::bundle::X509Authority {
                    certificate: Bytes::copy_from_slice(authority.der()),
                    tainted: authority.is_tainted(),
                })
                .collect(),
            jwt_authorities: self
                .jwt_authorities
                .iter()
                .map(|key| v1::bundle::JwtAuthority {
                    key_id: key.key_id.clone(),
                    public_key: Bytes::copy_from_slice(&key.public_key),
                    expires_at: key.expires_at.map_or(0, UnixTime::as_i64),
                    tainted: key.tainted,
                })
                .collect(),
            refresh_hint: self.refresh_hint.map_or(0, |hint| hint.as_secs()),
            sequence_number: self.sequence_number,
            created_seq: created.get(),
        }
    }

    fn parse(message: v1::Bundle) -> Result<(Self, u64), BoxError> {
        let v1::Bundle {
            trust_domain,
            x509_authorities,
            jwt_authorities,
            refresh_hint,
            sequence_number,
            created_seq,
        } = message;
        let bundle = Self {
            trust_domain: TrustDomain::new(&trust_domain)?,
            x509_authorities: x509_authorities
                .into_iter()
                .map(
                    |v1::bundle::X509Authority {
                         certificate,
                         tainted,
                     }| {
                        let authority = X509Authority::new(certificate.to_vec().into())?;
                        Ok(authority.with_tainted(tainted))
                    },
                )
                .collect::<Result<_, BoxError>>()?,
            jwt_authorities: jwt_authorities
                .into_iter()
                .map(
                    |v1::bundle::JwtAuthority {
                         key_id,
                         public_key,
                         expires_at,
                         tainted,
                     }| {
                        JwtAuthority {
                            key_id,
                            public_key: public_key.to_vec(),
                            expires_at: time_in(expires_at),
                            tainted,
                        }
                    },
                )
                .collect(),
            refresh_hint: (refresh_hint != 0).then(|| Duration::from_secs(refresh_hint)),
            sequence_number,
        };
        Ok((bundle, created_seq))
    }
}

impl Stored for Relationship {
    type Message = v1::Relationship;

    fn key(&self) -> Key {
        Key::new(Table::Relationship, self.trust_domain.as_str())
    }

    fn message(&self, created: Seq) -> v1::Relationship {
        v1::Relationship {
            trust_domain: self.trust_domain.to_string(),
            url: self.url.to_string(),
            endpoint_spiffe_id: match &self.profile {
                EndpointProfile::Web => String::new(),
                EndpointProfile::Spiffe(id) => id.to_string(),
            },
            created_seq: created.get(),
        }
    }

    fn parse(message: v1::Relationship) -> Result<(Self, u64), BoxError> {
        let v1::Relationship {
            trust_domain,
            url,
            endpoint_spiffe_id,
            created_seq,
        } = message;
        let profile = match endpoint_spiffe_id.as_str() {
            "" => EndpointProfile::Web,
            id => EndpointProfile::Spiffe(SpiffeId::parse(id)?),
        };
        let relationship = Self {
            trust_domain: TrustDomain::new(&trust_domain)?,
            url: EndpointUrl::parse(&url)?,
            profile,
        };
        Ok((relationship, created_seq))
    }
}

fn selectors_out(selectors: &SelectorSet) -> Vec<v1::Selector> {
    selectors
        .iter()
        .map(|s| v1::Selector {
            r#type: s.kind().to_owned(),
            value: s.value().to_owned(),
        })
        .collect()
}

fn selectors_in(selectors: &[v1::Selector]) -> Result<SelectorSet, InvalidSelector> {
    selectors
        .iter()
        .map(|v1::Selector { r#type, value }| Selector::new(r#type, value))
        .collect()
}

fn ttl_out(ttl: Option<Duration>) -> u32 {
    ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX))
}

fn ttl_in(seconds: u32) -> Option<Duration> {
    (seconds != 0).then(|| Duration::from_secs(seconds.into()))
}

fn time_in(seconds: i64) -> Option<UnixTime> {
    (seconds != 0).then(|| UnixTime::from_i64(seconds))
}

fn credential_out(credential: Option<&Credential>) -> (String, i64) {
    credential.map_or_else(Default::default, |c| {
        (c.serial.clone(), c.expires_at.as_i64())
    })
}

fn credential_in(serial: String, expires_at: i64) -> Option<Credential> {
    let expires_at = UnixTime::from_i64(expires_at);
    (!serial.is_empty()).then_some(Credential { serial, expires_at })
}
