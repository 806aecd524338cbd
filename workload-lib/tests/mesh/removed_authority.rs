//! What was verified under an authority ends with it, on both sides of connections that are older.

use std::sync::Arc;

use countersign::Reason;
use countersign_identity::tls::ALPN_H2;

use crate::fixture::{Authority, OPEN, World, own_listener, report, task_request};
use crate::forge::Forge;

/// A world that trusts another trust domain, each of whose members may do what those at home may.
fn federated() -> (World, Authority) {
    let other = Authority::new("other.org");
    let policy = OPEN
        .replace("spiffe://ai-agents.org/rogue", "spiffe://other.org/planner")
        .replace(
            "[\"spiffe://ai-agents.org/*\"]",
            "[\"spiffe://ai-agents.org/*\", \"spiffe://other.org/*\"]",
        );
    let mut world = World::new(&policy);
    world.bundles.insert(Arc::new(other.bundle()));
    (world, other)
}

#[tokio::test]
async fn a_callee_is_not_called_over_a_connection_from_before() {
    let (world, other) = federated();
    let mut planner = world.member("planner").await;
    let coder = world.member_of(&other, "coder").await;
    let client = planner.client_of(&coder);
    assert_eq!(report(&client, "").await, "done");
    let only_home = [world.home.bundle()].into_iter().collect();
    planner.feed.send(planner.svid.clone(), only_home).unwrap();
    let failed = report(&client, "").await;
    assert!(failed.contains("could not connect"), "{failed}");
    assert_eq!(coder.served(), 1);
}

#[tokio::test]
async fn a_caller_is_not_served_over_a_connection_from_before() {
    let (world, other) = federated();
    let planner = other.svid("planner");
    let mut coder = world.member("coder").await;
    let pool = world.raw(&planner).pool(&coder, &[ALPN_H2]);
    let call = || {
        let chain = Forge::start(&planner, &coder.id);
        pool.request(task_request(&coder, &[("agent-chain", Some(chain.http()))]))
    };
    assert_eq!(call().await.unwrap().status(), 200);
    let (first, second) = (call(), call());
    let only_home = [world.home.bundle()].into_iter().collect();
    coder.feed.send(coder.svid.clone(), only_home).unwrap();
    for call in [first, second] {
        // On the old connection it is refused; to a new one the caller does not get.
        if let Ok(answer) = call.await {
            let reason = Reason::ChainSignatureInvalid.as_str();
            assert_eq!(answer.headers()["agent-refusal"], reason);
        }
    }
    assert_eq!(coder.served(), 1);
}

#[tokio::test]
async fn an_own_server_refuses_callers_on_connections_from_before() {
    let (world, other) = federated();
    let planner = other.svid("planner");
    let mut coder = world.member("coder").await;
    let listener = own_listener(&coder.mesh).await;
    coder.address = listener.local_addr();
    let router = axum::Router::new()
        .fallback(|| async { "done" })
        .layer(coder.mesh.inbound_layer());
    let service = router.into_make_service_with_connect_info::<countersign::PeerInfo>();
    let serving = tokio::spawn(async move { axum::serve(listener, service).await });
    let raw = world.raw(&planner);
    let chain = || Forge::start(&planner, &coder.id);
    let (first, second) = (chain(), chain());
    raw.present(&coder, &first).await.is_served();
    let only_home = [world.home.bundle()].into_iter().collect();
    coder.feed.send(coder.svid.clone(), only_home).unwrap();
    raw.present(&coder, &second)
        .await
        .is_refused(Reason::ChainSignatureInvalid);
    serving.abort();
}
