//! A server with an upstream authority, played by roots of the test.

use std::sync::Mutex;

use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::issue::self_signed_authority;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::authority::command::{AuthorityCommand, CommandError};
use crate::authority::journal::Kind;
use crate::upstream::{
    BundleUpdates, Minted, Published, UpstreamAuthority, UpstreamBundle, UpstreamError,
};

/// The upstream server: the last of its roots signs.
#[derive(Debug)]
struct TestUpstream {
    clock: SharedClock,
    state: Mutex<State>,
    bundle: watch::Sender<Option<Arc<UpstreamBundle>>>,
}

#[derive(Debug)]
struct State {
    roots: Vec<IssuingCa>,
    /// The roots that it publishes.
    published: Vec<X509Authority>,
    jwt: Vec<JwtAuthority>,
    away: bool,
}

impl TestUpstream {
    fn new(fixture: &Fixture) -> Arc<Self> {
        let clock = fixture.clock.shared();
        let root = root(clock.now());
        let state = State {
            published: vec![root.authority().clone()],
            roots: vec![root],
            jwt: Vec::new(),
            away: false,
        };
        Arc::new(Self {
            clock,
            state: Mutex::new(state),
            bundle: watch::Sender::new(None),
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let done = change(&mut state);
        let bundle = UpstreamBundle {
            x509: state.published.clone(),
            jwt: state.jwt.clone(),
        };
        self.bundle.send_replace(Some(Arc::new(bundle)));
        done
    }

    fn published(&self) -> Vec<X509Authority> {
        self.state.lock().unwrap().published.clone()
    }

    /// Another root signs from now on, and the one before is tainted.
    fn taint(&self) {
        let next = root(self.clock.now());
        self.change(|state| {
            let before = state.published.pop().unwrap();
            state.published = vec![before.with_tainted(true), next.authority().clone()];
            state.roots.push(next);
        });
    }

    fn answers(&self, action: &'static str) -> Result<(), UpstreamError> {
        if self.state.lock().unwrap().away {
            return Err(UpstreamError {
                name: "test",
                action,
                source: "it is away".into(),
            });
        }
        Ok(())
    }

    fn mint(&self, csr: &[u8], ttl: Duration) -> Minted {
        let csr = Csr::parse(csr).unwrap();
        csr.verify_signature().unwrap();
        self.change(|state| {
            let root = state.roots.last().unwrap();
            let domain = settings(60).trust_domain;
            let now = self.clock.now();
            let issued = root.issue_authority(&domain, csr.public_key(), ttl, now);
            Minted {
                chain: issued.unwrap().chain,
                roots: state.published.clone(),
            }
        })
    }
}

impl UpstreamAuthority for TestUpstream {
    fn name(&self) -> &'static str {
        "test"
    }

    fn mint_x509_ca(
        &self,
        csr: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Minted, UpstreamError>> {
        async move {
            self.answers("sign")?;
            Ok(self.mint(&csr, ttl))
        }
        .boxed()
    }

    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
    ) -> BoxFuture<'a, Result<Published, UpstreamError>> {
        async move {
            self.answers("publish a JWT key")?;
            Ok(self.change(|state| {
                state.jwt.push(key.clone());
                Published::Upstream(state.jwt.clone())
            }))
        }
        .boxed()
    }

    fn bundle(&self) -> Option<BundleUpdates> {
        Some(self.bundle.subscribe())
    }

    fn follow(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move { stop.cancelled().await }.boxed()
    }
}

fn root(now: UnixTime) -> IssuingCa {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let domain = settings(60).trust_domain;
    let root = self_signed_authority(&domain, &Subject::authority(), &key, secs(86_400), now);
    IssuingCa::new(root.unwrap(), Vec::new(), Arc::new(key)).unwrap()
}

impl Fixture {
    async fn start_with(&self, upstream: &Arc<TestUpstream>) -> Result<Rotation, RotationError> {
        Rotation::open_with_upstream(
            settings(60),
            Arc::clone(&self.keys),
            self.store.clone(),
            SERVER.into(),
            self.clock.shared(),
            Some(Arc::clone(upstream) as Arc<dyn UpstreamAuthority>),
        )
        .await
    }

    /// The chain of an SVID that was signed now, if it leads to a root of the bundle that is not tainted.
    async fn chain(&self, rotation: &Rotation) -> Option<usize> {
        let issued = rotation.authority().sign_agent(&agent_id(), csr()).await;
        let issued = issued.unwrap();
        let mut bundle = self.bundle().await;
        bundle.x509_authorities.retain(|root| !root.is_tainted());
        let bundles = BundleSet::from_iter([bundle]);
        let verified = verify_peer(&issued.chain, &bundles, self.clock.now());
        verified.is_ok().then_some(issued.chain.len())
    }
}

