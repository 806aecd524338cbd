//! Resolves the names of secrets, and builds the resources.

use std::collections::BTreeSet;

use countersign_identity::{Bundle, SelectorSet};
use countersign_proto::envoy::config::core::v3::node::UserAgentVersionType;
use countersign_proto::envoy::config::core::v3::{
    DataSource, Node, TypedExtensionConfig, data_source::Specifier,
};
use countersign_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
    spiffe_cert_validator_config,
};
use prost::Message as _;
use prost_types::Any;
use tonic::Status;

use crate::config::{SecretNames, Validation};
use crate::pem;
use crate::svid::ServedSvid;
use crate::sync::Snapshot;
use crate::sync::snapshot::ServedEntry;

const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
/// The key in Envoy's node metadata with the same meaning as the setting.
const DISABLE_KEY: &str = "disable_spiffe_cert_validation";
/// The last Envoy version without the SPIFFE certificate validator.
const WITHOUT_VALIDATOR: (u32, u32) = (1, 17);

/// How this Envoy validates peers: as configured, unless it lacks the SPIFFE validator or its metadata disables it.
pub(super) fn validation_for(configured: Validation, node: Option<&Node>) -> Validation {
    match node {
        Some(node) if says_disabled(node) || is_too_old(node) => Validation::Roots,
        _ => configured,
    }
}

fn says_disabled(node: &Node) -> bool {
    use prost_types::value::Kind;

    let metadata = node.metadata.as_ref();
    let value = metadata.and_then(|metadata| metadata.fields.get(DISABLE_KEY)?.kind.as_ref());
    match value {
        Some(Kind::BoolValue(disabled)) => *disabled,
        Some(Kind::StringValue(text)) => {
            matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
        }
        _ => false,
    }
}

fn is_too_old(node: &Node) -> bool {
    let Some(UserAgentVersionType::UserAgentBuildVersion(build)) = &node.user_agent_version_type
    else {
        return false;
    };
    build
        .version
        .as_ref()
        .is_some_and(|version| (version.major_number, version.minor_number) <= WITHOUT_VALIDATOR)
}

/// An encoded secret with its name.
#[derive(Clone, PartialEq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) any: Any,
}

/// Whether all SVIDs of a caller with these selectors have been signed.
pub(super) fn all_signed(snapshot: &Snapshot, selectors: &SelectorSet) -> bool {
    snapshot
        .matching(selectors)
        .iter()
        .all(|served| served.svid.is_some())
}

/// The secrets that one caller may request. Bundles need no identity, and entries are not filtered by hint (wire
/// contract, F.7).
pub(super) struct Secrets<'a> {
    names: &'a SecretNames,
    validation: Validation,
    own: &'a Bundle,
    foreign: Vec<&'a Bundle>,
    svids: Vec<(&'a ServedEntry, &'a ServedSvid)>,
}

