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
            pub(super) async fn state(door: &Door) -> (String, String, String) {
                let state = door.authorities().$state(wire::$State {}).await.unwrap().into_inner();
                let id = |state: Option<wire::AuthorityState>| {
                    state.map(|s| s.authority_id).unwrap_or_default()
                };
                (id(state.active), id(state.prepared), id(state.old))
            }

            pub(super) async fn prepare(door: &Door) -> wire::AuthorityState {
                let answer = door.authorities().$prepare(wire::$Prepare {}).await;
                answer.unwrap().into_inner().prepared_authority.unwrap()
            }

            pub(super) async fn activate(door: &Door, id: &str) -> Told<wire::AuthorityState> {
                let request = wire::$Activate { authority_id: id.into() };
                let answer = door.authorities().$activate(request).await?;
                Ok(answer.into_inner().activated_authority.unwrap())
            }

            pub(super) async fn taint(door: &Door, id: &str) -> Told<wire::AuthorityState> {
                let request = wire::$Taint { authority_id: id.into() };
                let answer = door.authorities().$taint(request).await?;
                Ok(answer.into_inner().tainted_authority.unwrap())
            }

            pub(super) async fn revoke(door: &Door, id: &str) -> Told<wire::AuthorityState> {
                let request = wire::$Revoke { authority_id: id.into() };
                let answer = door.authorities().$revoke(request).await?;
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
fn x509_ids(house: &House) -> (Vec<String>, Vec<String>) {
    let bundle = house.bundle();
    let (tainted, sound): (Vec<_>, Vec<_>) =
        bundle.x509_authorities.iter().partition(|a| a.is_tainted());
    let ids = |list: Vec<&countersign_identity::bundle::X509Authority>| {
        list.iter().map(|a| a.authority_id().to_owned()).collect()
    };
    (ids(tainted), ids(sound))
}

#[tokio::test]
async fn an_x509_authority_is_replaced_tainted_and_revoked_by_hand() {
    let house = House::new().await;
    let door = house.local();
    let (first, prepared, old) = x509::state(&door).await;
    assert_eq!((first.len(), prepared.as_str(), old.as_str()), (40, "", ""));
    assert_eq!(x509_ids(&house), (vec![], vec![first.clone()]));

    let second = x509::prepare(&door).await;
    assert_eq!(second.expires_at, 86_400 + i64::try_from(START).unwrap());
    assert_eq!(second.upstream_authority_subject_key_id, "");
    let second = second.authority_id;
    assert_eq!(
        x509::state(&door).await,
        (first.clone(), second.clone(), String::new())
    );
    // Published, and not used yet.
    assert_eq!(x509_ids(&house).1, [first.clone(), second.clone()]);
    let sequence = house.bundle().sequence_number;

    assert_eq!(
        x509::activate(&door, &second).await.unwrap().authority_id,
        second
    );
    assert_eq!(
        x509::state(&door).await,
        (second.clone(), String::new(), first.clone())
    );

    let tainted = x509::taint(&door, &first).await.unwrap();
    assert_eq!(tainted.authority_id, first);
    assert_eq!(tainted.expires_at, 86_400 + i64::try_from(START).unwrap());
    assert_eq!(
        x509_ids(&house),
        (vec![first.clone()], vec![second.clone()])
    );
    assert_eq!(house.bundle().sequence_number, sequence + 1);
    assert_eq!(
        told(x509::taint(&door, &first).await),
        internal("failed to taint X.509 authority: root CA is already tainted")
    );

    let revoked = x509::revoke(&door, &first).await.unwrap();
    assert_eq!((revoked.authority_id, revoked.expires_at), (first, 0));
    assert_eq!(x509_ids(&house), (vec![], vec![second.clone()]));
    assert_eq!(house.bundle().sequence_number, sequence + 2);
    assert_eq!(
        x509::state(&door).await,
        (second, String::new(), String::new())
    );
}

#[tokio::test]
async fn a_jwt_authority_is_replaced_tainted_and_revoked_by_hand() {
    let house = House::new().await;
    let door = house.local();
    let ids = |house: &House| -> Vec<(String, bool)> {
        let bundle = house.bundle();
        let authorities = bundle.jwt_authorities.iter();
        authorities.map(|a| (a.key_id.clone(), a.tainted)).collect()
    };
    let (first, ..) = jwt::state(&door).await;
    assert_eq!(ids(&house), [(first.clone(), false)]);
    let second = jwt::prepare(&door).await.authority_id;
    assert_eq!(
        ids(&house),
        [(first.clone(), false), (second.clone(), false)]
    );
    assert_eq!(
        told(jwt::revoke(&door, &second).await),
        invalid("invalid authority ID: unable to use a prepared key")
    );
    jwt::activate(&door, &second).await.unwrap();
    assert_eq!(
        jwt::state(&door).await,
        (second.clone(), String::new(), first.clone())
    );
    assert_eq!(
        told(jwt::revoke(&door, &first).await),
        internal("failed to revoke JWT authority: it is not possible to revoke an untainted key")
    );
    let tainted = jwt::taint(&door, &first).await.unwrap();
    assert_eq!((&tainted.authority_id, tainted.expires_at), (&first, 0));
    assert_eq!(
        ids(&house),
        [(first.clone(), true), (second.clone(), false)]
    );
    assert_eq!(
        told(jwt::taint(&door, &first).await),
        internal("failed to taint JWT authority: key is already tainted")
    );

    // A key that left its slot can still be revoked.
    let third = jwt::prepare(&door).await.authority_id;
    assert_eq!(
        jwt::revoke(&door, &first).await.unwrap().authority_id,
        first
    );
    assert_eq!(ids(&house), [(second, false), (third, false)]);
    assert_eq!(
        told(jwt::revoke(&door, &first).await),
        invalid("invalid authority ID: no JWT authority found with provided authority ID")
    );
}

#[tokio::test]
async fn what_may_not_be_done_with_an_authority_is_refused() {
    let house = House::new().await;
    let door = house.local();
    let (active, ..) = x509::state(&door).await;
    let prepared = x509::prepare(&door).await.authority_id;
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
        assert_eq!(told(x509::taint(&door, id).await), invalid(taint));
        let revoke = format!("invalid authority ID: {revoke}");
        assert_eq!(told(x509::revoke(&door, id).await), invalid(&revoke));
    }
    for (id, message) in [
        ("", "no authority ID provided"),
        (active.as_str(), "unexpected authority ID"),
        ("unknown", "unexpected authority ID"),
    ] {
        assert_eq!(told(x509::activate(&door, id).await), invalid(message));
    }
    x509::activate(&door, &prepared).await.unwrap();
    assert_eq!(
        told(x509::activate(&door, &active).await),
        internal(
            "only Prepared authorities can be activated: unsupported local authority status: OLD"
        )
    );
    assert_eq!(
        told(x509::revoke(&door, &active).await),
        internal(
            "failed to revoke X.509 authority: it is not possible to revoke an untainted root CA"
        )
    );
    // Preparing again replaces what is beside the active one.
    let again = x509::prepare(&door).await.authority_id;
    assert_eq!(x509::state(&door).await, (prepared, again, String::new()));
}

#[tokio::test]
async fn there_is_no_authority_above_and_none_of_other_kinds() {
    let house = House::without_jwt().await;
    let mut client = house.local().authorities();
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
    let door = house.local();
    let state = client.get_jwt_authority_state(wire::GetJwtAuthorityStateRequest {});
    assert_eq!(told(state.await), disabled);
    let prepare = client.prepare_jwt_authority(wire::PrepareJwtAuthorityRequest {});
    assert_eq!(told(prepare.await), disabled);
    assert_eq!(told(jwt::activate(&door, "").await), disabled);
    assert_eq!(told(jwt::taint(&door, "").await), disabled);
    assert_eq!(told(jwt::revoke(&door, "").await), disabled);
    let wit = (
        Code::Unimplemented,
        "WIT-SVID functionality is not yet implemented".to_owned(),
    );
    let state = client.get_wit_authority_state(wire::GetWitAuthorityStateRequest {});
    assert_eq!(told(state.await), wit);
}
