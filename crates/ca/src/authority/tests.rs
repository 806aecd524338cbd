//! The authority from its first start through rotations, restarts and faults; and what it signs.

use std::time::Duration;

use countersign_identity::bundle::BundleSet;
use countersign_identity::entry::{AdditionalAttributes, DnsName, EntryId};
use countersign_identity::key::SigningKey as _;
use countersign_identity::tls::KeyExchange;
use countersign_identity::verify::{Leaf, verify_peer};
use countersign_identity::{Bundle, Selector, SelectorSet};
use countersign_store::backend::Seq;
use countersign_store::{Pending, Store, Visibility};
use countersign_transport::clock::{Clock as _, TestClock};

use super::journal::{Slot, SlotStatus, X509};
use super::*;
use crate::keymanager::{DiskKeyManager, KeyManager, MemoryKeyManager};

mod commands;
mod crash;
mod upstream;

const START: u64 = 1_800_000_000;
const SERVER: &str = "server-1";

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn settings(ca_ttl: u64) -> Settings {
    Settings {
        trust_domain: TrustDomain::new("example.org").unwrap(),
        ca_ttl: secs(ca_ttl),
        ca_key_type: KeyType::EcP256,
        ca_subject: Subject::authority(),
        x509_svid_ttl: secs(20),
        agent_ttl: secs(30),
        jwt: Some(JwtSettings {
            key_type: KeyType::EcP256,
            svid_ttl: secs(15),
            issuer: None,
        }),
    }
}

/// The parts of a server that outlive a restart.
struct Fixture {
    clock: TestClock,
    store: Store,
    keys: Arc<dyn KeyManager>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            clock: TestClock::fixed(UnixTime::from_secs(START)),
            store: Store::in_memory(),
            keys: Arc::new(MemoryKeyManager::new()),
        }
    }

    async fn start(&self) -> Rotation {
        self.try_start().await.unwrap()
    }

    async fn try_start(&self) -> Result<Rotation, RotationError> {
        let keys = Arc::clone(&self.keys);
        Rotation::open(
            settings(60),
            keys,
            self.store.clone(),
            SERVER.into(),
            self.clock.shared(),
        )
        .await
    }

    async fn bundle(&self) -> Bundle {
        self.store
            .bundle_get(&settings(60).trust_domain)
            .await
            .unwrap()
            .unwrap()
    }

    fn forward(&self, by: u64) {
        self.clock.set(self.clock.now().after(secs(by)));
    }
}

/// The authority that signs, found by what it signs.
async fn signs(rotation: &Rotation, fixture: &Fixture) -> Vec<u8> {
    let issued = rotation
        .authority()
        .sign_agent(&agent_id(), csr())
        .await
        .unwrap();
    let bundle = fixture.bundle().await;
    let signer = |authority: &&countersign_identity::bundle::X509Authority| {
        let mut alone = Bundle::empty(bundle.trust_domain.clone());
        alone.x509_authorities.push((*authority).clone());
        verify_peer(
            &issued.chain,
            &BundleSet::from_iter([alone]),
            fixture.clock.now(),
        )
        .is_ok()
    };
    bundle
        .x509_authorities
        .iter()
        .find(signer)
        .expect("the signer is in the bundle")
        .der()
        .to_vec()
}

/// What reads from the store itself sees each commit at once.
struct StoreReader;

impl Visibility for StoreReader {
    type Error = std::convert::Infallible;

    async fn reached(&self, _: Seq) -> Result<(), Self::Error> {
        Ok(())
    }
}

async fn open<T>(pending: Pending<T>) -> T {
    match pending.visible_to(&StoreReader).await {
        Ok(value) => value,
    }
}

fn agent_id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/spire/agent/join_token/t").unwrap()
}

fn csr() -> Bytes {
    Csr::make(&PrivateKey::generate(KeyType::EcP256).unwrap(), None)
        .unwrap()
        .into()
}

fn active_root(rotation: &Rotation) -> Vec<u8> {
    x509_der(rotation.journal().x509.active())
}

fn x509_der(slot: Option<&Slot<X509>>) -> Vec<u8> {
    slot.unwrap().authority.certificate.der().to_vec()
}

/// The statuses of both kinds, which are the same unless one was rotated by hand.
fn statuses(rotation: &Rotation) -> Vec<SlotStatus> {
    let journal = rotation.journal();
    let x509: Vec<_> = journal.x509.iter().map(|slot| slot.status).collect();
    let jwt: Vec<_> = journal.jwt.iter().map(|slot| slot.status).collect();
    assert_eq!(x509, jwt);
    x509
}