fn own_key(rotation: &Rotation) -> String {
    let active = rotation.journal().jwt.active();
    active.unwrap().authority.key_id.clone()
}

#[tokio::test]
async fn svids_lead_to_the_upstream_root_which_gets_the_jwt_key() {
    let fixture = Fixture::new();
    let upstream = TestUpstream::new(&fixture);
    let mut rotation = fixture.start_with(&upstream).await.unwrap();
    rotation.advance().await.unwrap();
    let bundle = fixture.bundle().await;
    assert_eq!(bundle.x509_authorities, upstream.published());
    assert_eq!(fixture.chain(&rotation).await, Some(2));
    let keys = upstream.change(|state| state.jwt.clone());
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].key_id, own_key(&rotation));
    assert_eq!(bundle.jwt_authorities, keys);
    let states = rotation.authority().states(Kind::X509).unwrap();
    assert_eq!(
        states.active.upstream_id,
        upstream.published()[0].authority_id()
    );
}

#[tokio::test]
async fn the_bundle_is_the_upstream_one_plus_what_this_server_needs() {
    let fixture = Fixture::new();
    let upstream = TestUpstream::new(&fixture);
    let mut rotation = fixture.start_with(&upstream).await.unwrap();
    let elsewhere = JwtAuthority {
        key_id: "elsewhere".into(),
        ..upstream.change(|state| state.jwt[0].clone())
    };
    let second = root(fixture.clock.now());
    upstream.change(|state| {
        state.published.push(second.authority().clone());
        state.jwt = vec![elsewhere.clone()];
    });
    rotation.advance().await.unwrap();
    let bundle = fixture.bundle().await;
    assert_eq!(bundle.x509_authorities, upstream.published());
    let ids: Vec<_> = bundle.jwt_authorities.iter().map(|k| &k.key_id).collect();
    assert_eq!(ids, [&own_key(&rotation), "elsewhere"]);

    // What the upstream removes is removed here, whether or not it was ever seen as tainted.
    upstream.change(|state| {
        state.published.pop();
        state.jwt.clear();
    });
    rotation.advance().await.unwrap();
    let bundle = fixture.bundle().await;
    assert_eq!(bundle.x509_authorities, upstream.published());
    assert_eq!(bundle.jwt_authorities.len(), 1);
    // Without news, nothing is written.
    rotation.advance().await.unwrap();
    assert_eq!(fixture.bundle().await, bundle);
}

#[tokio::test]
async fn an_authority_is_replaced_before_its_root_shows_as_tainted() {
    let fixture = Fixture::new();
    let upstream = TestUpstream::new(&fixture);
    let mut rotation = fixture.start_with(&upstream).await.unwrap();
    rotation.advance().await.unwrap();
    let before = active_root(&rotation);
    upstream.taint();
    // The upstream is away for the moment: nothing changes, and nothing is published.
    upstream.change(|state| state.away = true);
    assert!(rotation.advance().await.is_err());
    assert_eq!(active_root(&rotation), before);
    let roots = fixture.bundle().await.x509_authorities;
    assert!(!roots.iter().any(X509Authority::is_tainted));

    upstream.change(|state| state.away = false);
    rotation.advance().await.unwrap();
    assert_ne!(active_root(&rotation), before);
    assert_eq!(
        fixture.bundle().await.x509_authorities,
        upstream.published()
    );
    assert_eq!(fixture.chain(&rotation).await, Some(2));
}

#[tokio::test]
async fn an_authority_signed_by_a_tainted_root_is_refused() {
    let fixture = Fixture::new();
    let upstream = TestUpstream::new(&fixture);
    let mut rotation = fixture.start_with(&upstream).await.unwrap();
    rotation.advance().await.unwrap();
    let before = active_root(&rotation);
    upstream.change(|state| state.published[0] = state.published[0].with_tainted(true));
    let refused = rotation.advance().await.unwrap_err();
    assert!(matches!(refused, RotationError::Minted(_)), "{refused}");
    assert_eq!(active_root(&rotation), before);
}

