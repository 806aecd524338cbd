//! Proof of possession of a certificate's key, as SPIRE's `x509pop`: the node sends a certificate that leads to a known
//! authority, and signs a nonce with its key.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::bundle::{Bundles, X509Authority};
use countersign_identity::verify::paths;
use countersign_identity::{Selector, SelectorSet, SpiffeId, TrustDomain};
use countersign_transport::SharedClock;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls_pki_types::CertificateDer;

use super::path_template::PathTemplate;
use super::{AttestError, Attested, Conversation, NodeAttestor};

mod leaf;
mod proof;
mod roots;
#[cfg(test)]
mod tests;

pub(crate) use leaf::field_kind;
use leaf::{Leaf, fingerprint};
use proof::Challenge;
pub(crate) use roots::{InvalidRoots, Roots};

/// The authorities of the certificates of nodes.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// Authorities of a PKI outside of this trust domain.
    ExternalPki(Roots),
    /// This trust domain itself: the certificate is an X.509-SVID whose path begins with the prefix, which ends with `/`.
    Spiffe {
        /// The beginning of the path; templates get the path without it.
        prefix: String,
    },
}

/// The settings of the attestor.
#[derive(Clone, Debug)]
pub(crate) struct X509PopSettings {
    /// The authorities.
    pub(crate) mode: Mode,
    /// The path of the node agent's ID after `/spire/agent`.
    pub(crate) path_template: PathTemplate,
    /// The most intermediate certificates that a node may send.
    pub(crate) max_intermediates: usize,
    /// The longest RSA key, in bits.
    pub(crate) max_rsa_key_size: usize,
    /// Whether one of the certificate's IP addresses must be the one that the node calls from.
    pub(crate) verify_client_ip: bool,
}

/// The attestor `x509pop`.
#[derive(Debug)]
pub(crate) struct X509Pop {
    settings: X509PopSettings,
    trust_domain: TrustDomain,
    bundles: Arc<dyn Bundles>,
    clock: SharedClock,
}

/// A certificate that leads to an authority. Whether the caller has its key is not known yet.
struct Trusted {
    leaf: Leaf,
    /// The SHA-1 fingerprints of all certificates on all paths to authorities, each once, in the order of the paths.
    authorities: Vec<String>,
}

impl X509Pop {
    /// The attestation type.
    pub(crate) const NAME: &str = "x509pop";

    /// An attestor for a trust domain; `bundles` has the trust domain's own one, for [`Mode::Spiffe`].
    #[must_use]
    pub(crate) const fn new(
        settings: X509PopSettings,
        trust_domain: TrustDomain,
        bundles: Arc<dyn Bundles>,
        clock: SharedClock,
    ) -> Self {
        Self {
            settings,
            trust_domain,
            bundles,
            clock,
        }
    }

    async fn prove(
        &self,
        payload: &[u8],
        conversation: &mut dyn Conversation,
    ) -> Result<Attested, AttestError> {
        let certificates = proof::certificates(payload)?;
        let client = conversation.client();
        let trusted = self.trusted(&certificates, client)?;
        let challenge = Challenge::new(&trusted.leaf)
            .map_err(|e| AttestError::Internal(format!("unable to generate challenge: {e}")))?;
        let response = conversation.challenge(challenge.to_json()).await?;
        challenge.check(&trusted.leaf, &response).await?;
        self.attested(trusted)
    }

    /// Checks the certificates, cheap checks first: anyone can call this.
    fn trusted(
        &self,
        certificates: &[Vec<u8>],
        client: Option<IpAddr>,
    ) -> Result<Trusted, AttestError> {
        let invalid = |what: String| AttestError::Invalid(what);
        let (first, others) = certificates
            .split_first()
            .ok_or_else(|| invalid("no certificate to attest".into()))?;
        if others.len() > self.settings.max_intermediates {
            return Err(invalid("too many intermediate certificates".into()));
        }
        let longest = self.settings.max_rsa_key_size;
        let leaf = Leaf::parse(first)
            .map_err(|e| invalid(format!("unable to parse leaf certificate: {e}")))?;
        if leaf.rsa_bits().is_some_and(|bits| bits > longest) {
            return Err(invalid("leaf certificate key size too large".into()));
        }
        for (place, der) in others.iter().enumerate() {
            let other = Leaf::parse(der).map_err(|e| {
                invalid(format!(
                    "unable to parse intermediate certificate {place}: {e}"
                ))
            })?;
            if other.rsa_bits().is_some_and(|bits| bits > longest) {
                return Err(invalid(format!(
                    "intermediate certificate {place} key size too large"
                )));
            }
        }
        let authorities = self.verify(first, others)?;
        self.check_address(&leaf, client)?;
        Ok(Trusted { leaf, authorities })
    }

