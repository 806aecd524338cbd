//! Cases 1 to 4: chains that are missing, forged, misdirected, replayed, stale, or claim more than they may.

use std::time::Duration;

use countersign::{Chain, Context, Reason};
use countersign_identity::{KeyType, PrivateKey, UnixTime, X509Svid};

use crate::fixture::{Member, NOW, OPEN, World, ok, report};
use crate::forge::{Forge, Style};

#[tokio::test]
async fn case_01_a_stripped_header_is_chain_required() {
    let world = World::new(OPEN);
    let coder = world.member("coder").await;
    let answer = world
        .raw(&world.home.svid("planner"))
        .present_fields(&coder, &[])
        .await;
    answer.is_refused(Reason::ChainRequired);
    assert_eq!(coder.served(), 0);
}

#[tokio::test]
async fn case_01_a_new_chain_by_a_middle_workload_is_refused() {
    let world = World::new(OPEN);
    let (coder, reviewer) = (world.member("coder").await, world.member("reviewer").await);
    assert_eq!(coder.task(&reviewer, "").await, "origination_denied here");
    let refused = Chain::start(&coder.mesh).unwrap_err();
    assert_eq!(
        refused.refused().unwrap().reason(),
        Reason::OriginationDenied
    );

    let own = Forge::start(&coder.svid, &reviewer.id);
    world
        .raw(&coder.svid)
        .present(&reviewer, &own)
        .await
        .is_refused(Reason::OriginationDenied);
    assert_eq!(reviewer.served(), 0);
}

#[tokio::test]
async fn case_02_a_forged_originator_is_chain_signature_invalid() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.home.svid("planner"), world.home.svid("coder"));
    let reviewer = world.member("reviewer").await;

    // The coder claims that the planner called it: the planner's key ID, the coder's signature.
    let honest = Forge::start(&planner, coder.id());
    let mut forged = Forge::default();
    let style = Style {
        header: None,
        ..Style::default()
    };
    forged.add(&planner, honest.last().clone(), &style);
    let mut link = forged.links.pop().unwrap();
    let end = link.len();
    link[end - 40] ^= 1;
    let mut chain = Forge::default();
    chain.push(link);
    let mut last = honest.last().clone();
    (last.iss, last.chain, last.aud, last.budget) = (None, None, reviewer.id.to_string(), 10);
    chain.add(&coder, last, &Style::default());
    let raw = world.raw(&coder);
    let fields = [
        ("agent-chain", Some(chain.http())),
        ("agent-chain-certs", honest.all_certs()),
    ];
    raw.present_fields(&reviewer, &fields)
        .await
        .is_refused(Reason::ChainSignatureInvalid);

    // The same without any certificate of the planner's.
    let fields = [("agent-chain", Some(chain.http()))];
    raw.present_fields(&reviewer, &fields)
        .await
        .is_refused(Reason::ChainKeyUnknown);
    assert_eq!(reviewer.served(), 0);
}

#[tokio::test]
async fn case_02_links_that_were_cut_off_or_spliced_in_are_refused() {
    let world = World::new(OPEN);
    let (planner, coder, reviewer) = (
        world.home.svid("planner"),
        world.home.svid("coder"),
        world.home.svid("reviewer"),
    );
    let tester = world.member("tester").await;
    let raw = world.raw(&reviewer);
    let honest = Forge::start(&planner, coder.id())
        .then(&coder, reviewer.id())
        .then(&reviewer, &tester.id);
    let mut cut = Forge::default();
    honest
        .links
        .iter()
        .skip(1)
        .for_each(|link| cut.push(link.clone()));
    let fields = [
        ("agent-chain", Some(cut.http())),
        ("agent-chain-certs", honest.certs()),
    ];
    raw.present_fields(&tester, &fields)
        .await
        .is_refused(Reason::ChainMalformed);

    // The second link stands behind the first of another chain of the same originator.
    let other = Forge::start(&planner, coder.id());
    let mut spliced = Forge::default();
    spliced.push(other.links[0].clone());
    honest
        .links
        .iter()
        .skip(1)
        .for_each(|link| spliced.push(link.clone()));
    let fields = [
        ("agent-chain", Some(spliced.http())),
        ("agent-chain-certs", honest.certs()),
    ];
    raw.present_fields(&tester, &fields)
        .await
        .is_refused(Reason::ChainSignatureInvalid);

    raw.present(&tester, &honest).await.is_served();
}