#[tokio::test]
async fn the_active_authority_signs_while_the_upstream_is_away() {
    let fixture = Fixture::new();
    let upstream = TestUpstream::new(&fixture);
    let mut rotation = fixture.start_with(&upstream).await.unwrap();
    let before = active_root(&rotation);
    upstream.change(|state| state.away = true);
    fixture.forward(40);
    assert!(rotation.advance().await.is_err());
    assert_eq!(fixture.chain(&rotation).await, Some(2));
    drop(rotation);
    // After a restart too.
    let mut rotation = fixture.start_with(&upstream).await.unwrap();
    assert_eq!(active_root(&rotation), before);
    assert_eq!(fixture.chain(&rotation).await, Some(2));
    upstream.change(|state| state.away = false);
    rotation.advance().await.unwrap();
    assert!(rotation.journal().x509.prepared().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_first_start_waits_for_the_upstream_and_then_fails() {
    let fixture = Fixture::new();
    let upstream = TestUpstream::new(&fixture);
    upstream.change(|state| state.away = true);
    let refused = fixture.start_with(&upstream).await.err().unwrap();
    assert!(matches!(refused, RotationError::Upstream(_)), "{refused}");
    assert!(fixture.keys.list().unwrap().is_empty());

    let back = Arc::clone(&upstream);
    tokio::spawn(async move {
        tokio::time::sleep(secs(5)).await;
        back.change(|state| state.away = false);
    });
    fixture.start_with(&upstream).await.unwrap();
}

#[tokio::test]
async fn a_former_root_changes_to_its_upstream_when_it_is_due() {
    let fixture = Fixture::new();
    let own = active_root(&fixture.start().await);
    let upstream = TestUpstream::new(&fixture);
    let mut rotation = fixture.start_with(&upstream).await.unwrap();
    rotation.advance().await.unwrap();
    // Prepared at once, so that peers learn of the upstream root; they still know the own one.
    assert_eq!(active_root(&rotation), own);
    let prepared = rotation.journal().x509.prepared().unwrap();
    assert!(!prepared.authority.certificate.is_root());
    let roots = fixture.bundle().await.x509_authorities;
    assert!(roots.iter().any(|root| root.der().as_ref() == own));
    assert!(roots.contains(&upstream.published()[0]));

    fixture.forward(52);
    rotation.advance().await.unwrap();
    assert_ne!(active_root(&rotation), own);
    assert_eq!(fixture.chain(&rotation).await, Some(2));
    let roots = fixture.bundle().await.x509_authorities;
    assert!(roots.iter().any(|root| root.der().as_ref() == own));
}

#[tokio::test]
async fn only_the_upstream_of_the_old_authority_can_be_tainted() {
    let fixture = Fixture::new();
    let upstream = TestUpstream::new(&fixture);
    let rotation = fixture.start_with(&upstream).await.unwrap();
    let authority = rotation.authority();
    let stop = CancellationToken::new();
    let running = tokio::spawn(rotation.run(stop.clone()));
    let first = upstream.published()[0].authority_id().to_owned();

    let own = authority.states(Kind::X509).unwrap().active.id;
    for command in [
        AuthorityCommand::Taint(Kind::X509, own.clone()),
        AuthorityCommand::Revoke(Kind::X509, own),
    ] {
        let refused = authority.command(command).await;
        assert!(
            matches!(refused, Err(CommandError::HasUpstream)),
            "{refused:?}"
        );
    }
    let refused = authority
        .command(AuthorityCommand::TaintUpstream(first.clone()))
        .await;
    assert!(
        matches!(refused, Err(CommandError::IsActive)),
        "{refused:?}"
    );

    // Another upstream root signs, and with it the next authority here.
    let next = root(fixture.clock.now());
    upstream.change(|state| {
        state.published.push(next.authority().clone());
        state.roots.push(next);
    });
    let prepared = authority
        .command(AuthorityCommand::Prepare(Kind::X509))
        .await
        .unwrap();
    let activate = AuthorityCommand::Activate(Kind::X509, open(prepared).await.id);
    open(authority.command(activate).await.unwrap()).await;
    let taint = AuthorityCommand::TaintUpstream(first.clone());
    open(authority.command(taint).await.unwrap()).await;
    // An upstream bundle without the taint does not take it back.
    let third = root(fixture.clock.now());
    upstream.change(|state| state.published.push(third.authority().clone()));
    while fixture.bundle().await.x509_authorities.len() < 3 {
        tokio::task::yield_now().await;
    }
    let roots = fixture.bundle().await.x509_authorities;
    let tainted = roots.iter().filter(|root| root.is_tainted());
    let tainted: Vec<_> = tainted.map(X509Authority::authority_id).collect();
    assert_eq!(tainted, [&first]);
    let revoke = AuthorityCommand::RevokeUpstream(first);
    open(authority.command(revoke).await.unwrap()).await;
    assert_eq!(fixture.bundle().await.x509_authorities.len(), 2);
    stop.cancel();
    running.await.unwrap().unwrap();
}
