//! `Debug` for the messages that hold private keys, tokens and proofs: lengths instead of contents.

use std::fmt;

use crate::envoy::config::core::v3 as core;
use crate::envoy::service::discovery::v3 as discovery;
use crate::spiffe::workload;
use crate::spire::api::agent::delegatedidentity::v1 as delegated;
use crate::spire::api::server::agent::v1 as agent;
use crate::spire::api::types;

/// Stands for so many bytes that are nobody's business.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

impl fmt::Debug for workload::X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("x509_svid", &Hidden(self.x509_svid.len()))
            .field("x509_svid_key", &Hidden(self.x509_svid_key.len()))
            .field("bundle", &Hidden(self.bundle.len()))
            .field("hint", &self.hint)
            .finish()
    }
}

impl fmt::Debug for workload::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("svid", &Hidden(self.svid.len()))
            .field("hint", &self.hint)
            .finish()
    }
}

impl fmt::Debug for workload::ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest")
            .field("audience", &self.audience)
            .field("svid", &Hidden(self.svid.len()))
            .finish()
    }
}

impl fmt::Debug for types::AttestationData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttestationData")
            .field("type", &self.r#type)
            .field("payload", &Hidden(self.payload.len()))
            .finish()
    }
}

impl fmt::Debug for types::JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("value", &Hidden(self.value.len()))
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

impl fmt::Debug for types::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("token", &Hidden(self.token.len()))
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("hint", &self.hint)
            .finish()
    }
}

impl fmt::Debug for types::Witsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witsvid")
            .field("token", &Hidden(self.token.len()))
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("hint", &self.hint)
            .finish()
    }
}

impl fmt::Debug for agent::CreateJoinTokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateJoinTokenRequest")
            .field("ttl", &self.ttl)
            .field("token", &Hidden(self.token.len()))
            .field("agent_id", &self.agent_id)
            .finish()
    }
}

impl fmt::Debug for delegated::X509svidWithKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svidWithKey")
            .field("x509_svid", &self.x509_svid)
            .field("x509_svid_key", &Hidden(self.x509_svid_key.len()))
            .finish()
    }
}

impl fmt::Debug for core::DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self
            .specifier
            .as_ref()
            .map_or(0, |core::data_source::Specifier::InlineBytes(bytes)| {
                bytes.len()
            });
        f.debug_tuple("DataSource").field(&Hidden(length)).finish()
    }
}

impl fmt::Debug for discovery::DiscoveryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.resources.iter().map(|any| Hidden(any.value.len()));
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("resources", &sizes.collect::<Vec<_>>())
            .field("type_url", &self.type_url)
            .field("nonce", &self.nonce)
            .finish()
    }
}

impl fmt::Debug for discovery::Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.resource.as_ref().map_or(0, |any| any.value.len());
        f.debug_struct("Resource")
            .field("version", &self.version)
            .field("resource", &Hidden(size))
            .field("name", &self.name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tokens_are_not_printed() {
        let svid = workload::X509svid {
            spiffe_id: "spiffe://td/a".into(),
            x509_svid_key: b"the private key".as_slice().into(),
            ..Default::default()
        };
        let response = workload::X509svidResponse {
            svids: vec![svid],
            ..Default::default()
        };
        let text = format!("{response:?}");
        assert!(
            text.contains("spiffe://td/a") && text.contains("<15 bytes>"),
            "{text}"
        );
        assert!(!text.contains("private"), "{text}");
        let token = types::JoinToken {
            value: "hunter2".into(),
            expires_at: 7,
        };
        assert_eq!(
            format!("{token:?}"),
            "JoinToken { value: <7 bytes>, expires_at: 7 }"
        );
    }

    #[test]
    fn what_envoy_gets_is_not_printed_either() {
        let any = prost_types::Any {
            type_url: "type".into(),
            value: b"the private key".to_vec(),
        };
        let resource = discovery::Resource {
            resource: Some(any.clone()),
            ..Default::default()
        };
        let response = discovery::DiscoveryResponse {
            resources: vec![any],
            ..Default::default()
        };
        let source = core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineBytes(
                b"the private key".as_slice().into(),
            )),
        };
        for text in [
            format!("{resource:?}"),
            format!("{response:?}"),
            format!("{source:?}"),
        ] {
            assert!(
                text.contains("<15 bytes>") && !text.contains("private"),
                "{text}"
            );
        }
    }
}
