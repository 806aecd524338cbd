//! A server whose authorities another one signs, with that one's part played by roots of its own.

use std::sync::Mutex;

use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::issue::self_signed_authority;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::authority::journal::Kind;
use crate::authority::order::{Order, OrderError};
use crate::upstream::{
    BundleUpdates, Minted, Published, UpstreamAuthority, UpstreamBundle, UpstreamError,
};

/// The server above: the last of its roots signs.
#[derive(Debug)]
struct Above {
    clock: SharedClock,
    state: Mutex<State>,
    bundle: watch::Sender<Option<Arc<UpstreamBundle>>>,
}

#[derive(Debug)]
struct State {
    roots: Vec<IssuingCa>,
    /// What it says that its roots are.
    told: Vec<X509Authority>,
    jwt: Vec<JwtAuthority>,
    away: bool,
}

impl Above {
    fn new(house: &House) -> Arc<Self> {
        let clock = house.clock.shared();
        let root = root(clock.now());
        let state = State {
            told: vec![root.authority().clone()],
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
            x509: state.told.clone(),
            jwt: state.jwt.clone(),
        };
        self.bundle.send_replace(Some(Arc::new(bundle)));
        done
    }

    fn told(&self) -> Vec<X509Authority> {
        self.state.lock().unwrap().told.clone()
    }

    /// Another root signs from now on, and the one before is tainted.
    fn taint(&self) {
        let next = root(self.clock.now());
        self.change(|state| {
            let before = state.told.pop().unwrap();
            state.told = vec![before.with_tainted(true), next.authority().clone()];
            state.roots.push(next);
        });
    }

    fn answers(&self, action: &'static str) -> Result<(), UpstreamError> {
        if self.state.lock().unwrap().away {
            return Err(UpstreamError {
                name: "above",
                action,
                source: "nobody is there".into(),
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
                roots: state.told.clone(),
            }
        })
    }
}

