//! What the configuration says about the two sockets: what is served there, to whom, and how often.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use countersign_identity::SpiffeId;

/// What callers get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Whether the Workload API is served.
    pub workload_api: bool,
    /// What verifiers get.
    pub verifiers: VerifierConfig,
    /// What Envoy gets; `None` if its secret discovery is not served.
    pub sds: Option<SdsConfig>,
    /// Workloads that may ask for the identities of others, on the admin socket.
    pub delegates: Delegates,
    /// How often callers may call.
    pub rates: MethodRates,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            workload_api: true,
            verifiers: VerifierConfig::default(),
            sds: None,
            delegates: Delegates::default(),
            rates: MethodRates::default(),
        }
    }
}

impl ApiConfig {
    /// Whether anything is served on the public socket; it is not opened otherwise.
    pub(crate) const fn has_public_socket(&self) -> bool {
        self.workload_api || self.sds.is_some()
    }
}

/// Workloads that may ask for the identities of others.
pub(crate) type Delegates = Arc<HashSet<SpiffeId>>;

/// What verifiers get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifierConfig {
    /// Whether callers without an identity get the bundles of the own trust domain.
    pub allow_unauthenticated: bool,
    /// Claims of foreign JWT-SVIDs that are passed on besides those that the JWT-SVID standard requires.
    pub foreign_claims: BTreeSet<String>,
}

/// What Envoy's secret discovery sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SdsConfig {
    /// The names of secrets that are the same for every caller.
    pub(crate) names: SecretNames,
    /// How Envoy validates peers, unless its request says otherwise.
    pub(crate) validation: Validation,
}

/// Names of secrets that stand for the caller's own, whatever its SPIFFE ID is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretNames {
    /// The first SVID.
    pub(crate) svid: String,
    /// The bundle of the own trust domain.
    pub(crate) bundle: String,
    /// The bundles of all trust domains.
    pub(crate) all_bundles: String,
}

impl Default for SecretNames {
    fn default() -> Self {
        Self {
            svid: "default".into(),
            bundle: "ROOTCA".into(),
            all_bundles: "ALL".into(),
        }
    }
}

/// How Envoy validates peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Validation {
    /// With its SPIFFE validator: each peer by the bundle of the peer's trust domain.
    #[default]
    Spiffe,
    /// With root certificates alone, which are those of one trust domain.
    Roots,
}

/// Calls per second, and in one burst, of callers with the same selectors. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodRates {
    /// Streams of X.509-SVIDs.
    pub(crate) fetch_x509_svid: Option<NonZeroU32>,
    /// Streams of X.509 bundles.
    pub(crate) fetch_x509_bundles: Option<NonZeroU32>,
    /// Calls for JWT-SVIDs.
    pub(crate) fetch_jwt_svid: Option<NonZeroU32>,
    /// Streams of JWT bundles.
    pub(crate) fetch_jwt_bundles: Option<NonZeroU32>,
    /// Streams of Envoy's secrets.
    pub(crate) stream_secrets: Option<NonZeroU32>,
    /// Calls for Envoy's secrets.
    pub(crate) fetch_secrets: Option<NonZeroU32>,
}
