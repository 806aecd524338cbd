//! Reads the settings of callers: the public socket's services and rates, and the admin socket.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use countersign_config::Section;
use countersign_identity::{SpiffeId, TrustDomain};

use super::Overrides;
use super::api::{
    ApiConfig, Delegates, MethodRates, SdsConfig, SecretNames, Validation, VerifierConfig,
};
use crate::limits;

/// A larger cache of tokens could exhaust the memory of a small machine.
const MOST_JWT_SVIDS: i64 = 1_000_000;

pub(super) fn api(
    agent: &Section<'_>,
    overrides: &Overrides,
    trust_domain: Option<&TrustDomain>,
) -> ApiConfig {
    let allow_unauthenticated = overrides.allow_unauthenticated_verifiers
        || agent.bool("allow_unauthenticated_verifiers") == Some(true);
    let foreign_claims = agent.list("allowed_foreign_jwt_claims").unwrap_or_default();
    let disabled = agent.bool("disable_workload_api") == Some(true);
    ApiConfig {
        workload_api: !(disabled || overrides.disable_workload_api),
        verifiers: VerifierConfig {
            allow_unauthenticated,
            foreign_claims: foreign_claims.into_iter().collect(),
        },
        sds: sds(agent).filter(|_| !overrides.disable_sds_api),
        delegates: delegates(agent, trust_domain),
        rates: rates(&agent.section("experimental").section("ratelimit")),
    }
}

fn rates(section: &Section<'_>) -> MethodRates {
    let rate = |key: &str| {
        let calls = section.integer(key, 0..=u32::MAX.into())?;
        // Zero is no limit.
        u32::try_from(calls).ok().and_then(NonZeroU32::new)
    };
    MethodRates {
        fetch_x509_svid: rate("fetch_x509_svid"),
        fetch_x509_bundles: rate("fetch_x509_bundles"),
        fetch_jwt_svid: rate("fetch_jwt_svid"),
        fetch_jwt_bundles: rate("fetch_jwt_bundles"),
        stream_secrets: rate("stream_secrets"),
        fetch_secrets: rate("fetch_secrets"),
    }
}

pub(super) fn jwt_svids(agent: &Section<'_>) -> usize {
    agent
        .integer("jwt_svid_cache_max_size", 0..=MOST_JWT_SVIDS)
        // As in SPIRE, zero means the default size.
        .filter(|size| *size > 0)
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(limits::JWT_SVIDS)
}

fn sds(agent: &Section<'_>) -> Option<SdsConfig> {
    let disabled = agent.bool("disable_sds_api") == Some(true);
    let sds = agent.section("sds");
    let usual = SecretNames::default();
    let name =
        |key: &str, usual: String| sds.string(key).filter(|n| !n.is_empty()).unwrap_or(usual);
    let names = SecretNames {
        svid: name("default_svid_name", usual.svid),
        bundle: name("default_bundle_name", usual.bundle),
        all_bundles: name("default_all_bundles_name", usual.all_bundles),
    };
    if names.bundle == names.all_bundles {
        sds.warn(
            "default_all_bundles_name",
            "it is the same as default_bundle_name and has no effect: choose another name",
        );
    }
    let validation = match sds.bool("disable_spiffe_cert_validation") {
        Some(true) => Validation::Roots,
        _ => Validation::Spiffe,
    };
    (!disabled).then_some(SdsConfig { names, validation })
}

fn delegates(agent: &Section<'_>, trust_domain: Option<&TrustDomain>) -> Delegates {
    let mut delegates = HashSet::new();
    for text in agent.list("authorized_delegates").unwrap_or_default() {
        match SpiffeId::parse(&text) {
            Err(error) => agent.wrong("authorized_delegates", format!("{text:?}: {error}")),
            Ok(id) if trust_domain.is_some_and(|td| !id.is_member_of(td)) => agent.wrong(
                "authorized_delegates",
                format!("{text:?} is not of this node's trust domain"),
            ),
            Ok(id) => {
                delegates.insert(id);
            }
        }
    }
    delegates.into()
}

/// The admin socket, which must not be in a folder that every user of the machine may open.
pub(super) fn admin_socket(agent: &Section<'_>, public: &Path) -> Option<PathBuf> {
    let admin = agent.path("admin_socket_path")?;
    if is_below_folder_of(&admin, public) {
        agent.wrong(
            "admin_socket_path",
            format!(
                "the admin socket can't be in, or below, the folder of the Workload API's socket ({}): that one is \
                 everybody's",
                public.display()
            ),
        );
    }
    Some(admin)
}

fn is_below_folder_of(admin: &Path, public: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute(public)
        .parent()
        .is_some_and(|folder| absolute(admin).starts_with(folder))
}
