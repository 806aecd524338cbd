//! What a node agent does as long as all goes well, and through restarts on either side.

use super::*;

#[tokio::test]
async fn a_node_attests_serves_and_needs_no_token_the_next_time() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    assert_eq!(agent.ids().await, ["spiffe://example.org/workload"]);
    assert_eq!(rig.server.state().version, env!("CARGO_PKG_VERSION"));
    let address = std::fs::read_to_string(rig.path("address")).unwrap();
    assert_eq!(address, format!("unix={}\n", rig.path("s").display()));
    agent.end().await.unwrap();
    assert!(!rig.path("s").exists());

    let again = rig.running(None).await;
    assert_eq!(again.ids().await, ["spiffe://example.org/workload"]);
    again.kill().await;
    let third = rig.running(Some("not-used")).await;
    assert_eq!(third.ids().await, ["spiffe://example.org/workload"]);
    assert_eq!(rig.calls("AttestAgent"), 1);
    third.end().await.unwrap();
}

#[tokio::test]
async fn insecure_bootstrap_believes_once_and_verifies_from_then_on() {
    let rig = Rig::new().await;
    let insecure = AgentConfig {
        trust: Trust {
            source: TrustSource::Insecure,
            ..rig.trust(Rebootstrap::Never)
        },
        ..rig.config(Some("token"))
    };
    let agent = rig.start(insecure);
    rig.until(|| rig.path("address").exists()).await;
    agent.end().await.unwrap();
    assert!(rig.agent_state()["bundle"]["x509_authorities"][0]["certificate"].is_string());
}

#[tokio::test]
async fn entries_come_change_and_go_and_streams_follow() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    assert_eq!(
        ids(&next(&mut answers).await),
        ["spiffe://example.org/workload"]
    );

    rig.register("another", &own());
    rig.sync().await;
    assert_eq!(
        ids(&next(&mut answers).await),
        [
            "spiffe://example.org/another",
            "spiffe://example.org/workload"
        ]
    );

    // A new revision is signed again.
    rig.server
        .state()
        .entries
        .get_mut("another")
        .unwrap()
        .revision_number = 1;
    let signed = rig.calls("BatchNewX509SVID");
    rig.sync().await;
    next(&mut answers).await;
    assert_eq!(rig.calls("BatchNewX509SVID"), signed + 1);

    rig.server.state().entries.clear();
    rig.sync().await;
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::PermissionDenied
    );
    agent.end().await.unwrap();
}

