//! Who gets in.

use bytes::Bytes;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use prost::Message as _;
use tonic::Status;

use super::*;
use crate::api::access::TABLE;
use crate::api::caller::Access;

/// What a caller of a unary method with an empty message is told. Streams see the same guard.
pub(super) async fn told(door: &Door, method: &str) -> Status {
    let frame = Bytes::from_static(&[0; 5]);
    let request = http::Request::post(format!("http://server{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(frame))
        .unwrap();
    let answer = door
        .clone()
        .call(request.map(tonic::body::Body::new))
        .await
        .unwrap();
    let headers = answer.headers().clone();
    if let Some(status) = Status::from_header_map(&headers) {
        return status;
    }
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap();
    body.trailers().and_then(Status::from_header_map).unwrap()
}

fn reason(status: &Status) -> Option<Reason> {
    let details = tonic_types::Status::decode(status.details()).ok()?;
    let detail = details.details.first()?;
    assert_eq!(
        detail.type_url,
        "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
    );
    Some(
        types::PermissionDeniedDetails::decode(detail.value.as_slice())
            .unwrap()
            .reason(),
    )
}

#[tokio::test]
async fn every_method_lets_in_exactly_those_of_its_row() {
    let house = House::new().await;
    let agent = house.agent("a", &[]).await;
    let admin = house.peer(id("/admin"), "9");
    let downstream = house.peer(id("/downstream"), "9");
    let workload = house.peer(id("/workload"), "9");
    let admin_entry = types::Entry {
        admin: true,
        ..entry("/admin", "/p")
    };
    let downstream_entry = types::Entry {
        downstream: true,
        ..entry("/downstream", "/p")
    };
    create(
        &house.local(),
        vec![admin_entry, downstream_entry, entry("/workload", "/p")],
    )
    .await;
    let configured = house.peer(id("/configured-admin"), "9");
    let doors = [
        ("local", house.local()),
        ("stranger", house.stranger()),
        ("agent", agent),
        ("admin", admin),
        ("configured admin", configured),
        ("downstream", downstream),
        ("workload", workload),
    ];
    for (method, access) in TABLE {
        for (who, door) in &doors {
            let may = match access {
                Access::Anyone => true,
                Access::Agent => *who == "agent",
                Access::Downstream => *who == "downstream",
                Access::Local => *who == "local",
                Access::Admin => ["local", "admin", "configured admin"].contains(who),
                Access::AdminOrAgent => {
                    ["local", "admin", "configured admin", "agent"].contains(who)
                }
            };
            let status = told(door, method).await;
            let denied = format!("authorization denied for method {method}");
            if *access == Access::Local && *who != "local" {
                // Only the local socket serves it at all.
                assert_eq!(status.code(), Code::Unimplemented, "{who} {method}");
            } else if may {
                assert_ne!(status.message(), denied, "{who} {method}");
            } else {
                assert_eq!(status.code(), Code::PermissionDenied, "{who} {method}");
                assert_eq!(status.message(), denied, "{who} {method}");
            }
        }
    }
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_unimplemented() {
    let house = House::new().await;
    for method in [
        "/spire.api.server.agent.v1.Agent/Nothing",
        "/nobody.Knows/This",
    ] {
        assert_eq!(
            told(&house.local(), method).await.code(),
            Code::Unimplemented
        );
    }
}

#[tokio::test]
async fn each_agent_is_told_why_it_may_not() {
    let house = House::new().await;
    let method = "/spire.api.server.agent.v1.Agent/PostStatus";
    let agent = house.agent("a", &[]).await;
    let ok = told(&agent, method).await;
    assert_eq!(ok.code(), Code::Ok, "{ok:?}");
    let name = id("/spire/agent/x509pop/a");
    let denied = async |door: Door| reason(&told(&door, method).await);
    assert_eq!(
        denied(house.peer_until(name.clone(), "1", UnixTime::from_secs(START - 1))).await,
        Some(Reason::AgentExpired)
    );
    let unknown = house.peer(id("/spire/agent/x509pop/b"), "1");
    assert_eq!(denied(unknown).await, Some(Reason::AgentNotAttested));
    assert_eq!(
        denied(house.peer(name.clone(), "2")).await,
        Some(Reason::AgentNotActive)
    );
    let banned = house.store.node_banned(&name).await.unwrap();
    house.registry.reached(banned.seq).await.unwrap();
    assert_eq!(denied(agent.clone()).await, Some(Reason::AgentBanned));
    let always = |_: &Node| true;
    let gone = house.store.node_deleted(&name, None, &always).await;
    house
        .registry
        .reached(gone.unwrap().unwrap())
        .await
        .unwrap();
    assert_eq!(denied(agent).await, Some(Reason::AgentNotAttested));
}

#[tokio::test]
async fn the_first_use_of_a_renewed_svid_ends_the_old_one() {
    let house = House::new().await;
    let old = house.agent("a", &[]).await;
    let name = id("/spire/agent/x509pop/a");
    let pending = Credential {
        serial: "2".into(),
        expires_at: UnixTime::from_secs(START + 90),
    };
    let renewed = house.store.node_renewed(&name, pending).await.unwrap();
    house.registry.reached(renewed.seq).await.unwrap();
    let new = house.peer(name, "2");
    let post = async |door: &Door| {
        let status = told(door, "/spire.api.server.agent.v1.Agent/PostStatus").await;
        (status.code(), reason(&status))
    };
    assert_eq!(
        post(&old).await,
        (Code::Ok, None),
        "until then the old one counts"
    );
    assert_eq!(post(&new).await, (Code::Ok, None));
    assert_eq!(
        post(&old).await,
        (Code::PermissionDenied, Some(Reason::AgentNotActive))
    );
    assert_eq!(post(&new).await, (Code::Ok, None));
}
