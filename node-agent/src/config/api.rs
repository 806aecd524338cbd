//! The settings of the two sockets: services, permissions and rates.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use countersign_identity::SpiffeId;

/// The settings of the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Whether the Workload API is served.
    pub workload_api: bool,
    /// What verifiers get.
    pub verifiers: VerifierConfig,
    /// What Envoy gets; `None` if its secret discovery is not served.
    pub sds: Option<SdsConfig>,
    /// Workloads that may use the delegated identity API, on the admin socket.
    pub delegates: Delegates,
    /// Rate limits.
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

/// Workloads that may use the delegated identity API.
pub(crate) type Delegates = Arc<HashSet<SpiffeId>>;

/// What verifiers get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifierConfig {
    /// Whether callers without an identity get the bundle of our own trust domain.
    pub allow_unauthenticated: bool,
    /// Claims of foreign JWT-SVIDs that are passed on, in addition to those that the JWT-SVID standard requires.
    pub foreign_claims: BTreeSet<String>,
}

/// The settings of Envoy's secret discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SdsConfig {
    /// The names of secrets that are the same for every caller.
    pub(crate) names: SecretNames,
    /// How Envoy validates peers, unless its request disables that.
    pub(crate) validation: Validation,
}

/// Fixed names of secrets that resolve to the caller's own SVID and bundles.
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
    /// With its SPIFFE validator: each peer against the bundle of the peer's trust domain.
    #[default]
    Spiffe,
    /// With root certificates only (`trusted_ca`), which limits a context to one trust domain.
    Roots,
}

/// Calls per second, and burst, of all callers with the same selectors. `None` is no limit.
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
