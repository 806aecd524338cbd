//! The trust bundles in force.

use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_identity::bundle::{Bundle, Bundles};
use countersign_identity::{BundleSet, TrustDomain};

/// The bundles of all trust domains, replaced whole; every verifier of the process reads here.
#[derive(Debug, Default)]
pub(crate) struct Trust(ArcSwap<BundleSet>);

impl Trust {
    /// Puts other bundles in force. Gives the trust domains that lost an authority: what was verified under it counts
    /// no more.
    pub(crate) fn replace(&self, next: BundleSet) -> Vec<TrustDomain> {
        let next = Arc::new(next);
        let last = self.0.swap(Arc::clone(&next));
        let lost = last.iter().filter(|earlier| {
            next.bundle(earlier.trust_domain.as_str())
                .is_none_or(|now| now.lost_authority_of(earlier))
        });
        lost.map(|bundle| bundle.trust_domain.clone()).collect()
    }
}

impl Bundles for Trust {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.0.load().bundle(trust_domain)
    }
}