impl<'a> Secrets<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        selectors: &SelectorSet,
        names: &'a SecretNames,
        validation: Validation,
    ) -> Self {
        let served = snapshot.matching(selectors).into_iter();
        Self {
            names,
            validation,
            own: snapshot.own_bundle(),
            foreign: snapshot
                .federated_bundles(selectors)
                .into_iter()
                .map(|bundle| &**bundle)
                .collect(),
            svids: served
                .filter_map(|served| Some((served, served.svid.as_deref()?)))
                .collect(),
        }
    }

    /// The secrets with these names. Without names: all secrets, under their SPIFFE names.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the unknown names, and with names that are aliases of another requested one, as in SPIRE.
    pub(super) fn requested(&self, names: &[String]) -> Result<Vec<Named>, Status> {
        let mut names: BTreeSet<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .collect();
        let all = names.is_empty();
        let mut found = Vec::new();
        let own = self.own.trust_domain.id().to_string();
        let for_own = [&own, &self.names.bundle, &self.names.all_bundles];
        let wanted = for_own
            .into_iter()
            .find(|name| names.contains(name.as_str()));
        if let Some(name) = wanted.or(all.then_some(&own)) {
            found.push(self.bundle_named(name)?);
            names.remove(name.as_str());
        }
        for bundle in &self.foreign {
            let name = bundle.trust_domain.id().to_string();
            if all || names.remove(name.as_str()) {
                found.push(self.validation_context(&name, &[bundle]));
            }
        }
        for (index, (served, svid)) in self.svids.iter().enumerate() {
            let name = served.entry.spiffe_id.as_str();
            if all || names.remove(name) {
                found.push(certificate(name, svid));
            } else if index == 0 && names.remove(self.names.svid.as_str()) {
                found.push(certificate(&self.names.svid, svid));
            }
        }
        if names.is_empty() {
            return Ok(found);
        }
        let names: Vec<&str> = names.into_iter().collect();
        let mut text = quoted(&names);
        text.insert_str(
            0,
            "workload is not authorized for the requested identities ",
        );
        Err(Status::invalid_argument(text))
    }

    /// The secret with this name, if there is one. Unlike [`Self::requested`] it resolves every alias: in incremental
    /// xDS each name is a resource of its own.
    pub(super) fn one(&self, name: &str) -> Option<Named> {
        let own = self.own.trust_domain.id().to_string();
        if [&own, &self.names.bundle, &self.names.all_bundles].contains(&&name.to_owned()) {
            return self.bundle_named(name).ok();
        }
        let foreign = |bundle: &&&Bundle| bundle.trust_domain.id().to_string() == name;
        if let Some(bundle) = self.foreign.iter().find(foreign) {
            return Some(self.validation_context(name, &[bundle]));
        }
        let by_id =
            |(served, _): &&(&ServedEntry, &ServedSvid)| served.entry.spiffe_id.as_str() == name;
        let svid = self.svids.iter().find(by_id);
        let svid = svid.or_else(|| self.svids.first().filter(|_| name == self.names.svid));
        svid.map(|(_, svid)| certificate(name, svid))
    }

    /// All secrets, under their SPIFFE names.
    pub(super) fn all(&self) -> Vec<Named> {
        self.requested(&[]).unwrap_or_default()
    }

    /// The validation context of our own bundle, or of all bundles, under one of their names.
    fn bundle_named(&self, name: &str) -> Result<Named, Status> {
        if name != self.names.all_bundles {
            return Ok(self.validation_context(name, &[self.own]));
        }
        if self.validation == Validation::Roots {
            return Err(Status::internal(
                "unable to use \"SPIFFE validator\" on Envoy below 1.17",
            ));
        }
        let mut bundles = vec![self.own];
        bundles.extend(&self.foreign);
        bundles.sort_by_key(|bundle| bundle.trust_domain.as_str());
        Ok(self.validation_context(name, &bundles))
    }

    fn validation_context(&self, name: &str, bundles: &[&Bundle]) -> Named {
        let context = match self.validation {
            Validation::Spiffe => CertificateValidationContext {
                trusted_ca: None,
                custom_validator_config: Some(TypedExtensionConfig {
                    name: VALIDATOR.into(),
                    typed_config: Some(validator(bundles)),
                }),
            },
            Validation::Roots => CertificateValidationContext {
                trusted_ca: bundles.first().map(|bundle| inline(roots(bundle))),
                custom_validator_config: None,
            },
        };
        secret(name, Type::ValidationContext(context))
    }
}

fn validator(bundles: &[&Bundle]) -> Any {
    let trust_domains = bundles
        .iter()
        .map(|bundle| spiffe_cert_validator_config::TrustDomain {
            name: bundle.trust_domain.to_string(),
            trust_bundle: Some(inline(roots(bundle))),
        });
    let config = SpiffeCertValidatorConfig {
        trust_domains: trust_domains.collect(),
    };
    Any {
        type_url: VALIDATOR_TYPE.into(),
        value: config.encode_to_vec(),
    }
}

fn certificate(name: &str, served: &ServedSvid) -> Named {
    let chain = pem::certificates(served.svid().chain());
    let key = pem::private_key(served.key());
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key.as_str().to_owned())),
    };
    secret(name, Type::TlsCertificate(certificate))
}

fn roots(bundle: &Bundle) -> String {
    pem::certificates(
        bundle
            .x509_authorities
            .iter()
            .map(|authority| authority.der()),
    )
}

fn inline(pem: String) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(pem.into())),
    }
}

fn secret(name: &str, what: Type) -> Named {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(what),
    };
    Named {
        name: name.to_owned(),
        any: Any {
            type_url: SECRET_TYPE.into(),
            value: secret.encode_to_vec(),
        },
    }
}

/// As Go's `%q` prints a list of strings: SPIRE's text.
fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", quoted.join(" "))
}