#[tokio::test]
async fn case_02_a_foreign_first_link_is_refused_whatever_is_cached() {
    for warm in [false, true] {
        let world = World::new(OPEN);
        let (planner, coder, reviewer) = (
            world.home.svid("planner"),
            world.home.svid("coder"),
            world.home.svid("reviewer"),
        );
        let tester = world.member("tester").await;
        let raw = world.raw(&reviewer);
        let honest = Forge::start(&planner, coder.id()).then(&coder, reviewer.id());
        if warm {
            raw.present(&tester, &honest.clone().then(&reviewer, &tester.id))
                .await
                .is_served();
        }
        // Another originator with the right to start; its own valid link, then one with somebody else's signature.
        let rogue = world.home.svid("rogue");
        let foreign = Forge::start(&rogue, coder.id());
        let mut chain = foreign.clone();
        chain.push(honest.links[1].clone());
        let mut last = honest.last().clone();
        (last.aud, last.cti, last.budget) = (tester.id.to_string(), crate::forge::random(), 1);
        chain.add(&reviewer, last, &Style::default());
        let certs = foreign.clone().then(&coder, reviewer.id()).all_certs();
        // Without a certificate of that originator, then with it.
        let fields = [("agent-chain", Some(chain.http()))];
        raw.present_fields(&tester, &fields)
            .await
            .is_refused(Reason::ChainKeyUnknown);
        let fields = [
            ("agent-chain", Some(chain.http())),
            ("agent-chain-certs", certs),
        ];
        let answer = raw.present_fields(&tester, &fields).await;
        answer.is_refused(Reason::ChainSignatureInvalid);
    }
}

#[tokio::test]
async fn case_03_a_chain_of_other_parties_is_an_audience_mismatch() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.home.svid("planner"), world.home.svid("coder"));
    let (reviewer, tester) = (world.member("reviewer").await, world.member("tester").await);
    // For the reviewer, sent to the tester.
    let chain = Forge::start(&planner, &reviewer.id);
    world
        .raw(&planner)
        .present(&tester, &chain)
        .await
        .is_refused(Reason::ChainAudienceMismatch);
    // The planner's, presented by the coder.
    let answer = world.raw(&coder).present(&reviewer, &chain).await;
    answer.is_refused(Reason::ChainAudienceMismatch);
    world
        .raw(&planner)
        .present(&reviewer, &chain)
        .await
        .is_served();
}

#[tokio::test]
async fn case_03_the_same_call_twice_is_replayed() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let coder = world.member("coder").await;
    let raw = world.raw(&planner);
    let chain = Forge::start(&planner, &coder.id);
    raw.present(&coder, &chain).await.is_served();
    raw.present(&coder, &chain)
        .await
        .is_refused(Reason::ChainReplayed);
    assert_eq!(coder.served(), 1);
}

#[tokio::test]
async fn case_03_the_deadline_and_the_age_of_links_are_held() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let coder = world.member("coder").await;
    let raw = world.raw(&planner);
    let made =
        |change: fn(&mut crate::forge::Claims)| Forge::start_with(&planner, &coder.id, change);

    let late = made(|c| c.exp = NOW);
    raw.present(&coder, &late)
        .await
        .is_refused(Reason::ChainDeadlinePassed);
    let old = made(|c| c.iat = NOW - 61);
    let answer = raw.present(&coder, &old).await;
    answer.is_refused(Reason::ChainStale);
    assert!(
        answer.text.contains(&format!("\"time\":{NOW}")),
        "the callee's time: {}",
        answer.text
    );
    raw.present(&coder, &made(|c| c.iat = NOW + 31))
        .await
        .is_refused(Reason::ChainStale);
    raw.present(&coder, &made(|c| c.iat = NOW - 60))
        .await
        .is_served();
    raw.present(&coder, &made(|c| c.iat = NOW + 30))
        .await
        .is_served();
    raw.present(&coder, &made(|c| c.exp = NOW + 1))
        .await
        .is_served();
}