#[tokio::test]
async fn a_first_start_publishes_an_authority_and_signs_with_it() {
    let fixture = Fixture::new();
    let rotation = fixture.start().await;
    assert_eq!(statuses(&rotation), [SlotStatus::Active]);
    let bundle = fixture.bundle().await;
    assert_eq!(
        (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
        (1, 1)
    );
    assert_eq!(bundle.sequence_number, 2);
    assert_eq!(signs(&rotation, &fixture).await, active_root(&rotation));
}

#[tokio::test]
async fn an_authority_is_published_long_before_it_signs() {
    let fixture = Fixture::new();
    let mut rotation = fixture.start().await;
    let first = active_root(&rotation);

    // Valid for 70 s with the back-dating: the next one is prepared when 35 s are left, and takes over at 11 s.
    fixture.forward(24);
    assert_eq!(
        rotation.advance().await.unwrap(),
        UnixTime::from_secs(START + 25)
    );
    assert_eq!(fixture.bundle().await.x509_authorities.len(), 1);

    fixture.forward(1);
    assert_eq!(
        rotation.advance().await.unwrap(),
        UnixTime::from_secs(START + 49)
    );
    assert_eq!(
        statuses(&rotation),
        [SlotStatus::Active, SlotStatus::Prepared]
    );
    let bundle = fixture.bundle().await;
    assert_eq!(
        (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
        (2, 2)
    );
    assert_eq!(bundle.sequence_number, 4);
    assert_eq!(signs(&rotation, &fixture).await, first);

    fixture.forward(24);
    rotation.advance().await.unwrap();
    assert_eq!(statuses(&rotation), [SlotStatus::Active, SlotStatus::Old]);
    assert_ne!(active_root(&rotation), first);
    assert_eq!(signs(&rotation, &fixture).await, active_root(&rotation));
    assert_eq!(fixture.bundle().await.sequence_number, 4);
}

#[tokio::test]
async fn many_rotations_leave_few_keys_and_a_small_bundle() {
    let fixture = Fixture::new();
    let mut rotation = fixture.start().await;
    let mut roots = std::collections::HashSet::new();
    for _ in 0..600 {
        fixture.forward(1);
        rotation.advance().await.unwrap();
        let root = signs(&rotation, &fixture).await;
        assert_eq!(root, active_root(&rotation));
        roots.insert(root);
        assert!(fixture.keys.list().unwrap().len() <= 4);
        let bundle = fixture.bundle().await;
        assert!(bundle.x509_authorities.len() <= 9 && bundle.jwt_authorities.len() <= 9);
    }
    // Each is prepared when half of the life of the one before is over.
    assert!(
        (20..=24).contains(&roots.len()),
        "{} authorities",
        roots.len()
    );
}

#[tokio::test]
async fn an_expired_authority_is_pruned_but_never_the_last() {
    let fixture = Fixture::new();
    let mut rotation = fixture.start().await;
    let first = active_root(&rotation);
    fixture.forward(25);
    rotation.advance().await.unwrap();
    fixture.forward(24);
    rotation.advance().await.unwrap();
    let has_first = |bundle: &Bundle| {
        bundle
            .x509_authorities
            .iter()
            .any(|a| a.der().to_vec() == first)
    };
    assert!(has_first(&fixture.bundle().await));

    // Valid until 60, and kept for its lifetime of 70 s after that.
    fixture.forward(129 - 49);
    rotation.advance().await.unwrap();
    assert!(has_first(&fixture.bundle().await));
    fixture.forward(60);
    rotation.advance().await.unwrap();
    let bundle = fixture.bundle().await;
    assert!(!has_first(&bundle) && !bundle.x509_authorities.is_empty());
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_authorities() {
    let fixture = Fixture::new();
    let mut rotation = fixture.start().await;
    fixture.forward(25);
    rotation.advance().await.unwrap();
    let (journal, bundle) = (rotation.journal().clone(), fixture.bundle().await);
    drop(rotation);

    let again = fixture.start().await;
    assert_eq!(again.journal(), &journal);
    assert_eq!(fixture.bundle().await, bundle);
    assert_eq!(
        signs(&again, &fixture).await,
        x509_der(journal.x509.active())
    );
}

#[tokio::test]
async fn an_authority_on_the_disk_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut fixture = Fixture {
        keys: Arc::new(DiskKeyManager::open(folder.path()).unwrap()),
        ..Fixture::new()
    };
    let root = active_root(&fixture.start().await);
    fixture.keys = Arc::new(MemoryKeyManager::new());
    fixture.keys = Arc::new(DiskKeyManager::open(folder.path()).unwrap());
    let again = fixture.start().await;
    assert_eq!(active_root(&again), root);
    assert_eq!(signs(&again, &fixture).await, root);
}

#[tokio::test]
async fn a_slot_without_its_key_is_replaced_and_stays_published() {
    let fixture = Fixture::new();
    let first = active_root(&fixture.start().await);
    let restarted = Fixture {
        keys: Arc::new(MemoryKeyManager::new()),
        ..fixture
    };
    let rotation = restarted.start().await;
    assert_eq!(statuses(&rotation), [SlotStatus::Active]);
    assert_ne!(active_root(&rotation), first);
    assert_eq!(signs(&rotation, &restarted).await, active_root(&rotation));
    let bundle = restarted.bundle().await;
    assert!(
        bundle
            .x509_authorities
            .iter()
            .any(|a| a.der().to_vec() == first)
    );
}

#[tokio::test]
async fn a_key_without_a_slot_is_removed() {
    let fixture = Fixture::new();
    drop(fixture.start().await);
    let stray = fixture.keys.generate(KeyType::EcP256).unwrap();
    let rotation = fixture.start().await;
    let names: Vec<_> = fixture
        .keys
        .list()
        .unwrap()
        .iter()
        .map(|key| key.name().clone())
        .collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| rotation.journal().names(name)));
    assert!(!names.contains(stray.name()));
}