#[tokio::test]
async fn workload_svids_are_renewed_at_half_life_with_new_keys() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    let first = next(&mut answers).await;
    // 3,610 s of life: the earliest renewal is 1,614 s from now, the latest 1,976 s.
    rig.clock.advance(Duration::from_secs(1_600)).await;
    rig.sync().await;
    assert_eq!(rig.calls("BatchNewX509SVID"), 1);
    rig.clock.advance(Duration::from_secs(400)).await;
    let second = next(&mut answers).await;
    assert_eq!(ids(&first), ids(&second));
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn many_entries_are_fetched_by_revision_and_then_only_changes() {
    let rig = Rig::new().await;
    rig.server.state().page_size = 3;
    for number in 0..7 {
        rig.register(&format!("e{number}"), &own());
    }
    let agent = rig.running(Some("token")).await;
    assert_eq!(agent.ids().await.len(), 8);
    assert_eq!(
        rig.server.state().fetched,
        [
            vec!["e0", "e1", "e2"],
            vec!["e3", "e4", "e5"],
            vec!["e6", "workload"]
        ]
    );

    rig.server.state().fetched.clear();
    rig.server
        .state()
        .entries
        .get_mut("e5")
        .unwrap()
        .revision_number = 3;
    rig.server.state().entries.remove("e0");
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    rig.sync().await;
    rig.until(|| rig.calls("BatchNewX509SVID") == 2).await;
    assert_eq!(rig.server.state().fetched, [vec!["e5"]]);
    assert_eq!(next(&mut answers).await.svids.len(), 7);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn callers_wait_until_their_entry_is_signed() {
    let rig = Rig::new().await;
    rig.register("refused", &own());
    rig.server.state().refused.insert("refused".into());
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    rig.server.state().refused.clear();
    let (answer, ()) = tokio::join!(next(&mut answers), rig.sync());
    assert_eq!(answer.svids.len(), 2);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn federated_bundles_are_fetched_and_a_missing_one_is_left_out() {
    let rig = Rig::new().await;
    let mut other = TestCa::new(NOW).bundle();
    other.trust_domain = TrustDomain::new("other.org").unwrap();
    rig.server
        .state()
        .federated
        .insert("other.org".into(), other.clone());
    rig.server
        .state()
        .entries
        .get_mut("workload")
        .unwrap()
        .federates_with = vec!["other.org".into(), "missing.org".into()];
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    let answer = next(&mut answers).await;
    assert_eq!(answer.federated_bundles.len(), 1);
    assert_eq!(
        answer.federated_bundles["spiffe://other.org"],
        other.x509_der()
    );
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_renewed_node_svid_is_on_disk_before_its_first_use() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let first = rig.server.state().node.as_ref().unwrap().current.clone();
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", Status::unavailable("not now"));
    rig.clock.advance(Duration::from_secs(2_000)).await;
    rig.until(|| rig.calls("RenewAgent") == 1).await;
    rig.until(|| rig.agent_state()["renewed_svid"].is_object())
        .await;
    assert!(
        rig.agent_state()["svid"].is_object(),
        "both are kept until the new one was used"
    );

    rig.server.state().failing.clear();
    rig.as_time_passes(Duration::from_secs(600), || {
        rig.agent_state()["renewed_svid"].is_null()
    })
    .await;
    let current = rig.server.state().node.as_ref().unwrap().current.clone();
    assert_ne!(current, first, "the server has seen the new one");
    agent.end().await.unwrap();
    rig.running(None).await.end().await.unwrap();
}

#[tokio::test]
async fn a_kill_before_the_first_use_of_a_renewed_svid_is_survived() {
    killed_while_renewing(ServerSide::Remembers).await;
}

#[tokio::test]
async fn and_so_it_does_if_the_server_has_lost_the_renewal() {
    killed_while_renewing(ServerSide::Lost).await;
}

#[derive(Debug, PartialEq)]
enum ServerSide {
    Remembers,
    Lost,
}

async fn killed_while_renewing(server_side: ServerSide) {
    {
        let rig = Rig::new().await;
        let agent = rig.running(Some("token")).await;
        // Nothing that the renewed SVID would be used for.
        for method in ["SyncAuthorizedEntries", "BatchNewX509SVID", "GetBundle"] {
            let failing = Status::unavailable("not now");
            rig.server.state().failing.insert(method, failing);
        }
        rig.clock.advance(Duration::from_secs(2_000)).await;
        rig.until(|| {
            rig.path("data/agent-state.json").exists()
                && rig.agent_state()["renewed_svid"].is_object()
        })
        .await;
        agent.kill().await;
        assert!(
            rig.server.state().node.as_ref().unwrap().pending.is_some(),
            "not used yet"
        );
        if server_side == ServerSide::Lost {
            rig.server.state().node.as_mut().unwrap().pending = None;
        }
        // Only now: a request of the killed one may still be on its way.
        rig.server.state().failing.clear();
        let again = rig.start(rig.config(None));
        rig.until(|| rig.path("address").exists() || again.task.is_finished())
            .await;
        // The reserve: the server knows only the old one if it never wrote down that it renewed.
        assert!(
            !again.task.is_finished(),
            "{server_side:?}: {:?}",
            again.task.await
        );
        assert_eq!(again.ids().await, ["spiffe://example.org/workload"]);
        again.end().await.unwrap();
    }
}

#[tokio::test]
async fn streams_survive_a_restart_of_the_server() {
    let mut rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    rig.server = rig.server.restart().await;
    rig.register("another", &own());
    rig.sync().await;
    assert_eq!(next(&mut answers).await.svids.len(), 2);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_new_bundle_reaches_workloads_and_the_disk() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    let next_authority = TestCa::new(NOW).authority().clone();
    rig.server
        .state()
        .bundle
        .x509_authorities
        .push(next_authority);
    rig.server.state().bundle.sequence_number = 2;
    let expected = rig.server.state().bundle.x509_der();
    rig.sync().await;
    assert_eq!(next(&mut answers).await.svids[0].bundle, expected);
    agent.end().await.unwrap();
    assert_eq!(rig.agent_state()["bundle"]["sequence_number"], 2);
    assert_eq!(
        rig.agent_state()["bundle"]["x509_authorities"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn regular_goaways_of_the_server_disturb_nothing() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    // Well beyond the three minutes of a connection's life, sync by sync.
    for number in 0..50 {
        rig.register(&format!("e{number}"), &own());
        rig.sync().await;
        assert_eq!(
            next(&mut answers).await.svids.len(),
            number + 2,
            "sync {number}"
        );
    }
    assert!(
        rig.server.state().connections.len() > 1,
        "the server never let a connection go"
    );
    agent.end().await.unwrap();
}

#[tokio::test]
async fn with_keys_in_memory_nothing_is_written() {
    let rig = Rig::new().await;
    let agent = rig.start(AgentConfig {
        key_store: KeyStore::Memory,
        ..rig.config(Some("token"))
    });
    rig.until(|| rig.path("address").exists()).await;
    assert_eq!(agent.ids().await.len(), 1);
    agent.end().await.unwrap();
    assert!(!Path::new(&rig.path("data")).exists());
}

#[tokio::test]
async fn with_nothing_to_serve_there_there_is_no_public_socket() {
    let rig = Rig::new().await;
    let config = AgentConfig {
        api: crate::config::ApiConfig {
            workload_api: false,
            ..crate::config::ApiConfig::default()
        },
        ..rig.config(Some("token"))
    };
    let agent = rig.running_with(config).await;
    assert!(!rig.path("s").exists());
    assert_eq!(std::fs::read_to_string(rig.path("address")).unwrap(), "");
    agent.end().await.unwrap();
}

#[tokio::test]
async fn required_post_quantum_key_exchange_works() {
    let rig = Rig::new().await;
    let config = AgentConfig {
        key_exchange: KeyExchange::RequirePostQuantum,
        ..rig.config(Some("token"))
    };
    let agent = rig.running_with(config).await;
    assert_eq!(agent.ids().await, ["spiffe://example.org/workload"]);
    agent.end().await.unwrap();
}
