//! Rate limits of the public socket: per method, for all callers with the same selectors together (docs/wire.md, F.2).

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::digest;
use countersign_identity::SelectorSet;
use countersign_limits::KeyedBuckets;
use countersign_limits::gcra::Rate;
use tokio::time::Instant;
use tonic::Status;

use crate::config::MethodRates;
use crate::limits;
use crate::metrics::RATE_LIMITED;

/// The methods that can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Method {
    X509Svid,
    X509Bundles,
    JwtSvid,
    JwtBundles,
    /// Incremental or not.
    StreamSecrets,
    FetchSecrets,
}

impl Method {
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::X509Svid => "/SpiffeWorkloadAPI/FetchX509SVID",
            Self::X509Bundles => "/SpiffeWorkloadAPI/FetchX509Bundles",
            Self::JwtSvid => "/SpiffeWorkloadAPI/FetchJWTSVID",
            Self::JwtBundles => "/SpiffeWorkloadAPI/FetchJWTBundles",
            Self::StreamSecrets => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            Self::FetchSecrets => "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        }
    }
}

/// Token buckets, one per method and set of selectors.
#[derive(Clone, Debug)]
pub(super) struct RateLimits {
    rates: MethodRates,
    buckets: Arc<KeyedBuckets<(Method, SelectorDigest)>>,
    /// The buckets count time from here.
    start: Instant,
}

/// A digest of selectors: of the same size however many there are.
type SelectorDigest = [u8; digest::SHA256_OUTPUT_LEN];

impl RateLimits {
    pub(super) fn new(rates: MethodRates) -> Self {
        Self {
            rates,
            buckets: Arc::new(KeyedBuckets::new(limits::RATE_BUCKETS)),
            start: Instant::now(),
        }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// UNAVAILABLE if the bucket is empty: SPIFFE clients retry after that code.
    pub(super) fn take(&self, method: Method, selectors: &SelectorSet) -> Result<(), Status> {
        let Some(rate) = rate_of(&self.rates, method) else {
            return Ok(());
        };
        let rate = Rate::per_second(rate.get(), rate.get());
        let key = (method, key(selectors));
        self.buckets
            .take(key, rate, self.start.elapsed())
            .map_err(|_| {
                let path = method.path();
                ::metrics::counter!(RATE_LIMITED.name, "method" => path.trim_start_matches('/'))
                    .increment(1);
                Status::unavailable(format!("rate limit exceeded for {path}"))
            })
    }
}

const fn rate_of(rates: &MethodRates, method: Method) -> Option<NonZeroU32> {
    match method {
        Method::X509Svid => rates.fetch_x509_svid,
        Method::X509Bundles => rates.fetch_x509_bundles,
        Method::JwtSvid => rates.fetch_jwt_svid,
        Method::JwtBundles => rates.fetch_jwt_bundles,
        Method::StreamSecrets => rates.stream_secrets,
        Method::FetchSecrets => rates.fetch_secrets,
    }
}

fn key(selectors: &SelectorSet) -> SelectorDigest {
    let mut digest = digest::Context::new(&digest::SHA256);
    for selector in selectors {
        digest.update(selector.kind().as_bytes());
        digest.update(&[0]);
        digest.update(selector.value().as_bytes());
        digest.update(&[0]);
    }
    let mut key = [0; digest::SHA256_OUTPUT_LEN];
    key.copy_from_slice(digest.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_identity::Selector;

    use super::*;

    fn selectors(uid: usize) -> SelectorSet {
        let selector = Selector::new("unix", &format!("uid:{uid}")).unwrap();
        std::iter::once(selector).collect()
    }

    fn limits_of(rate: u32) -> RateLimits {
        RateLimits::new(MethodRates {
            fetch_x509_svid: NonZeroU32::new(rate),
            ..MethodRates::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_tokens_come_back_with_time() {
        let limits = limits_of(3);
        let take = || limits.take(Method::X509Svid, &selectors(1));
        for _ in 0..3 {
            take().unwrap();
        }
        let refused = take().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert_eq!(
            refused.message(),
            "rate limit exceeded for /SpiffeWorkloadAPI/FetchX509SVID"
        );
        tokio::time::advance(Duration::from_millis(334)).await;
        assert!(take().is_ok());
        assert!(take().is_err());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..9).filter(|_| take().is_ok()).count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn other_selectors_and_other_methods_have_tokens_of_their_own() {
        let limits = limits_of(1);
        limits.take(Method::X509Svid, &selectors(1)).unwrap();
        assert!(limits.take(Method::X509Svid, &selectors(1)).is_err());
        assert!(limits.take(Method::X509Svid, &selectors(2)).is_ok());
        for _ in 0..100 {
            limits.take(Method::FetchSecrets, &selectors(1)).unwrap();
        }
    }
}
