//! Commands of administrators between the steps that are due by the clock.

use std::sync::Mutex;

use countersign_identity::bundle::Bundles;
use countersign_identity::jwt::verify_jwt;
use countersign_identity::tls::KeyExchange;
use tokio_util::sync::CancellationToken;

use super::*;

/// The bundle as it was after the last command.
#[derive(Debug, Default)]
struct Seen(Mutex<Option<Arc<Bundle>>>);

impl Seen {
    async fn look(&self, fixture: &Fixture) {
        *self.0.lock().unwrap() = Some(Arc::new(fixture.bundle().await));
    }
}

impl Bundles for Seen {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        let bundle = self.0.lock().unwrap().clone();
        bundle.filter(|bundle| bundle.trust_domain.as_str() == trust_domain)
    }
}

/// A server that lives for a day, and whose rotation runs.
struct Running {
    fixture: Fixture,
    authority: Authority,
    bundles: Arc<Seen>,
    stop: CancellationToken,
}

impl Running {
    async fn start() -> Self {
        let fixture = Fixture {
            clock: TestClock::start(UnixTime::from_secs(START)),
            ..Fixture::new()
        };
        let settings = Settings {
            x509_svid_ttl: secs(3_600),
            ..settings(86_400)
        };
        let keys = Arc::clone(&fixture.keys);
        let store = fixture.store.clone();
        let clock = fixture.clock.shared();
        let rotation = Rotation::open(settings, keys, store, SERVER.into(), clock);
        let rotation = rotation.await.unwrap();
        let bundles = Arc::new(Seen::default());
        bundles.look(&fixture).await;
        let authority = rotation.authority();
        let stop = CancellationToken::new();
        tokio::spawn(rotation.run(stop.clone()));
        Self {
            fixture,
            authority,
            bundles,
            stop,
        }
    }

    async fn command(&self, command: AuthorityCommand) -> String {
        let state = self.authority.command(command).await.unwrap();
        self.bundles.look(&self.fixture).await;
        open(state).await.id
    }

    /// Puts a new authority in the place of the active one, and says which that was.
    async fn replace(&self, kind: Kind) -> String {
        let old = self.authority.states(kind).unwrap().active.id;
        let next = self.command(AuthorityCommand::Prepare(kind)).await;
        self.command(AuthorityCommand::Activate(kind, next)).await;
        old
    }
}

#[tokio::test]
async fn the_servers_svid_leaves_a_root_that_was_tainted() {
    let running = Running::start().await;
    let clock = &running.fixture.clock;
    let bundles = Arc::clone(&running.bundles);
    let svid = ServerSvid::open(
        running.authority.clone(),
        bundles,
        Arc::default(),
        KeyExchange::default(),
        clock.shared(),
    );
    let svid = svid.await.unwrap();
    let mut identity = svid.identity();
    let mut chain = svid.chain();
    let first = identity.borrow_and_update().clone().unwrap();
    tokio::spawn(svid.run(running.stop.clone()));

    let old = running.replace(Kind::X509).await;
    clock.advance(secs(6)).await;
    tokio::task::yield_now().await;
    assert!(!identity.has_changed().unwrap());

    running
        .command(AuthorityCommand::Taint(Kind::X509, old.clone()))
        .await;
    clock.advance(secs(6)).await;
    identity.changed().await.unwrap();
    let second = identity.borrow_and_update().clone().unwrap();
    assert_ne!(second.kid, first.kid);

    // What it has now is not touched by the revocation.
    running
        .command(AuthorityCommand::Revoke(Kind::X509, old))
        .await;
    let bundle = BundleSet::from_iter([running.fixture.bundle().await]);
    let leaf = verify_peer(&chain.borrow_and_update(), &bundle, clock.now()).unwrap();
    assert_eq!(leaf.kid, second.kid);
    clock.advance(secs(6)).await;
    tokio::task::yield_now().await;
    assert!(!identity.has_changed().unwrap());
    running.stop.cancel();
}

