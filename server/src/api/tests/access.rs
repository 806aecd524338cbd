//! Who gets in.

use bytes::Bytes;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use prost::Message as _;
use tonic::Status;

use super::*;
use crate::api::access::TABLE;
use crate::api::caller::Access;

/// What a caller of a unary method with an empty message is told. Streams see the same guard.
pub(super) async fn told(caller: &TestCaller, method: &str) -> Status {
    let frame = Bytes::from_static(&[0; 5]);
    let request = http::Request::post(format!("http://server{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(frame))
        .unwrap();
    let answer = caller
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
async fn every_method_admits_exactly_the_callers_of_its_row() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent("a", &[]).await;
    let admin = fixture.peer(id("/admin"), "9");
    let downstream = fixture.peer(id("/downstream"), "9");
    let workload = fixture.peer(id("/workload"), "9");
    let admin_entry = types::Entry {
        admin: true,
        ..entry("/admin", "/p")
    };
    let downstream_entry = types::Entry {
        downstream: true,
        ..entry("/downstream", "/p")
    };
    create(
        &fixture.local(),
        vec![admin_entry, downstream_entry, entry("/workload", "/p")],
    )
    .await;
    let configured = fixture.peer(id("/configured-admin"), "9");
    let doors = [
        ("local", fixture.local()),
        ("stranger", fixture.stranger()),
        ("agent", agent),
        ("admin", admin),
        ("configured admin", configured),
        ("downstream", downstream),
        ("workload", workload),
    ];
    for (method, access) in TABLE {
        for (who, caller) in &doors {
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
            let status = told(caller, method).await;
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
async fn an_unknown_method_is_unimplemented() {
    let fixture = Fixture::new().await;
    for method in [
        "/spire.api.server.agent.v1.Agent/Nothing",
        "/nobody.Knows/This",
    ] {
        assert_eq!(
            told(&fixture.local(), method).await.code(),
            Code::Unimplemented
        );
    }
}

#[tokio::test]
async fn a_refused_agent_gets_the_reason() {
    let fixture = Fixture::new().await;
    let method = "/spire.api.server.agent.v1.Agent/PostStatus";
    let agent = fixture.agent("a", &[]).await;
    let ok = told(&agent, method).await;
    assert_eq!(ok.code(), Code::Ok, "{ok:?}");
    let name = id("/spire/agent/x509pop/a");
    let denied = async |caller: TestCaller| reason(&told(&caller, method).await);
    assert_eq!(
        denied(fixture.peer_until(name.clone(), "1", UnixTime::from_secs(START - 1))).await,
        Some(Reason::AgentExpired)
    );
    let unknown = fixture.peer(id("/spire/agent/x509pop/b"), "1");
    assert_eq!(denied(unknown).await, Some(Reason::AgentNotAttested));
    assert_eq!(
        denied(fixture.peer(name.clone(), "2")).await,
        Some(Reason::AgentNotActive)
    );
    let banned = fixture.store.node_banned(&name).await.unwrap();
    fixture.index.visible(banned).await.unwrap();
    assert_eq!(denied(agent.clone()).await, Some(Reason::AgentBanned));
    let always = |_: &Node| true;
    let gone = fixture.store.node_deleted(&name, None, &always).await;
    assert!(fixture.index.visible(gone.unwrap()).await.unwrap());
    assert_eq!(denied(agent).await, Some(Reason::AgentNotAttested));
}

#[tokio::test]
async fn the_first_use_of_a_renewed_svid_ends_the_old_one() {
    let fixture = Fixture::new().await;
    let old = fixture.agent("a", &[]).await;
    let name = id("/spire/agent/x509pop/a");
    let pending = Credential {
        serial: "2".into(),
        expires_at: UnixTime::from_secs(START + 90),
    };
    let renewed = fixture.store.node_renewed(&name, pending).await.unwrap();
    fixture.index.visible(renewed).await.unwrap();
    let new = fixture.peer(name, "2");
    let post = async |caller: &TestCaller| {
        let status = told(caller, "/spire.api.server.agent.v1.Agent/PostStatus").await;
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
