//! Stops between any two steps, a store that fails, keys that are gone, a clock that goes back.

use countersign_identity::jwt::verify_jwt;
use countersign_store::backend::flaky::{Fault, Flaky};

use super::*;
use crate::authority::journal::Journal;

/// Parts over a store that can fail.
fn flaky() -> (Fixture, Flaky) {
    let flaky = Flaky::new();
    let fixture = Fixture {
        store: Store::new(Arc::new(flaky.clone())),
        ..Fixture::new()
    };
    (fixture, flaky)
}

async fn token(rotation: &Rotation) -> String {
    let request = JwtRequest {
        id: SpiffeId::parse("spiffe://example.org/w").unwrap(),
        audience: vec!["a".into()],
        ttl: None,
        with_id: false,
    };
    rotation.authority().sign_jwt(request).await.unwrap().token
}

/// Which JWT authority signed a token that verifies against the bundle.
async fn jwt_signer(fixture: &Fixture, token: &str) -> String {
    let bundles = BundleSet::from_iter([fixture.bundle().await]);
    let now = fixture.clock.now();
    verify_jwt(token, &bundles, &["a"], now, Duration::ZERO)
        .unwrap()
        .key_id
}

fn key_count(fixture: &Fixture) -> usize {
    fixture.keys.list().unwrap().len()
}

#[tokio::test]
async fn keys_that_were_never_committed_are_removed_at_the_start() {
    let fixture = Fixture::new();
    let before = fixture.start().await.journal().clone();
    for key_type in [KeyType::EcP256, KeyType::EcP384] {
        fixture.keys.generate(key_type).unwrap();
    }
    let again = fixture.start().await;
    assert_eq!(again.journal(), &before);
    assert_eq!(key_count(&fixture), 2);
}

#[tokio::test]
async fn a_prepared_authority_still_waits_after_a_restart() {
    let fixture = Fixture::new();
    let mut rotation = fixture.start().await;
    fixture.forward(25);
    rotation.advance().await.unwrap();
    let prepared = rotation.journal().clone();
    drop(rotation);
    let mut again = fixture.start().await;
    assert_eq!(again.journal(), &prepared);
    fixture.forward(24);
    again.advance().await.unwrap();
    let (x509, jwt) = (&prepared.x509, &prepared.jwt);
    let active = again.journal().clone();
    assert_eq!(
        active.x509.active().unwrap().id(),
        x509.prepared().unwrap().id()
    );
    assert_eq!(
        active.jwt.active().unwrap().id(),
        jwt.prepared().unwrap().id()
    );
    let token = token(&again).await;
    assert_eq!(
        jwt_signer(&fixture, &token).await,
        active.jwt.active().unwrap().id()
    );
    assert_eq!(signs(&again, &fixture).await, active_root(&again));
}

#[tokio::test]
async fn a_committed_activation_takes_effect_at_the_next_start() {
    let fixture = Fixture::new();
    let mut rotation = fixture.start().await;
    fixture.forward(25);
    rotation.advance().await.unwrap();
    let journal = rotation.journal().clone();
    drop(rotation);
    // As if the process had stopped between the commit and the swap.
    let committed = Journal {
        x509: journal.x509.with_activated(),
        jwt: journal.jwt.with_activated(),
    };
    let unchanged = |_: &mut Bundle| countersign_store::BundleChange::Unchanged;
    let written = fixture
        .store
        .journal_put(
            SERVER,
            &committed.to_stored(),
            &settings(60).trust_domain,
            unchanged,
        )
        .await
        .unwrap();
    open(written).await;
    let again = fixture.start().await;
    assert_eq!(again.journal(), &committed);
    assert_eq!(signs(&again, &fixture).await, active_root(&again));
    let token = token(&again).await;
    let active = committed.jwt.active().unwrap().id();
    assert_eq!(jwt_signer(&fixture, &token).await, active);
}

#[tokio::test]
async fn a_store_that_fails_stops_no_signing_and_lets_no_keys_pile_up() {
    let (fixture, flaky) = flaky();
    let mut rotation = fixture.start().await;
    let root = active_root(&rotation);
    flaky.set(Fault::Everything);
    fixture.forward(25);
    for _ in 0..5 {
        rotation.advance().await.unwrap_err();
        token(&rotation).await;
        let signed = rotation.authority().sign_agent(&agent_id(), csr()).await;
        signed.unwrap();
        // The two that sign, and one of each kind whose commit is in doubt.
        assert!(key_count(&fixture) <= 4, "{}", key_count(&fixture));
    }
    flaky.set(Fault::None);
    rotation.advance().await.unwrap();
    assert_eq!(
        statuses(&rotation),
        [SlotStatus::Active, SlotStatus::Prepared]
    );
    assert_eq!(signs(&rotation, &fixture).await, root);
    assert_eq!(key_count(&fixture), 4);
}

#[tokio::test]
async fn commits_whose_answers_were_lost_are_found_out() {
    let (fixture, flaky) = flaky();
    let mut rotation = fixture.start().await;
    for (after, status) in [(25, SlotStatus::Prepared), (24, SlotStatus::Old)] {
        fixture.forward(after);
        flaky.set(Fault::Answers);
        rotation.advance().await.unwrap_err();
        flaky.set(Fault::None);
        rotation.advance().await.unwrap();
        assert_eq!(statuses(&rotation), [SlotStatus::Active, status]);
        assert_eq!(signs(&rotation, &fixture).await, active_root(&rotation));
        let token = token(&rotation).await;
        let active = rotation.journal().jwt.active().unwrap().id().to_owned();
        assert_eq!(jwt_signer(&fixture, &token).await, active);
        assert_eq!(key_count(&fixture), 4);
        let bundle = fixture.bundle().await;
        assert_eq!(
            (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
            (2, 2)
        );
    }
}

#[tokio::test]
async fn without_their_keys_authorities_are_replaced_but_published() {
    let fixture = Fixture::new();
    let first = fixture.start().await;
    let root = active_root(&first);
    let old = token(&first).await;
    let old_signer = jwt_signer(&fixture, &old).await;
    drop(first);
    let folder = tempfile::tempdir().unwrap();
    let restarted = Fixture {
        keys: Arc::new(DiskKeyManager::open(folder.path()).unwrap()),
        ..fixture
    };
    let again = restarted.start().await;
    assert_eq!(statuses(&again), [SlotStatus::Active]);
    assert_ne!(active_root(&again), root);
    assert_eq!(jwt_signer(&restarted, &old).await, old_signer);
    let new = token(&again).await;
    assert_ne!(jwt_signer(&restarted, &new).await, old_signer);
    assert_eq!(key_count(&restarted), 2);
}

#[tokio::test]
async fn a_clock_that_goes_back_rotates_nothing() {
    let fixture = Fixture::new();
    let mut rotation = fixture.start().await;
    fixture.forward(25);
    rotation.advance().await.unwrap();
    let journal = rotation.journal().clone();
    fixture.clock.set(UnixTime::from_secs(START - 3600));
    rotation.advance().await.unwrap();
    assert_eq!(rotation.journal(), &journal);
    fixture.clock.set(UnixTime::from_secs(START + 49));
    rotation.advance().await.unwrap();
    assert_eq!(statuses(&rotation), [SlotStatus::Active, SlotStatus::Old]);
    assert_eq!(signs(&rotation, &fixture).await, active_root(&rotation));
}