#[tokio::test]
async fn a_server_that_was_down_too_long_begins_anew() {
    let fixture = Fixture::new();
    let first = active_root(&fixture.start().await);
    fixture.forward(1000);
    let rotation = fixture.start().await;
    assert_ne!(active_root(&rotation), first);
    assert_eq!(signs(&rotation, &fixture).await, active_root(&rotation));
}

#[tokio::test]
async fn a_bundle_that_lost_the_authority_gets_it_back_at_the_start() {
    let fixture = Fixture::new();
    let first = fixture.start().await;
    let journal = first.journal().to_stored();
    let root = active_root(&first);
    drop(first);
    let forget = |bundle: &mut Bundle| {
        bundle.x509_authorities.clear();
        countersign_store::BundleChange::Changed
    };
    let written = fixture
        .store
        .journal_put(SERVER, &journal, &settings(60).trust_domain, forget)
        .await
        .unwrap();
    open(written).await;
    let rotation = fixture.start().await;
    assert_eq!(signs(&rotation, &fixture).await, root);
}

#[tokio::test]
async fn a_clock_that_went_back_is_refused_with_advice() {
    let fixture = Fixture::new();
    drop(fixture.start().await);
    fixture.clock.set(UnixTime::from_secs(START - 3600));
    let refused = fixture.try_start().await.err().unwrap();
    assert!(refused.to_string().contains("set the clock"), "{refused}");
}

#[tokio::test]
async fn nothing_is_signed_once_the_authority_is_over() {
    let fixture = Fixture::new();
    let rotation = fixture.start().await;
    fixture.forward(60);
    let refused = rotation
        .authority()
        .sign_agent(&agent_id(), csr())
        .await
        .unwrap_err();
    assert!(matches!(refused, SignError::Unavailable), "{refused}");
}

fn entry(path: &str, ttl: Option<Duration>) -> Arc<Entry> {
    let trust_domain = settings(60).trust_domain;
    Arc::new(Entry {
        id: EntryId::new("entry").unwrap(),
        spiffe_id: trust_domain.id_with_path(path).unwrap(),
        parent_id: agent_id(),
        selectors: SelectorSet::from_iter([Selector::new("unix", "uid:1").unwrap()]),
        x509_svid_ttl: ttl,
        jwt_svid_ttl: None,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: None,
        dns_names: vec![DnsName::new("web.example.org").unwrap()],
        revision_number: 0,
        created_at: UnixTime::from_secs(START),
        hint: String::new(),
        attributes: AdditionalAttributes::default(),
    })
}

