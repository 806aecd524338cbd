//! The trust bundles in force, and who must hear when an authority is gone.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use countersign_identity::bundle::{Bundle, Bundles};
use countersign_identity::{BundleSet, TrustDomain};

type Forget = Box<dyn Fn(&TrustDomain) + Send + Sync>;

/// The bundles of all trust domains, replaced whole; every verifier of the process reads here.
#[derive(Default)]
pub(crate) struct Trust {
    bundles: ArcSwap<BundleSet>,
    /// Called with each trust domain that lost an authority: what was verified under it counts no more.
    forget: OnceLock<Forget>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("bundles", &self.bundles)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Sets what is called when a trust domain loses an authority. Only the first call counts.
    pub(crate) fn on_loss(&self, forget: impl Fn(&TrustDomain) + Send + Sync + 'static) {
        drop(self.forget.set(Box::new(forget)));
    }

    pub(crate) fn replace(&self, next: BundleSet) {
        let next = Arc::new(next);
        let last = self.bundles.swap(Arc::clone(&next));
        for earlier in last.iter() {
            let lost = next
                .bundle(earlier.trust_domain.as_str())
                .is_none_or(|now| now.lost_authority_of(earlier));
            if lost && let Some(forget) = self.forget.get() {
                tracing::info!(trust_domain = %earlier.trust_domain, "an authority was removed");
                forget(&earlier.trust_domain);
            }
        }
    }
}

impl Bundles for Trust {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.bundles.load().bundle(trust_domain)
    }
}