#[tokio::test]
async fn case_03_the_library_refuses_a_call_after_its_deadline() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    let chain = Chain::start(&planner.mesh).unwrap();
    assert_eq!(chain.scope(planner.task(&coder, "")).await, "done");
    world.clock.set(UnixTime::from_secs(NOW + 300));
    assert_eq!(
        chain.scope(planner.task(&coder, "")).await,
        "chain_deadline_passed here"
    );
}

#[tokio::test]
async fn case_04_claims_that_rise_are_malformed() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.home.svid("planner"), world.home.svid("coder"));
    let reviewer = world.member("reviewer").await;
    let raw = world.raw(&coder);
    let first = Forge::start(&planner, coder.id());
    let rises: [fn(&mut crate::forge::Claims); 3] =
        [|c| c.max_hops = 6, |c| c.exp += 1, |c| c.budget = 100];
    for rise in rises {
        let chain = first.clone().then_with(&coder, &reviewer.id, rise);
        raw.present(&reviewer, &chain)
            .await
            .is_refused(Reason::ChainMalformed);
    }
    let highest = first.then_with(&coder, &reviewer.id, |c| c.budget = 99);
    raw.present(&reviewer, &highest).await.is_served();
}

#[tokio::test]
async fn case_04_a_first_link_over_its_originate_rule_is_clamped() {
    let policy = OPEN.replace(
        "new_chains",
        "budget = 7\n deadline = \"1m\"\n max_hops = 2\n new_chains",
    );
    let world = World::new(&policy);
    let planner = world.home.svid("planner");
    let coder = clamp_teller(&world).await;
    let chain = Forge::start_with(&planner, &coder.id, |c| {
        (c.max_hops, c.budget, c.exp) = (16, 60_000, NOW + 3600);
    });
    let answer = world.raw(&planner).present(&coder, &chain).await;
    answer.is_served();
    assert_eq!(
        answer.text,
        format!("hops 2, budget 7, deadline {}", NOW + 60)
    );
}

async fn clamp_teller(world: &World) -> Member {
    let tell = || async {
        let context = Context::current().expect("a context in the handler");
        ok(&format!(
            "hops {}, budget {}, deadline {}",
            context.max_hops(),
            context.remaining(),
            context.deadline().as_secs()
        ))
    };
    world
        .member_with("coder", move |_| axum::Router::new().fallback(tell))
        .await
}

/// A key on P-384 signs too, and callers with either kind of key talk to each other.
#[tokio::test]
async fn a_chain_passes_through_keys_of_both_kinds() {
    let world = World::new(OPEN);
    let coder = world.member("coder").await;
    let svid = world.home.svid_of("planner", KeyType::EcP384);
    let (mesh, _feed) = world.mesh(svid);
    let client = mesh
        .client(coder.id.as_str())
        .unwrap()
        .at(format!("https://{}", coder.address))
        .unwrap();
    let _reviewer = world.member("reviewer").await;
    assert_eq!(report(&client, "reviewer").await, "done");
}

/// Keys that cannot sign chains are refused with a sentence that names the setting.
#[tokio::test]
async fn a_key_that_cannot_sign_chains_is_refused_at_start() {
    let world = World::new(OPEN);
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let hour = Duration::from_secs(3600);
    let chain = world
        .home
        .issue(&world.id("planner"), &key, hour, crate::fixture::now());
    let svid = X509Svid::new(chain, key).unwrap();
    let clock = std::sync::Arc::new(world.clock.clone());
    let error = countersign::test::mesh(svid, world.bundles.clone(), world.policy(), clock);
    let error = error.map(drop).unwrap_err();
    assert!(
        error.to_string().contains("workload_x509_svid_key_type"),
        "{error}"
    );
}