#[tokio::test]
async fn workloads_get_what_their_entries_say_in_order() {
    let fixture = Fixture::new();
    let authority = fixture.start().await.authority();
    let keys: Vec<_> = (0..40)
        .map(|_| PrivateKey::generate(KeyType::EcP256).unwrap())
        .collect();
    let liar = SpiffeId::parse("spiffe://example.org/another").unwrap();
    let requests = keys.iter().enumerate().map(|(i, key)| WorkloadRequest {
        entry: entry(&format!("/w/{i}"), (i % 2 == 0).then_some(secs(12))),
        csr_der: Csr::make(key, Some(&liar)).unwrap().into(),
    });
    let mut requests: Vec<_> = requests.collect();
    requests[7].csr_der = Bytes::from_static(b"junk");
    let mut forged = requests[20].csr_der.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    requests[20].csr_der = forged.into();

    let answers = authority.sign_workloads(requests).await;
    assert_eq!(answers.len(), 40);
    for (i, answer) in answers.into_iter().enumerate() {
        if i == 7 || i == 20 {
            assert!(
                matches!(answer, Err(SignError::InvalidCsr(_))),
                "{i}: {answer:?}"
            );
            continue;
        }
        let issued = answer.unwrap();
        let leaf = Leaf::parse(&issued.chain[0]).unwrap();
        assert_eq!(leaf.id.path(), format!("/w/{i}"));
        assert_eq!(leaf.spki, keys[i].spki());
        assert_eq!(
            (&leaf.serial, leaf.not_after),
            (&issued.serial, issued.expires_at)
        );
        let ttl = if i % 2 == 0 { 12 } else { 20 };
        assert_eq!(leaf.not_after, UnixTime::from_secs(START + ttl));
        verify_peer(
            &issued.chain,
            &BundleSet::from_iter([fixture.bundle().await]),
            fixture.clock.now(),
        )
        .unwrap();
    }
}

#[tokio::test]
async fn nothing_outlives_the_authority() {
    let fixture = Fixture::new();
    let authority = fixture.start().await.authority();
    let request = WorkloadRequest {
        entry: entry("/w", Some(secs(3600))),
        csr_der: csr(),
    };
    let issued = authority
        .sign_workloads(vec![request])
        .await
        .remove(0)
        .unwrap();
    assert_eq!(issued.expires_at, UnixTime::from_secs(START + 60));
}

#[tokio::test]
async fn the_servers_svid_is_renewed_at_half_life_with_a_new_key() {
    let clock = TestClock::start(UnixTime::from_secs(START));
    let fixture = Fixture {
        clock,
        ..Fixture::new()
    };
    let rotation = fixture.start().await;
    let bundles = Arc::new(BundleSet::from_iter([fixture.bundle().await]));
    let svid = ServerSvid::open(
        rotation.authority(),
        bundles,
        Arc::default(),
        KeyExchange::default(),
        fixture.clock.shared(),
    )
    .await
    .unwrap();
    let mut identity = svid.identity();
    let first = identity.borrow_and_update().clone().unwrap();
    assert_eq!(first.id.as_str(), "spiffe://example.org/spire/server");
    assert_eq!(first.not_after, UnixTime::from_secs(START + 20));

    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(svid.run(stop.clone()));
    tokio::task::yield_now().await;
    // Valid for 30 s with the back-dating: half of that is left after 5 s.
    fixture.clock.advance(secs(4)).await;
    assert!(!identity.has_changed().unwrap());
    // tokio's timers round up to the next millisecond.
    fixture.clock.advance(secs(2)).await;
    identity.changed().await.unwrap();
    let second = identity.borrow().clone().unwrap();
    assert_ne!(second.kid, first.kid);
    assert_eq!(second.not_after, UnixTime::from_secs(START + 26));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn near_an_authoritys_end_the_servers_svid_is_not_renewed() {
    let clock = TestClock::start(UnixTime::from_secs(START));
    let fixture = Fixture {
        clock,
        ..Fixture::new()
    };
    let mut rotation = fixture.start().await;
    let bundles = Arc::new(BundleSet::from_iter([fixture.bundle().await]));
    fixture.forward(25);
    rotation.advance().await.unwrap();
    fixture.forward(16);
    let svid = ServerSvid::open(
        rotation.authority(),
        bundles,
        Arc::default(),
        KeyExchange::default(),
        fixture.clock.shared(),
    )
    .await
    .unwrap();
    let mut identity = svid.identity();
    let capped = identity.borrow_and_update().clone().unwrap();
    assert_eq!(capped.not_after, UnixTime::from_secs(START + 60));

    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(svid.run(stop.clone()));
    tokio::task::yield_now().await;
    fixture.clock.advance(secs(7)).await;
    tokio::task::yield_now().await;
    assert!(!identity.has_changed().unwrap());

    fixture.clock.advance(secs(1)).await;
    rotation.advance().await.unwrap();
    fixture.clock.advance(secs(6)).await;
    identity.changed().await.unwrap();
    assert!(identity.borrow().as_ref().unwrap().not_after > capped.not_after);
    stop.cancel();
    running.await.unwrap().unwrap();
}
