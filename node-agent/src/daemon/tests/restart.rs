//! What a node agent does for workloads while the server is away.

use super::*;

#[tokio::test]
async fn a_restart_without_a_server_serves_valid_svids_from_disk() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let before = next(&mut agent.svids().await).await;
    rig.until(|| rig.path("data/agent-svids.bin").exists())
        .await;
    agent.kill().await;
    let address = rig.server.address;
    let Rig {
        directory,
        clock,
        server,
    } = rig;
    let shared = server.stop().await;

    // Everything but the server.
    let away = Rig {
        directory,
        clock,
        server: TestServer::elsewhere(shared).await,
    };
    let config = AgentConfig {
        server: address.to_string(),
        ..away.config(None)
    };
    let again = away.running_with(config.clone()).await;
    let mut answers = again.svids().await;
    let after = next(&mut answers).await;
    assert_eq!(after.svids, before.svids);
    assert_eq!(after.federated_bundles, before.federated_bundles);

    // They are served for as long as they are valid, and no longer.
    away.clock.advance(Duration::from_secs(1_000)).await;
    assert_eq!(again.ids().await, ["spiffe://example.org/workload"]);

    // The server is back: all is as before, and nothing had to be signed again.
    let signed = away.calls("BatchNewX509SVID");
    let shared = away.server.stop().await;
    let back = Rig {
        server: TestServer::at(shared, address).await,
        directory: away.directory,
        clock: away.clock,
    };
    back.register("another", &own());
    while back.calls("BatchNewX509SVID") == signed {
        back.clock.advance(Duration::from_secs(1)).await;
        pause().await;
    }
    assert_eq!(next(&mut answers).await.svids.len(), 2);
    again.end().await.unwrap();
}

#[tokio::test]
async fn callers_unknown_to_the_disk_get_unavailable_not_denied() {
    let rig = Rig::new().await;
    let stranger = std::iter::once(countersign_identity::Selector::parse("unix:uid:4000000000"))
        .collect::<Result<SelectorSet, _>>()
        .unwrap();
    rig.server.state().entries.clear();
    rig.register("somebody-else", &stranger);
    let agent = rig.running(Some("token")).await;
    rig.until(|| rig.path("data/agent-svids.bin").exists())
        .await;
    let refused = agent.svids().await.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    agent.kill().await;

    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", Status::unavailable("not now"));
    let again = rig.running(None).await;
    let refused = again.svids().await.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    again.end().await.unwrap();
}

#[tokio::test]
async fn nothing_of_workloads_is_kept_where_a_setting_says_so() {
    let rig = Rig::new().await;
    let config = AgentConfig {
        svids_on_disk: false,
        ..rig.config(Some("token"))
    };
    let agent = rig.running_with(config).await;
    assert_eq!(agent.ids().await.len(), 1);
    agent.end().await.unwrap();
    let names: Vec<_> = std::fs::read_dir(rig.path("data"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("svids"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn a_kept_file_that_is_damaged_costs_only_what_was_in_it() {
    let rig = Rig::new().await;
    rig.running(Some("token")).await.end().await.unwrap();
    std::fs::write(rig.path("data/agent-svids.bin"), "CSASVID").unwrap();
    let agent = rig.running(None).await;
    assert_eq!(agent.ids().await.len(), 1);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn svids_of_a_tainted_authority_are_renewed_in_paced_batches() {
    let rig = Rig::new().await;
    for number in 0..150 {
        rig.register(&format!("e{number:03}"), &own());
    }
    let agent = rig.running(Some("token")).await;
    assert_eq!(rig.calls("BatchNewX509SVID"), 1);
    let next_ca = TestCa::new(NOW);
    {
        let mut state = rig.server.state();
        let tainted = state.bundle.x509_authorities[0].with_tainted(true);
        state.bundle.x509_authorities = vec![tainted, next_ca.authority().clone()];
        state.bundle.sequence_number = 2;
        state.ca = next_ca;
    }
    rig.sync().await;
    rig.until(|| rig.calls("BatchNewX509SVID") == 2).await;
    assert_eq!(rig.server.state().signed.last(), Some(&100));
    rig.sync().await;
    rig.until(|| rig.calls("BatchNewX509SVID") == 3).await;
    assert_eq!(rig.server.state().signed.last(), Some(&51));
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_set_back_and_forth_costs_no_identity() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    let signed = rig.calls("BatchNewX509SVID");
    rig.clock.advance(Duration::from_secs(1_000)).await;
    rig.clock.set(NOW.after(Duration::from_secs(100)));
    // Half of a life after the start by the clock that nobody sets.
    while rig.calls("BatchNewX509SVID") == signed {
        tokio::time::advance(INTERVAL).await;
        pause().await;
    }
    rig.clock.set(NOW.after(Duration::from_secs(1_500)));
    rig.register("another", &own());
    rig.sync().await;
    rig.until(|| rig.calls("BatchNewX509SVID") > signed + 1)
        .await;
    assert_eq!(agent.ids().await.len(), 2);
    agent.end().await.unwrap();
}