    fn verify(&self, leaf: &[u8], others: &[Vec<u8>]) -> Result<Vec<String>, AttestError> {
        let denied = |why: &dyn std::fmt::Display| {
            AttestError::Denied(format!("certificate verification failed: {why}"))
        };
        let now = self.clock.now();
        let own = self.bundles.bundle(self.trust_domain.as_str());
        let authorities: &[X509Authority] = match &self.settings.mode {
            Mode::ExternalPki(roots) if roots.pins(leaf, now) => return Ok(Vec::new()),
            Mode::ExternalPki(roots) => roots.authorities(),
            Mode::Spiffe { .. } => own.as_deref().map_or(&[], |own| &own.x509_authorities),
        };
        let between: Vec<_> = others
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let found = paths(&CertificateDer::from(leaf), &between, authorities, now);
        let mut fingerprints = Vec::new();
        for cert in found.map_err(|e| denied(&e))?.iter().flatten() {
            let fingerprint = fingerprint(cert);
            if !fingerprints.contains(&fingerprint) {
                fingerprints.push(fingerprint);
            }
        }
        Ok(fingerprints)
    }

    fn check_address(&self, leaf: &Leaf, client: Option<IpAddr>) -> Result<(), AttestError> {
        if !self.settings.verify_client_ip {
            return Ok(());
        }
        let client = client.ok_or_else(|| {
            AttestError::Internal("client IP not available for verification".into())
        })?;
        if leaf.addresses.contains(&client) {
            return Ok(());
        }
        Err(AttestError::Denied(format!(
            "client IP {client} does not match any certificate IP SAN"
        )))
    }

    fn attested(&self, trusted: Trusted) -> Result<Attested, AttestError> {
        let Trusted { leaf, authorities } = trusted;
        let trimmed = match &self.settings.mode {
            Mode::ExternalPki(_) => String::new(),
            Mode::Spiffe { prefix } => self.trimmed_path(&leaf, prefix)?,
        };
        let named = leaf.named_values(&self.trust_domain);
        let failed = |why: &dyn std::fmt::Display| {
            AttestError::Internal(format!("failed to make spiffe id: {why}"))
        };
        let field = |path: &[String]| leaf.field(path, &self.trust_domain, &trimmed, &named);
        let path = self.settings.path_template.render(&field);
        let path = path.map_err(|e| failed(&e))?;
        let id = self
            .trust_domain
            .id_with_path(&format!("/spire/agent{path}"));
        let id = id.map_err(|e| failed(&e))?;
        let values = leaf
            .common_name()
            .map(|name| format!("subject:cn:{name}"))
            .into_iter()
            .chain(authorities.iter().map(|f| format!("ca:fingerprint:{f}")))
            .chain([format!("serialnumber:{}", leaf.serial_hex)])
            .chain(
                named
                    .iter()
                    .map(|(key, value)| format!("san:{key}:{value}")),
            );
        let selectors: SelectorSet = values
            .filter_map(|value| Selector::new(Self::NAME, &value).ok())
            .collect();
        Ok(Attested {
            id,
            selectors,
            can_reattest: true,
        })
    }

    /// The path of the SVID that is exchanged, without its prefix.
    fn trimmed_path(&self, leaf: &Leaf, prefix: &str) -> Result<String, AttestError> {
        let id = leaf
            .uris
            .iter()
            .find(|uri| uri.starts_with("spiffe:"))
            .and_then(|uri| SpiffeId::parse(uri).ok())
            .filter(|id| id.is_member_of(&self.trust_domain))
            .ok_or_else(|| AttestError::Denied("valid SVID x509 cert not found".into()))?;
        let trimmed = id.path().strip_prefix(prefix);
        let trimmed = trimmed
            .ok_or_else(|| AttestError::Denied("x509 cert doesnt match SVID prefix".into()))?;
        Ok(trimmed.to_owned())
    }
}

impl NodeAttestor for X509Pop {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn attest<'a>(
        &'a self,
        payload: Bytes,
        conversation: &'a mut dyn Conversation,
    ) -> BoxFuture<'a, Result<Attested, AttestError>> {
        async move {
            let attested = self.prove(&payload, conversation).await;
            attested.map_err(|error| error.by(Self::NAME))
        }
        .boxed()
    }
}
