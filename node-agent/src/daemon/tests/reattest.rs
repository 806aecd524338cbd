//! Nodes that may attest again: they do so instead of renewing, and when the server asks for it.

use super::*;

#[tokio::test]
async fn a_node_that_may_attest_again_does_so_instead_of_renewing() {
    let rig = Rig::new().await;
    let agent = rig.running_with(rig.reattestable()).await;
    let first = rig.server.state().node.as_ref().unwrap().current.clone();
    rig.clock.advance(Duration::from_secs(2_000)).await;
    rig.until(|| rig.calls("AttestAgent") == 2).await;
    rig.sync().await;
    let node = rig.server.state().node.as_ref().unwrap().current.clone();
    assert_ne!(node, first);
    assert_eq!(rig.calls("RenewAgent"), 0);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_refused_running_node_reattests_and_its_streams_stay() {
    let rig = Rig::new().await;
    let agent = rig.running_with(rig.reattestable()).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    for (round, reason) in [
        Reason::AgentExpired,
        Reason::AgentNotAttested,
        Reason::AgentNotActive,
        Reason::AgentMustReattest,
    ]
    .into_iter()
    .enumerate()
    {
        rig.server
            .state()
            .failing_once
            .insert("SyncAuthorizedEntries", denied(reason));
        rig.register(&format!("entry-{round}"), &own());
        rig.sync().await;
        assert_eq!(rig.calls("AttestAgent"), round + 2, "{reason:?}");
        assert_eq!(next(&mut answers).await.svids.len(), round + 2);
    }
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_node_refused_at_reattestation_forgets_its_svid_and_ends() {
    let rig = Rig::new().await;
    let agent = rig.running_with(rig.reattestable()).await;
    rig.server
        .state()
        .failing
        .insert("AttestAgent", Status::permission_denied("not any more"));
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", denied(Reason::AgentNotAttested));
    rig.clock.advance(INTERVAL).await;
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("attest anew"), "{error}");
    assert!(rig.agent_state()["svid"].is_null());
    assert!(!rig.path("data/agent-svids.bin").exists());
}

#[tokio::test]
async fn a_banned_node_does_not_reattest_and_leaves_nothing_on_disk() {
    let rig = Rig::new().await;
    let agent = rig.running_with(rig.reattestable()).await;
    rig.until(|| rig.path("data/agent-svids.bin").exists())
        .await;
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", denied(Reason::AgentBanned));
    rig.clock.advance(INTERVAL).await;
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("banned this node"), "{error}");
    assert_eq!(rig.calls("AttestAgent"), 1);
    assert!(rig.agent_state()["svid"].is_null());
    assert!(!rig.path("data/agent-svids.bin").exists());
}

#[tokio::test]
async fn a_refusal_at_the_first_sync_ends_even_reattestable_nodes() {
    let rig = Rig::new().await;
    let agent = rig.running_with(rig.reattestable()).await;
    agent.end().await.unwrap();
    rig.server.state().node = None;
    let error = rig.refused(rig.reattestable()).await;
    assert!(error.contains("evicted"), "{error}");
    assert!(rig.agent_state()["svid"].is_null());
    // And the next start attests.
    let agent = rig.running_with(rig.reattestable()).await;
    assert_eq!(rig.calls("AttestAgent"), 2);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_server_set_up_anew_ends_the_agent_without_rebootstrap() {
    let mut rig = Rig::new().await;
    let agent = rig.running_with(rig.reattestable()).await;
    rig.server = rig.server.set_up_anew().await;
    rig.clock.advance(INTERVAL).await;
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("can't be verified"), "{error}");
}

#[tokio::test]
async fn rebootstrap_takes_new_trust_after_the_delay_and_streams_stay() {
    let mut rig = Rig::new().await;
    let delay = Duration::from_secs(600);
    let agent = rig
        .running_with(AgentConfig {
            trust: rig.trust(Rebootstrap::Auto(delay)),
            ..rig.reattestable()
        })
        .await;
    let mut answers = agent.svids().await;
    let before = next(&mut answers).await;
    rig.server = rig.server.set_up_anew().await;
    let bundle = pem::certificates([rig.server.state().ca.authority().der()]);
    std::fs::write(rig.path("bundle.pem"), bundle).unwrap();
    let mut waited = 0;
    while rig.calls("AttestAgent") < 2 {
        rig.clock.advance(INTERVAL).await;
        waited += 5;
        for _ in 0..5 {
            pause().await;
        }
    }
    assert!(waited >= 600, "after {waited} s");
    let mut after = next(&mut answers).await;
    while after.svids[0].x509_svid == before.svids[0].x509_svid {
        rig.clock.advance(INTERVAL).await;
        after = next(&mut answers).await;
    }
    assert_eq!(after.svids[0].bundle, rig.server.state().bundle.x509_der());
    agent.end().await.unwrap();
}
