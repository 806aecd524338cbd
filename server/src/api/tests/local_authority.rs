//! Authorities rotated by hand, step by step, and refused in SPIRE's words.

use countersign_proto::spire::api::server::localauthority::v1 as wire;

use super::*;

type Told<T> = Result<T, tonic::Status>;

/// The methods of one kind, which are the same for both.
macro_rules! by_hand {
    ($($kind:ident => $state:ident, $prepare:ident, $activate:ident, $taint:ident, $revoke:ident,
        $State:ident, $Prepare:ident, $Activate:ident, $Taint:ident, $Revoke:ident;)*) => {$(
        mod $kind {
            use super::*;

            /// IDs of the active, the prepared and the old authority.
            pub(super) async fn state(caller: &TestCaller) -> (String, String, String) {
                let state = caller.authorities().$state(wire::$State {}).await.unwrap().into_inner();
                let id = |state: Option<wire::AuthorityState>| {
                    state.map(|s| s.authority_id).unwrap_or_default()
                };
                (id(state.active), id(state.prepared), id(state.old))
            }

            pub(super) async fn prepare(caller: &TestCaller) -> wire::AuthorityState {
                let answer = caller.authorities().$prepare(wire::$Prepare {}).await;
                answer.unwrap().into_inner().prepared_authority.unwrap()
            }

            pub(super) async fn activate(caller: &TestCaller, id: &str) -> Told<wire::AuthorityState> {
                let request = wire::$Activate { authority_id: id.into() };
                let answer = caller.authorities().$activate(request).await?;
                Ok(answer.into_inner().activated_authority.unwrap())
            }

            pub(super) async fn taint(caller: &TestCaller, id: &str) -> Told<wire::AuthorityState> {
                let request = wire::$Taint { authority_id: id.into() };
                let answer = caller.authorities().$taint(request).await?;
                Ok(answer.into_inner().tainted_authority.unwrap())
            }

            pub(super) async fn revoke(caller: &TestCaller, id: &str) -> Told<wire::AuthorityState> {
                let request = wire::$Revoke { authority_id: id.into() };
                let answer = caller.authorities().$revoke(request).await?;
                Ok(answer.into_inner().revoked_authority.unwrap())
            }
        }
    )*};
}

by_hand! {
    x509 => get_x509_authority_state, prepare_x509_authority, activate_x509_authority, taint_x509_authority,
        revoke_x509_authority, GetX509AuthorityStateRequest, PrepareX509AuthorityRequest,
        ActivateX509AuthorityRequest, TaintX509AuthorityRequest, RevokeX509AuthorityRequest;
    jwt => get_jwt_authority_state, prepare_jwt_authority, activate_jwt_authority, taint_jwt_authority,
        revoke_jwt_authority, GetJwtAuthorityStateRequest, PrepareJwtAuthorityRequest,
        ActivateJwtAuthorityRequest, TaintJwtAuthorityRequest, RevokeJwtAuthorityRequest;
}

fn told<T: std::fmt::Debug>(answer: Told<T>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), status.message().to_owned())
}

fn invalid(message: &str) -> (Code, String) {
    (Code::InvalidArgument, message.into())
}

fn internal(message: &str) -> (Code, String) {
    (Code::Internal, message.into())
}

/// The tainted and the other X.509 authorities of the bundle.
fn x509_ids(fixture: &Fixture) -> (Vec<String>, Vec<String>) {
    let bundle = fixture.bundle();
    let (tainted, sound): (Vec<_>, Vec<_>) =
        bundle.x509_authorities.iter().partition(|a| a.is_tainted());
    let ids = |list: Vec<&countersign_identity::bundle::X509Authority>| {
        list.iter().map(|a| a.authority_id().to_owned()).collect()
    };
    (ids(tainted), ids(sound))
}

#[tokio::test]
async fn an_x509_authority_is_replaced_tainted_and_revoked_by_hand() {
    let fixture = Fixture::new().await;
    let caller = fixture.local();
    let (first, prepared, old) = x509::state(&caller).await;
    assert_eq!((first.len(), prepared.as_str(), old.as_str()), (40, "", ""));
    assert_eq!(x509_ids(&fixture), (vec![], vec![first.clone()]));

    let second = x509::prepare(&caller).await;
    assert_eq!(second.expires_at, 86_400 + i64::try_from(START).unwrap());
    assert_eq!(second.upstream_authority_subject_key_id, "");
    let second = second.authority_id;
    assert_eq!(
        x509::state(&caller).await,
        (first.clone(), second.clone(), String::new())
    );
    // Published, and not used yet.
    assert_eq!(x509_ids(&fixture).1, [first.clone(), second.clone()]);
    let sequence = fixture.bundle().sequence_number;

    assert_eq!(
        x509::activate(&caller, &second).await.unwrap().authority_id,
        second
    );
    assert_eq!(
        x509::state(&caller).await,
        (second.clone(), String::new(), first.clone())
    );

    let tainted = x509::taint(&caller, &first).await.unwrap();
    assert_eq!(tainted.authority_id, first);
    assert_eq!(tainted.expires_at, 86_400 + i64::try_from(START).unwrap());
    assert_eq!(
        x509_ids(&fixture),
        (vec![first.clone()], vec![second.clone()])
    );
    assert_eq!(fixture.bundle().sequence_number, sequence + 1);
    assert_eq!(
        told(x509::taint(&caller, &first).await),
        internal("failed to taint X.509 authority: root CA is already tainted")
    );

    let revoked = x509::revoke(&caller, &first).await.unwrap();
    assert_eq!((revoked.authority_id, revoked.expires_at), (first, 0));
    assert_eq!(x509_ids(&fixture), (vec![], vec![second.clone()]));
    assert_eq!(fixture.bundle().sequence_number, sequence + 2);
    assert_eq!(
        x509::state(&caller).await,
        (second, String::new(), String::new())
    );
}

