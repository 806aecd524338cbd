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

fn hidden(content: impl AsRef<[u8]>) -> Hidden {
    Hidden(content.as_ref().len())
}

const fn shown<T: fmt::Debug>(field: &T) -> &T {
    field
}

/// `Debug` for a message: its name, then its fields in order, each `shown` or `hidden`.
macro_rules! debug {
    ($message:ty as $name:literal: $($field:ident $print:ident),+) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut message = f.debug_struct($name);
                $(message.field(stringify!($field), &$print(&self.$field));)+
                message.finish()
            }
        }
    };
}

debug!(workload::X509svid as "X509svid": spiffe_id shown, x509_svid hidden, x509_svid_key hidden, bundle hidden, hint shown);
debug!(workload::Jwtsvid as "Jwtsvid": spiffe_id shown, svid hidden, hint shown);
debug!(workload::ValidateJwtsvidRequest as "ValidateJwtsvidRequest": audience shown, svid hidden);
debug!(types::JoinToken as "JoinToken": value hidden, expires_at shown);
debug!(types::Jwtsvid as "Jwtsvid": token hidden, id shown, expires_at shown, issued_at shown, hint shown);
debug!(types::Witsvid as "Witsvid": token hidden, id shown, expires_at shown, issued_at shown, hint shown);
debug!(agent::CreateJoinTokenRequest as "CreateJoinTokenRequest": ttl shown, token hidden, agent_id shown);
debug!(delegated::X509svidWithKey as "X509svidWithKey": x509_svid shown, x509_svid_key hidden);

impl fmt::Debug for types::AttestationData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttestationData")
            .field("type", &self.r#type)
            .field("payload", &hidden(&self.payload))
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