impl UpstreamAuthority for Above {
    fn name(&self) -> &'static str {
        "above"
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

impl House {
    async fn start_below(&self, above: &Arc<Above>) -> Result<Rotation, RotationError> {
        Rotation::open_below(
            settings(60),
            Arc::clone(&self.keys),
            self.store.clone(),
            SERVER.into(),
            self.clock.shared(),
            Some(Arc::clone(above) as Arc<dyn UpstreamAuthority>),
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
async fn what_is_signed_leads_to_the_root_above_and_the_jwt_key_is_known_there() {
    let house = House::new();
    let above = Above::new(&house);
    let mut rotation = house.start_below(&above).await.unwrap();
    rotation.advance().await.unwrap();
    let bundle = house.bundle().await;
    assert_eq!(bundle.x509_authorities, above.told());
    assert_eq!(house.chain(&rotation).await, Some(2));
    let keys = above.change(|state| state.jwt.clone());
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].key_id, own_key(&rotation));
    assert_eq!(bundle.jwt_authorities, keys);
    let states = rotation.authority().states(Kind::X509).unwrap();
    assert_eq!(states.active.upstream_id, above.told()[0].authority_id());
}

#[tokio::test]
async fn the_bundle_is_the_one_above_and_what_this_server_needs_itself() {
    let house = House::new();
    let above = Above::new(&house);
    let mut rotation = house.start_below(&above).await.unwrap();
    let elsewhere = JwtAuthority {
        key_id: "elsewhere".into(),
        ..above.change(|state| state.jwt[0].clone())
    };
    let second = root(house.clock.now());
    above.change(|state| {
        state.told.push(second.authority().clone());
        state.jwt = vec![elsewhere.clone()];
    });
    rotation.advance().await.unwrap();
    let bundle = house.bundle().await;
    assert_eq!(bundle.x509_authorities, above.told());
    let ids: Vec<_> = bundle.jwt_authorities.iter().map(|k| &k.key_id).collect();
    assert_eq!(ids, [&own_key(&rotation), "elsewhere"]);

    // What is gone there is gone here, whether or not it was ever seen as tainted.
    above.change(|state| {
        state.told.pop();
        state.jwt.clear();
    });
    rotation.advance().await.unwrap();
    let bundle = house.bundle().await;
    assert_eq!(bundle.x509_authorities, above.told());
    assert_eq!(bundle.jwt_authorities.len(), 1);
    // Without news, nothing is written.
    rotation.advance().await.unwrap();
    assert_eq!(house.bundle().await, bundle);
}

#[tokio::test]
async fn an_authority_below_a_tainted_root_is_left_before_the_taint_is_told() {
    let house = House::new();
    let above = Above::new(&house);
    let mut rotation = house.start_below(&above).await.unwrap();
    rotation.advance().await.unwrap();
    let before = active_root(&rotation);
    above.taint();
    // The server above is away for the moment: nothing changes, and nothing is told.
    above.change(|state| state.away = true);
    assert!(rotation.advance().await.is_err());
    assert_eq!(active_root(&rotation), before);
    let roots = house.bundle().await.x509_authorities;
    assert!(!roots.iter().any(X509Authority::is_tainted));

    above.change(|state| state.away = false);
    rotation.advance().await.unwrap();
    assert_ne!(active_root(&rotation), before);
    assert_eq!(house.bundle().await.x509_authorities, above.told());
    assert_eq!(house.chain(&rotation).await, Some(2));
}

#[tokio::test]
async fn what_the_server_above_signs_below_a_tainted_root_is_not_taken() {
    let house = House::new();
    let above = Above::new(&house);
    let mut rotation = house.start_below(&above).await.unwrap();
    rotation.advance().await.unwrap();
    let before = active_root(&rotation);
    above.change(|state| state.told[0] = state.told[0].with_tainted(true));
    let refused = rotation.advance().await.unwrap_err();
    assert!(matches!(refused, RotationError::Minted(_)), "{refused}");
    assert_eq!(active_root(&rotation), before);
}

#[tokio::test]
async fn while_the_server_above_is_away_what_there_is_signs_on() {
    let house = House::new();
    let above = Above::new(&house);
    let mut rotation = house.start_below(&above).await.unwrap();
    let before = active_root(&rotation);
    above.change(|state| state.away = true);
    house.forward(40);
    assert!(rotation.advance().await.is_err());
    assert_eq!(house.chain(&rotation).await, Some(2));
    drop(rotation);
    // After a restart too.
    let mut rotation = house.start_below(&above).await.unwrap();
    assert_eq!(active_root(&rotation), before);
    assert_eq!(house.chain(&rotation).await, Some(2));
    above.change(|state| state.away = false);
    rotation.advance().await.unwrap();
    assert!(rotation.journal().x509.prepared().is_some());
}

#[tokio::test(start_paused = true)]
async fn without_any_authority_the_server_above_is_waited_for_and_then_missed() {
    let house = House::new();
    let above = Above::new(&house);
    above.change(|state| state.away = true);
    let refused = house.start_below(&above).await.err().unwrap();
    assert!(matches!(refused, RotationError::Upstream(_)), "{refused}");
    assert!(house.keys.list().unwrap().is_empty());

    let back = Arc::clone(&above);
    tokio::spawn(async move {
        tokio::time::sleep(secs(5)).await;
        back.change(|state| state.away = false);
    });
    house.start_below(&above).await.unwrap();
}

#[tokio::test]
async fn a_server_that_was_a_root_changes_over_when_its_own_time_has_come() {
    let house = House::new();
    let own = active_root(&house.start().await);
    let above = Above::new(&house);
    let mut rotation = house.start_below(&above).await.unwrap();
    rotation.advance().await.unwrap();
    // Prepared at once, so that its peers know the root above; they still know the own one.
    assert_eq!(active_root(&rotation), own);
    let prepared = rotation.journal().x509.prepared().unwrap();
    assert!(!prepared.authority.certificate.is_root());
    let roots = house.bundle().await.x509_authorities;
    assert!(roots.iter().any(|root| root.der().as_ref() == own));
    assert!(roots.contains(&above.told()[0]));

    house.forward(52);
    rotation.advance().await.unwrap();
    assert_ne!(active_root(&rotation), own);
    assert_eq!(house.chain(&rotation).await, Some(2));
    let roots = house.bundle().await.x509_authorities;
    assert!(roots.iter().any(|root| root.der().as_ref() == own));
}

#[tokio::test]
async fn by_hand_only_what_is_above_the_old_authority_can_be_tainted_and_it_stays_so() {
    let house = House::new();
    let above = Above::new(&house);
    let rotation = house.start_below(&above).await.unwrap();
    let authority = rotation.authority();
    let stop = CancellationToken::new();
    let running = tokio::spawn(rotation.run(stop.clone()));
    let first = above.told()[0].authority_id().to_owned();

    let own = authority.states(Kind::X509).unwrap().active.id;
    for order in [
        Order::Taint(Kind::X509, own.clone()),
        Order::Revoke(Kind::X509, own),
    ] {
        let refused = authority.order(order).await;
        assert!(
            matches!(refused, Err(OrderError::HasUpstream)),
            "{refused:?}"
        );
    }
    let refused = authority.order(Order::TaintUpstream(first.clone())).await;
    assert!(matches!(refused, Err(OrderError::IsActive)), "{refused:?}");

    // Another root signs above, and the next authority here is below it.
    let next = root(house.clock.now());
    above.change(|state| {
        state.told.push(next.authority().clone());
        state.roots.push(next);
    });
    let prepared = authority.order(Order::Prepare(Kind::X509)).await.unwrap();
    let activate = Order::Activate(Kind::X509, prepared.state.id);
    authority.order(activate).await.unwrap();
    let taint = Order::TaintUpstream(first.clone());
    authority.order(taint).await.unwrap();
    // An answer from above that knows nothing of it takes nothing back.
    let third = root(house.clock.now());
    above.change(|state| state.told.push(third.authority().clone()));
    while house.bundle().await.x509_authorities.len() < 3 {
        tokio::task::yield_now().await;
    }
    let roots = house.bundle().await.x509_authorities;
    let tainted = roots.iter().filter(|root| root.is_tainted());
    let tainted: Vec<_> = tainted.map(X509Authority::authority_id).collect();
    assert_eq!(tainted, [&first]);
    authority.order(Order::RevokeUpstream(first)).await.unwrap();
    assert_eq!(house.bundle().await.x509_authorities.len(), 2);
    stop.cancel();
    running.await.unwrap().unwrap();
}