#[tokio::test]
async fn tokens_are_signed_with_the_key_that_was_activated() {
    let running = Running::start().await;
    let now = running.fixture.clock.now();
    let signed = async || {
        let request = JwtRequest {
            id: SpiffeId::parse("spiffe://example.org/w").unwrap(),
            audience: vec!["a".into()],
            ttl: None,
            with_id: false,
        };
        let issued = running.authority.sign_jwt(request).await.unwrap();
        let bundles = BundleSet::from_iter([running.fixture.bundle().await]);
        verify_jwt(&issued.token, &bundles, &["a"], now, Duration::ZERO)
            .unwrap()
            .key_id
    };
    let first = signed().await;
    let second = running.command(AuthorityCommand::Prepare(Kind::Jwt)).await;
    assert_eq!(signed().await, first);
    running
        .command(AuthorityCommand::Activate(Kind::Jwt, second.clone()))
        .await;
    assert_eq!(signed().await, second);
    // The other kind stays as it was.
    assert!(running.authority.states(Kind::X509).unwrap().old.is_none());
    running.stop.cancel();
}

#[tokio::test]
async fn a_restart_keeps_taints_and_publishes_nothing_revoked() {
    let running = Running::start().await;
    let tainted = running.replace(Kind::X509).await;
    running
        .command(AuthorityCommand::Taint(Kind::X509, tainted.clone()))
        .await;
    let revoked = running.replace(Kind::Jwt).await;
    running
        .command(AuthorityCommand::Taint(Kind::Jwt, revoked.clone()))
        .await;
    running
        .command(AuthorityCommand::Revoke(Kind::Jwt, revoked.clone()))
        .await;
    running.stop.cancel();

    let again = running.fixture.start().await;
    assert!(again.journal().x509.other().unwrap().tainted);
    assert_eq!(again.journal().jwt.other(), None);
    let bundle = running.fixture.bundle().await;
    let root = bundle
        .x509_authorities
        .iter()
        .find(|a| a.authority_id() == tainted);
    assert!(root.unwrap().is_tainted());
    assert!(bundle.jwt_authorities.iter().all(|a| a.key_id != revoked));
    // The revoked authority's key is gone too.
    assert_eq!(running.fixture.keys.list().unwrap().len(), 3);
}

#[tokio::test]
async fn many_who_rotate_at_once_are_served_one_after_the_other() {
    let running = Running::start().await;
    let prepared = (0..8).map(|_| {
        running
            .authority
            .command(AuthorityCommand::Prepare(Kind::Jwt))
    });
    let prepared = futures::future::join_all(prepared).await;
    let mut ids = Vec::new();
    for state in prepared {
        ids.push(open(state.unwrap()).await.id);
    }
    let last = running
        .authority
        .states(Kind::Jwt)
        .unwrap()
        .prepared
        .unwrap()
        .id;
    assert_eq!(ids.iter().filter(|id| **id == last).count(), 1);
    let activated = ids.iter().map(|id| {
        running
            .authority
            .command(AuthorityCommand::Activate(Kind::Jwt, id.clone()))
    });
    let activated = futures::future::join_all(activated).await;
    assert_eq!(activated.iter().filter(|done| done.is_ok()).count(), 1);
    // One of each slot's keys, and of the X.509 authority.
    assert_eq!(running.fixture.keys.list().unwrap().len(), 3);
    running.stop.cancel();
}

#[tokio::test]
async fn a_server_that_stops_takes_no_more_commands() {
    let running = Running::start().await;
    running.stop.cancel();
    while let Ok(done) = running
        .authority
        .command(AuthorityCommand::Prepare(Kind::Jwt))
        .await
    {
        drop(done);
    }
    let refused = running
        .authority
        .command(AuthorityCommand::Prepare(Kind::Jwt))
        .await;
    assert!(
        matches!(refused, Err(CommandError::Stopping)),
        "{refused:?}"
    );
}
