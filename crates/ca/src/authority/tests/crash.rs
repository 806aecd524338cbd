//! Stops between any two steps, a store that fails, keys that are gone, a clock that goes back.

use countersign_identity::jwt::verify_jwt;
use countersign_store::backend::flaky::{Fault, Flaky};

use super::*;
use crate::authority::journal::Journal;

/// A house over a store that can fail.
fn flaky() -> (House, Flaky) {
    let flaky = Flaky::new();
    let house = House {
        store: Store::new(Arc::new(flaky.clone())),
        ..House::new()
    };
    (house, flaky)
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
async fn jwt_signer(house: &House, token: &str) -> String {
    let bundles = BundleSet::from_iter([house.bundle().await]);
    let now = house.clock.now();
    verify_jwt(token, &bundles, &["a"], now, Duration::ZERO)
        .unwrap()
        .key_id
}

fn key_count(house: &House) -> usize {
    house.keys.list().unwrap().len()
}

#[tokio::test]
async fn keys_that_were_made_and_never_committed_are_removed_at_the_next_start() {
    let house = House::new();
    let before = house.start().await.journal().clone();
    for key_type in [KeyType::EcP256, KeyType::EcP384] {
        house.keys.generate(key_type).unwrap();
    }
    let again = house.start().await;
    assert_eq!(again.journal(), &before);
    assert_eq!(key_count(&house), 2);
}

#[tokio::test]
async fn an_authority_that_was_committed_and_not_activated_waits_for_its_time_after_a_restart() {
    let house = House::new();
    let mut rotation = house.start().await;
    house.forward(25);
    rotation.advance().await.unwrap();
    let prepared = rotation.journal().clone();
    drop(rotation);
    let mut again = house.start().await;
    assert_eq!(again.journal(), &prepared);
    house.forward(24);
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
        jwt_signer(&house, &token).await,
        active.jwt.active().unwrap().id()
    );
    assert_eq!(signs(&again, &house).await, active_root(&again));
}

#[tokio::test]
async fn an_activation_that_was_committed_is_carried_out_by_the_next_start() {
    let house = House::new();
    let mut rotation = house.start().await;
    house.forward(25);
    rotation.advance().await.unwrap();
    let journal = rotation.journal().clone();
    drop(rotation);
    // As if the process had stopped between the commit and the swap.
    let committed = Journal {
        x509: journal.x509.with_activated(),
        jwt: journal.jwt.with_activated(),
    };
    let unchanged = |_: &mut Bundle| countersign_store::Edit::Unchanged;
    house
        .store
        .journal_put(
            SERVER,
            &committed.to_stored(),
            &settings(60).trust_domain,
            unchanged,
        )
        .await
        .unwrap();
    let again = house.start().await;
    assert_eq!(again.journal(), &committed);
    assert_eq!(signs(&again, &house).await, active_root(&again));
    let token = token(&again).await;
    let active = committed.jwt.active().unwrap().id();
    assert_eq!(jwt_signer(&house, &token).await, active);
}

#[tokio::test]
async fn a_store_that_fails_stops_no_signing_and_lets_no_keys_pile_up() {
    let (house, flaky) = flaky();
    let mut rotation = house.start().await;
    let root = active_root(&rotation);
    flaky.set(Fault::Everything);
    house.forward(25);
    for _ in 0..5 {
        rotation.advance().await.unwrap_err();
        token(&rotation).await;
        let signed = rotation.authority().sign_agent(&agent_id(), csr()).await;
        signed.unwrap();
        // The two that sign, and one of each kind whose commit is in doubt.
        assert!(key_count(&house) <= 4, "{}", key_count(&house));
    }
    flaky.set(Fault::None);
    rotation.advance().await.unwrap();
    assert_eq!(
        statuses(&rotation),
        [SlotStatus::Active, SlotStatus::Prepared]
    );
    assert_eq!(signs(&rotation, &house).await, root);
    assert_eq!(key_count(&house), 4);
}

#[tokio::test]
async fn commits_whose_answers_were_lost_are_found_out() {
    let (house, flaky) = flaky();
    let mut rotation = house.start().await;
    for (after, status) in [(25, SlotStatus::Prepared), (24, SlotStatus::Old)] {
        house.forward(after);
        flaky.set(Fault::Answers);
        rotation.advance().await.unwrap_err();
        flaky.set(Fault::None);
        rotation.advance().await.unwrap();
        assert_eq!(statuses(&rotation), [SlotStatus::Active, status]);
        assert_eq!(signs(&rotation, &house).await, active_root(&rotation));
        let token = token(&rotation).await;
        let active = rotation.journal().jwt.active().unwrap().id().to_owned();
        assert_eq!(jwt_signer(&house, &token).await, active);
        assert_eq!(key_count(&house), 4);
        let bundle = house.bundle().await;
        assert_eq!(
            (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
            (2, 2)
        );
    }
}

#[tokio::test]
async fn an_empty_key_folder_beside_a_full_store_makes_new_authorities_and_keeps_the_old_ones_published()
 {
    let house = House::new();
    let first = house.start().await;
    let root = active_root(&first);
    let old = token(&first).await;
    let old_signer = jwt_signer(&house, &old).await;
    drop(first);
    let folder = tempfile::tempdir().unwrap();
    let restarted = House {
        keys: Arc::new(DiskKeyManager::open(folder.path()).unwrap()),
        ..house
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
async fn a_clock_that_goes_back_rotates_nothing_until_it_is_right_again() {
    let house = House::new();
    let mut rotation = house.start().await;
    house.forward(25);
    rotation.advance().await.unwrap();
    let journal = rotation.journal().clone();
    house.clock.set(UnixTime::from_secs(START - 3600));
    rotation.advance().await.unwrap();
    assert_eq!(rotation.journal(), &journal);
    house.clock.set(UnixTime::from_secs(START + 49));
    rotation.advance().await.unwrap();
    assert_eq!(statuses(&rotation), [SlotStatus::Active, SlotStatus::Old]);
    assert_eq!(signs(&rotation, &house).await, active_root(&rotation));
}
