//! The files that the node agent reads at its start, whatever stands in them: read whole or refused with a reason, without
//! a panic. What is read is written back, and reads as the same again.
//!
//! The first byte picks the file, and whether the rest is all of it or goes into the middle of a sound one.
#![no_main]

use std::sync::{Arc, LazyLock};

use countersign_agent::fuzzing::{
    AgentConfig, AuthorizedEntry, BundleFormat, Delivery, Kept, NodeIdentity, NodeState, Overrides, ServedSvid, SvidStore,
    read_plain, read_state, write_plain, write_state,
};
use countersign_identity::bundle::document;
use countersign_identity::{Bundle, EntryId, Selector, TrustDomain};
use libfuzzer_sys::fuzz_target;

#[path = "authority.rs"]
mod authority;

use authority::Authority;

const CONFIG: &str = include_str!("../../../config/agent.conf");

/// Sound files.
struct World {
    trust_domain: TrustDomain,
    state: Vec<u8>,
    svids: Vec<u8>,
    sealed: Vec<u8>,
    store: SvidStore,
    pem: Vec<u8>,
    spiffe: Vec<u8>,
    _folder: tempfile::TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (authority, foreign) = (Authority::new("example.org"), Authority::new("other.org"));
    let trust_domain = authority.trust_domain.clone();
    let id = |path: &str| trust_domain.id_with_path(path).expect("an ID");
    let mut state = NodeState::empty(trust_domain.clone());
    state.bundle = Some(authority.bundle());
    let identity = || NodeIdentity { svid: authority.svid(&id("/spire/agent/x509pop/a")), reattestable: true };
    state.attested(identity());
    state.renewed(identity());

    let entry = Arc::new(AuthorizedEntry {
        id: EntryId::new("a").expect("an ID"),
        spiffe_id: id("/a"),
        selectors: [Selector::parse("unix:uid:1").expect("a selector")].into_iter().collect(),
        federates_with: vec![foreign.trust_domain.clone()],
        revision: 1,
        created_at: 1,
        hint: "h".into(),
        delivery: Delivery::OnDemand,
        privileged: true,
    });
    let served = Arc::new(ServedSvid::new(authority.svid(&entry.spiffe_id)));
    let others = Arc::new(foreign.bundle());
    let svids = || write_plain([(&entry, &served)].into_iter(), [&others].into_iter());

    let folder = tempfile::tempdir().expect("a folder");
    let store = SvidStore::open(folder.path(), &trust_domain).expect("a store");
    store.save(&mut svids()).expect("a file");
    World {
        state: write_state(&state).to_vec(),
        svids: svids().to_vec(),
        sealed: std::fs::read(folder.path().join("agent-svids.bin")).expect("a file"),
        store,
        pem: pem(&authority.bundle()).into_bytes(),
        spiffe: document::write(&authority.bundle()).expect("a document").into(),
        trust_domain,
        _folder: folder,
    }
});

fn pem(bundle: &Bundle) -> String {
    use base64::Engine as _;
    let ders = bundle.x509_authorities.iter().map(|authority| authority.der());
    ders.map(|der| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    })
    .collect()
}

fuzz_target!(|data: &[u8]| {
    let [what, rest @ ..] = data else { return };
    let world = &*WORLD;
    let file = |sound: &[u8]| if what & 8 == 0 { rest.to_vec() } else { spliced(sound, rest) };
    match what % 6 {
        0 => judge_state(&file(&world.state)),
        1 => judge_svids(&file(&world.svids), &world.trust_domain),
        2 => {
            let sealed = file(&world.sealed);
            let is_sound = sealed == world.sealed;
            assert_eq!(world.store.unseal(sealed.into()).is_ok(), is_sound, "what was changed is not believed");
        }
        3 => judge_bundle(BundleFormat::Pem, &file(&world.pem), &world.trust_domain),
        4 => judge_bundle(BundleFormat::Spiffe, &file(&world.spiffe), &world.trust_domain),
        _ => {
            let text = file(CONFIG.as_bytes());
            let text = String::from_utf8_lossy(&text);
            if let Err(error) = AgentConfig::parse("fuzz", &text, &Overrides::default()) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
});

/// The sound file with some of its bytes replaced: the first two say where, the third how many.
fn spliced(sound: &[u8], with: &[u8]) -> Vec<u8> {
    let [high, low, cut, new @ ..] = with else { return sound.to_vec() };
    let at = usize::from(u16::from_be_bytes([*high, *low])) % sound.len();
    let end = sound.len().min(at + usize::from(*cut));
    [&sound[..at], new, &sound[end..]].concat()
}

fn judge_state(text: &[u8]) {
    let Ok(state) = read_state(text) else { return };
    let written = write_state(&state);
    let again = read_state(&written).expect("what was written is read");
    assert_eq!(again.bundle, state.bundle);
    assert_eq!(*write_state(&again), *written);
}

fn judge_svids(text: &[u8], trust_domain: &TrustDomain) {
    let write = |kept: &Kept| {
        let svids: Vec<_> = kept
            .svids
            .iter()
            .map(|(entry, svid)| (Arc::new(entry.clone()), Arc::new(ServedSvid::new(svid.clone()))))
            .collect();
        write_plain(svids.iter().map(|(entry, svid)| (entry, svid)), kept.federated.values())
    };
    let Ok(kept) = read_plain(text, trust_domain) else { return };
    let written = write(&kept);
    let again = read_plain(&written, trust_domain).expect("what was written is read");
    assert_eq!(again.federated, kept.federated);
    assert_eq!(*write(&again), *written);
}

fn judge_bundle(format: BundleFormat, text: &[u8], trust_domain: &TrustDomain) {
    match format.read(text, "fuzz", trust_domain) {
        Ok(bundle) => {
            assert_eq!(bundle.trust_domain, *trust_domain);
            assert!(!bundle.x509_authorities.is_empty(), "an empty bundle verifies nobody");
        }
        Err(error) => assert!(error.to_string().contains("fuzz"), "the place is told"),
    }
}
