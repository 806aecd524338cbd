//! JWT-SVIDs for workloads, asked for by node agents and by administrators.

use countersign_identity::jwt::{VerifiedJwt, verify_jwt};
use countersign_proto::spire::api::server::svid::v1 as wire;

use super::*;

fn audience(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What a token from the wire says, verified against the server's bundle.
fn verified(fixture: &Fixture, svid: &types::Jwtsvid, audience: &str) -> VerifiedJwt {
    let now = fixture.clock.now();
    let verified = verify_jwt(
        &svid.token,
        &fixture.index,
        &[audience],
        now,
        Duration::ZERO,
    );
    let verified = verified.unwrap();
    assert_eq!(svid.id, Some((&verified.id).into()));
    assert_eq!(svid.expires_at, verified.expires_at.as_i64());
    assert_eq!(svid.issued_at, verified.issued_at.unwrap().as_i64());
    assert_eq!(svid.hint, "");
    verified
}

async fn new_jwt(
    caller: &TestCaller,
    id: &str,
    names: &[&str],
) -> Result<types::Jwtsvid, tonic::Status> {
    let request = wire::NewJwtsvidRequest {
        entry_id: id.into(),
        audience: audience(names),
    };
    let answer = caller.svids().new_jwtsvid(request).await?;
    Ok(answer.into_inner().svid.unwrap())
}

async fn mint(
    caller: &TestCaller,
    id: Option<types::Spiffeid>,
    names: &[&str],
    ttl: i32,
) -> Result<types::Jwtsvid, tonic::Status> {
    let request = wire::MintJwtsvidRequest {
        id,
        audience: audience(names),
        ttl,
    };
    let answer = caller.svids().mint_jwtsvid(request).await?;
    Ok(answer.into_inner().svid.unwrap())
}

fn told(status: &tonic::Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[tokio::test]
async fn a_token_says_what_its_entry_says() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &[]).await;
    let plain = entry("/plain", "/spire/agent/x509pop/a");
    let with_id = types::Entry {
        jwt_svid_ttl: 60,
        additional_attributes: Some(types::entry::AdditionalAttributes {
            jwt_svid_include_jti: true,
            ..Default::default()
        }),
        ..entry("/with-id", "/spire/agent/x509pop/a")
    };
    let made = create(&fixture.local(), vec![plain, with_id]).await;

    let svid = new_jwt(&caller, &made[0].id, &["a", "b"]).await.unwrap();
    let token = verified(&fixture, &svid, "b");
    assert_eq!(token.id, id("/plain"));
    assert_eq!(token.audience, ["a", "b"]);
    assert_eq!(token.expires_at.as_secs(), START + 300);
    assert!(!token.claims.contains_key("jti") && !token.claims.contains_key("iss"));

    let svid = new_jwt(&caller, &made[1].id, &["a"]).await.unwrap();
    let token = verified(&fixture, &svid, "a");
    assert_eq!(token.expires_at.as_secs(), START + 60);
    assert_eq!(token.claims["jti"].as_str().map(str::len), Some(22));
}

#[tokio::test]
async fn agents_get_tokens_for_own_entries_and_with_an_audience_only() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &[]).await;
    let mine = entry("/mine", "/spire/agent/x509pop/a");
    let other = entry("/other", "/spire/agent/x509pop/b");
    let made = create(&fixture.local(), vec![mine, other]).await;
    for id in [made[1].id.as_str(), "unknown", ""] {
        // Whether there is an audience is not looked at before.
        let refused = new_jwt(&caller, id, &[]).await.unwrap_err();
        let want = (Code::NotFound, "entry not found or not authorized");
        assert_eq!(told(&refused), want);
    }
    let refused = new_jwt(&caller, &made[0].id, &[]).await.unwrap_err();
    let want = (Code::InvalidArgument, "at least one audience is required");
    assert_eq!(told(&refused), want);
    let refused = new_jwt(&caller, &made[0].id, &["", ""]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let long = "a".repeat(1 << 15);
    let refused = new_jwt(&caller, &made[0].id, &[&long]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("longer than"), "{refused}");
}

#[tokio::test]
async fn admins_mint_tokens_for_any_workload_of_the_trust_domain() {
    let fixture = Fixture::new().await;
    let local = fixture.local();
    let svid = mint(&local, Some(wire_id("/new")), &["a"], 0)
        .await
        .unwrap();
    let token = verified(&fixture, &svid, "a");
    assert_eq!(token.id, id("/new"));
    assert_eq!(token.expires_at.as_secs(), START + 300);
    let svid = mint(&local, Some(wire_id("/new")), &["a"], 90)
        .await
        .unwrap();
    assert_eq!(svid.expires_at, 90 + i64::try_from(START).unwrap());
    // None outlives the key.
    let svid = mint(&local, Some(wire_id("/new")), &["a"], i32::MAX).await;
    let end = 86_400 + i64::try_from(START).unwrap();
    assert_eq!(svid.unwrap().expires_at, end);

    let foreign = types::Spiffeid {
        trust_domain: "other.org".into(),
        path: "/a".into(),
    };
    for (id, message) in [
        (None, "invalid SPIFFE ID: request must specify SPIFFE ID"),
        (
            Some(foreign),
            "invalid SPIFFE ID: \"spiffe://other.org/a\" is not a member of trust domain \"example.org\"",
        ),
        (
            Some(wire_id("/spire/server")),
            "invalid SPIFFE ID: \"spiffe://example.org/spire/server\" is not a workload in trust domain \
             \"example.org\"; path is in the reserved namespace",
        ),
        (
            Some(wire_id("/a/")),
            "invalid SPIFFE ID: path cannot have a trailing slash",
        ),
    ] {
        let refused = mint(&local, id, &["a"], 0).await.unwrap_err();
        assert_eq!(told(&refused), (Code::InvalidArgument, message));
    }
    let refused = mint(&local, Some(wire_id("/a")), &[], 0).await.unwrap_err();
    let want = (Code::InvalidArgument, "at least one audience is required");
    assert_eq!(told(&refused), want);
}

#[tokio::test]
async fn a_server_without_jwt_svids_says_so_before_anything_else() {
    let fixture = Fixture::without_jwt().await;
    let caller = fixture.agent("a", &[]).await;
    let disabled = (Code::Unimplemented, "JWT functionality is disabled");
    let refused = new_jwt(&caller, "unknown", &[]).await.unwrap_err();
    assert_eq!(told(&refused), disabled);
    let refused = mint(&fixture.local(), None, &[], 0).await.unwrap_err();
    assert_eq!(told(&refused), disabled);
    assert!(fixture.bundle().jwt_authorities.is_empty());
}

#[tokio::test]
async fn wit_svids_are_not_made() {
    let fixture = Fixture::new().await;
    let disabled = (Code::Unimplemented, "WIT functionality is disabled");
    let request = wire::MintWitsvidRequest::default();
    let refused = fixture.local().svids().mint_witsvid(request).await;
    assert_eq!(told(&refused.unwrap_err()), disabled);
    let caller = fixture.agent("a", &[]).await;
    let request = wire::BatchNewWitsvidRequest::default();
    let refused = caller.svids().batch_new_witsvid(request).await;
    assert_eq!(told(&refused.unwrap_err()), disabled);
}