#[tokio::test]
async fn a_jwt_authority_is_replaced_tainted_and_revoked_by_hand() {
    let fixture = Fixture::new().await;
    let caller = fixture.local();
    let ids = |fixture: &Fixture| -> Vec<(String, bool)> {
        let bundle = fixture.bundle();
        let authorities = bundle.jwt_authorities.iter();
        authorities.map(|a| (a.key_id.clone(), a.tainted)).collect()
    };
    let (first, ..) = jwt::state(&caller).await;
    assert_eq!(ids(&fixture), [(first.clone(), false)]);
    let second = jwt::prepare(&caller).await.authority_id;
    assert_eq!(
        ids(&fixture),
        [(first.clone(), false), (second.clone(), false)]
    );
    assert_eq!(
        told(jwt::revoke(&caller, &second).await),
        invalid("invalid authority ID: unable to use a prepared key")
    );
    jwt::activate(&caller, &second).await.unwrap();
    assert_eq!(
        jwt::state(&caller).await,
        (second.clone(), String::new(), first.clone())
    );
    assert_eq!(
        told(jwt::revoke(&caller, &first).await),
        internal("failed to revoke JWT authority: it is not possible to revoke an untainted key")
    );
    let tainted = jwt::taint(&caller, &first).await.unwrap();
    assert_eq!((&tainted.authority_id, tainted.expires_at), (&first, 0));
    assert_eq!(
        ids(&fixture),
        [(first.clone(), true), (second.clone(), false)]
    );
    assert_eq!(
        told(jwt::taint(&caller, &first).await),
        internal("failed to taint JWT authority: key is already tainted")
    );

    // A key that left its slot can still be revoked.
    let third = jwt::prepare(&caller).await.authority_id;
    assert_eq!(
        jwt::revoke(&caller, &first).await.unwrap().authority_id,
        first
    );
    assert_eq!(ids(&fixture), [(second, false), (third, false)]);
    assert_eq!(
        told(jwt::revoke(&caller, &first).await),
        invalid("invalid authority ID: no JWT authority found with provided authority ID")
    );
}

#[tokio::test]
async fn what_may_not_be_done_with_an_authority_is_refused() {
    let fixture = Fixture::new().await;
    let caller = fixture.local();
    let (active, ..) = x509::state(&caller).await;
    let prepared = x509::prepare(&caller).await.authority_id;
    for (id, taint, revoke) in [
        ("", "no authority ID provided", "no authority ID provided"),
        (
            active.as_str(),
            "unable to taint current local authority",
            "unable to use current authority",
        ),
        (
            "unknown",
            "unexpected authority ID",
            "only Old local authority can be revoked",
        ),
        (
            prepared.as_str(),
            "only Old local authorities can be tainted: unsupported local authority status: PREPARED",
            "only Old local authority can be revoked",
        ),
    ] {
        assert_eq!(told(x509::taint(&caller, id).await), invalid(taint));
        let revoke = format!("invalid authority ID: {revoke}");
        assert_eq!(told(x509::revoke(&caller, id).await), invalid(&revoke));
    }
    for (id, message) in [
        ("", "no authority ID provided"),
        (active.as_str(), "unexpected authority ID"),
        ("unknown", "unexpected authority ID"),
    ] {
        assert_eq!(told(x509::activate(&caller, id).await), invalid(message));
    }
    x509::activate(&caller, &prepared).await.unwrap();
    assert_eq!(
        told(x509::activate(&caller, &active).await),
        internal(
            "only Prepared authorities can be activated: unsupported local authority status: OLD"
        )
    );
    assert_eq!(
        told(x509::revoke(&caller, &active).await),
        internal(
            "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA"
        )
    );
    // Preparing again replaces what is beside the active one.
    let again = x509::prepare(&caller).await.authority_id;
    assert_eq!(x509::state(&caller).await, (prepared, again, String::new()));
}

#[tokio::test]
async fn there_is_no_upstream_and_no_wit_authority() {
    let fixture = Fixture::without_jwt().await;
    let mut client = fixture.local().authorities();
    let request = wire::TaintX509UpstreamAuthorityRequest {
        subject_key_id: "AB".into(),
    };
    let none = (
        Code::FailedPrecondition,
        "upstream authority is not configured".to_owned(),
    );
    assert_eq!(
        told(client.taint_x509_upstream_authority(request).await),
        none
    );
    let request = wire::RevokeX509UpstreamAuthorityRequest {
        subject_key_id: "AB".into(),
    };
    assert_eq!(
        told(client.revoke_x509_upstream_authority(request).await),
        none
    );

    let disabled = (
        Code::Unimplemented,
        "JWT functionality is disabled".to_owned(),
    );
    let caller = fixture.local();
    let state = client.get_jwt_authority_state(wire::GetJwtAuthorityStateRequest {});
    assert_eq!(told(state.await), disabled);
    let prepare = client.prepare_jwt_authority(wire::PrepareJwtAuthorityRequest {});
    assert_eq!(told(prepare.await), disabled);
    assert_eq!(told(jwt::activate(&caller, "").await), disabled);
    assert_eq!(told(jwt::taint(&caller, "").await), disabled);
    assert_eq!(told(jwt::revoke(&caller, "").await), disabled);
    let wit = (
        Code::Unimplemented,
        "WIT-SVID functionality is not yet implemented".to_owned(),
    );
    let state = client.get_wit_authority_state(wire::GetWitAuthorityStateRequest {});
    assert_eq!(told(state.await), wit);
}
