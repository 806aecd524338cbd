//! Join tokens: the first to present a token is the node that it was made for.

use bytes::Bytes;
use countersign_identity::{SelectorSet, SpiffeId, TrustDomain};
use countersign_store::{Store, TokenRefused};
use countersign_transport::SharedClock;
use countersign_transport::error::Chain;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{AttestError, Attested, Conversation, NodeAttestor};
use crate::limits;

/// The attestor `join_token`.
#[derive(Debug)]
pub(crate) struct JoinToken {
    trust_domain: TrustDomain,
    store: Store,
    clock: SharedClock,
}

impl JoinToken {
    /// The attestation type.
    pub(crate) const NAME: &str = "join_token";

    /// An attestor that takes its tokens from this store.
    #[must_use]
    pub(crate) const fn new(trust_domain: TrustDomain, store: Store, clock: SharedClock) -> Self {
        Self {
            trust_domain,
            store,
            clock,
        }
    }

    /// The ID of the node that attests with this token; `None` if the token can't be part of an ID.
    #[must_use]
    pub(crate) fn node_id(trust_domain: &TrustDomain, token: &str) -> Option<SpiffeId> {
        // One segment: a slash would reach into the IDs of other attestors.
        if token.contains('/') {
            return None;
        }
        trust_domain
            .id_with_path(&format!("/spire/agent/{}/{token}", Self::NAME))
            .ok()
    }

    async fn take(&self, payload: Bytes) -> Result<Attested, AttestError> {
        let unknown =
            || AttestError::Invalid(format!("failed to attest: {}", TokenRefused::Unknown));
        if payload.len() > limits::MAX_JOIN_TOKEN_BYTES {
            return Err(unknown());
        }
        let token = std::str::from_utf8(&payload).map_err(|_| unknown())?;
        match self.store.token_take(token, self.clock.now()).await {
            Ok(()) => {}
            Err(TokenRefused::Unknown) => return Err(unknown()),
            Err(expired @ TokenRefused::Expired) => {
                return Err(AttestError::Invalid(expired.to_string()));
            }
            Err(TokenRefused::Store(error)) => {
                tracing::error!(error = %Chain(&error), "Could not take the join token");
                return Err(AttestError::Unavailable(
                    "failed to take the join token: the server's store can't be used at the moment; see its log"
                        .into(),
                ));
            }
        }
        let id = Self::node_id(&self.trust_domain, token).ok_or_else(|| {
            AttestError::Internal("the join token can't be part of a SPIFFE ID".into())
        })?;
        Ok(Attested {
            id,
            selectors: SelectorSet::default(),
            can_reattest: false,
        })
    }
}

impl NodeAttestor for JoinToken {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn attest<'a>(
        &'a self,
        payload: Bytes,
        _conversation: &'a mut dyn Conversation,
    ) -> BoxFuture<'a, Result<Attested, AttestError>> {
        self.take(payload).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use countersign_identity::UnixTime;
    use countersign_transport::clock::Clock as _;
    use countersign_transport::clock::SystemClock;

    use super::*;

    /// Join tokens need no challenge.
    struct Silent;

    impl Conversation for Silent {
        fn challenge(&mut self, _: Bytes) -> BoxFuture<'_, Result<Bytes, AttestError>> {
            panic!("a join token is no challenge")
        }

        fn client(&self) -> Option<std::net::IpAddr> {
            None
        }
    }

    fn attestor() -> JoinToken {
        let td = TrustDomain::new("td").unwrap();
        JoinToken::new(td, Store::in_memory(), SystemClock::shared())
    }

    async fn attest(attestor: &JoinToken, payload: &'static [u8]) -> Result<Attested, AttestError> {
        attestor.attest(payload.into(), &mut Silent).await
    }

    fn soon() -> UnixTime {
        SystemClock.now().after(std::time::Duration::from_secs(600))
    }

    async fn create(attestor: &JoinToken, token: &str, expires_at: UnixTime) {
        let created = attestor.store.token_create(token, expires_at, None).await;
        // Tokens are not in the index.
        drop(created.unwrap());
    }

    #[tokio::test]
    async fn a_token_proves_one_node_once() {
        let attestor = attestor();
        create(&attestor, "t-1", soon()).await;
        let attested = attest(&attestor, b"t-1").await.unwrap();
        assert_eq!(
            attested.id.as_str(),
            "spiffe://td/spire/agent/join_token/t-1"
        );
        assert!(attested.selectors.is_empty() && !attested.can_reattest);
        let again = attest(&attestor, b"t-1").await.unwrap_err();
        assert_eq!(
            again,
            AttestError::Invalid(
                "failed to attest: join token does not exist or has already been used".into()
            )
        );
    }

    #[tokio::test]
    async fn an_expired_token_proves_nothing() {
        let attestor = attestor();
        create(&attestor, "t", UnixTime::from_secs(1)).await;
        let refused = attest(&attestor, b"t").await.unwrap_err();
        assert_eq!(refused, AttestError::Invalid("join token expired".into()));
    }

    #[tokio::test]
    async fn a_malformed_token_is_unknown() {
        let attestor = attestor();
        static LONG: [u8; 256] = [b'a'; 256];
        for payload in [b"\xff\xfe".as_slice(), b"nobody", &LONG] {
            assert!(matches!(
                attest(&attestor, payload).await,
                Err(AttestError::Invalid(_))
            ));
        }
    }

    #[tokio::test]
    async fn one_of_fifty_presenters_of_a_token_wins() {
        let attestor = Arc::new(attestor());
        create(&attestor, "t", soon()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let attestor = Arc::clone(&attestor);
            tasks.spawn(async move { attest(&attestor, b"t").await.is_ok() });
        }
        assert_eq!(
            tasks
                .join_all()
                .await
                .into_iter()
                .filter(|won| *won)
                .count(),
            1
        );
    }

    #[test]
    fn a_token_is_one_segment_of_the_id() {
        let td = TrustDomain::new("td").unwrap();
        assert!(JoinToken::node_id(&td, "abc-1").is_some());
        for bad in ["", "a/b", "..", "a b", "ü"] {
            assert_eq!(JoinToken::node_id(&td, bad), None, "{bad}");
        }
    }
}
