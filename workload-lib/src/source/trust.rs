//! The trust bundles in force.

use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_identity::bundle::{Bundle, Bundles};
use countersign_identity::{BundleSet, TrustDomain};

/// The bundles of all trust domains, replaced whole; every verifier of the process reads here.
#[derive(Debug, Default)]
pub(crate) struct Trust(ArcSwap<BundleSet>);

impl Trust {
    /// The trust domains that lose an authority with these bundles: what was verified under it counts no more.
    pub(crate) fn lost_with(&self, next: &BundleSet) -> Vec<TrustDomain> {
        let now = self.0.load();
        let lost = now.iter().filter(|earlier| {
            next.bundle(earlier.trust_domain.as_str())
                .is_none_or(|later| later.lost_authority_of(earlier))
        });
        lost.map(|bundle| bundle.trust_domain.clone()).collect()
    }

    /// Puts other bundles in force.
    pub(crate) fn replace(&self, next: BundleSet) {
        self.0.store(Arc::new(next));
    }
}

impl Bundles for Trust {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.0.load().bundle(trust_domain)
    }
}
