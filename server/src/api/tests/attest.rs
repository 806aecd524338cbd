//! Attestation and renewal.

use agents::attest_agent_request::{Params, Step};
use agents::attest_agent_response::{self as answer};
use bytes::Bytes;
use futures::FutureExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::node_attestor::{AttestError, Attested, Conversation};

/// Asks for the payload backwards.
#[derive(Debug)]
struct Mirror;

impl NodeAttestor for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn attest<'a>(
        &'a self,
        payload: Bytes,
        conversation: &'a mut dyn Conversation,
    ) -> BoxFuture<'a, Result<Attested, AttestError>> {
        async move {
            let answer = conversation.challenge("backwards?".into()).await?;
            if !answer.iter().rev().eq(payload.iter()) {
                return Err(AttestError::Denied("that is not backwards".into()));
            }
            let name = std::str::from_utf8(&payload).unwrap();
            Ok(Attested {
                id: id(&format!("/spire/agent/mirror/{name}")),
                selectors: SelectorSet::default(),
                can_reattest: true,
            })
        }
        .boxed()
    }
}

pub(super) fn step(kind: &str, payload: &str) -> Step {
    Step::Params(Params {
        data: Some(types::AttestationData {
            r#type: kind.into(),
            payload: payload.to_owned().into(),
        }),
        params: Some(agents::AgentX509svidParams { csr: csr() }),
    })
}

/// Says these things one after the other, and returns the last answer.
pub(super) async fn attest(
    caller: &TestCaller,
    steps: Vec<Step>,
) -> Result<answer::Step, tonic::Status> {
    let (say, said) = tokio::sync::mpsc::channel(4);
    let mut steps = steps
        .into_iter()
        .map(|step| agents::AttestAgentRequest { step: Some(step) });
    say.send(steps.next().unwrap()).await.unwrap();
    let answers = caller
        .agents()
        .attest_agent(ReceiverStream::new(said))
        .await?;
    let mut answers = answers.into_inner();
    loop {
        let heard = answers.message().await?.unwrap().step.unwrap();
        let Some(next) = steps.next() else {
            return Ok(heard);
        };
        say.send(next).await.unwrap();
    }
}

fn result(step: answer::Step) -> answer::Result {
    match step {
        answer::Step::Result(result) => result,
        answer::Step::Challenge(_) => panic!("a challenge"),
    }
}

#[tokio::test]
async fn a_node_attests_with_a_join_token_and_renews() {
    let fixture = Fixture::new().await;
    let make = agents::CreateJoinTokenRequest {
        ttl: 60,
        token: "t".into(),
        agent_id: None,
    };
    fixture
        .local()
        .agents()
        .create_join_token(make)
        .await
        .unwrap();
    let first = result(
        attest(&fixture.stranger(), vec![step("join_token", "t")])
            .await
            .unwrap(),
    );
    assert!(!first.reattestable);
    let svid = first.svid.unwrap();
    let leaf = fixture.verified(&svid);
    let name = id("/spire/agent/join_token/t");
    assert_eq!(leaf.id, name);
    assert_eq!(svid.id, Some(wire_id("/spire/agent/join_token/t")));
    assert_eq!(svid.expires_at, leaf.not_after.as_i64());
    let node = fixture.index.node(&name).unwrap();
    let want = Credential {
        serial: leaf.serial.clone(),
        expires_at: leaf.not_after,
    };
    assert_eq!(node.value.current, Some(want));

    let again = attest(&fixture.stranger(), vec![step("join_token", "t")])
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::InvalidArgument);
    let want = "failed to attest: join token does not exist or has already been used";
    assert_eq!(again.message(), want);

    let caller = fixture.peer(name.clone(), &leaf.serial);
    let renew = || agents::RenewAgentRequest {
        params: Some(agents::AgentX509svidParams { csr: csr() }),
    };
    let renewed = caller
        .agents()
        .renew_agent(renew())
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    let second = fixture.verified(&renewed);
    assert_ne!(
        (second.serial.as_str(), second.kid),
        (leaf.serial.as_str(), leaf.kid)
    );
    // Both count until the new one is used.
    caller.agents().renew_agent(renew()).await.unwrap();
    let node = fixture.index.node(&name).unwrap();
    assert_eq!(node.value.current.as_ref().unwrap().serial, leaf.serial);
    assert_ne!(node.value.pending.as_ref().unwrap().serial, second.serial);

    let status = caller
        .agents()
        .renew_agent(agents::RenewAgentRequest { params: None })
        .await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn one_of_fifty_agents_wins_a_token() {
    let fixture = Fixture::new().await;
    let make = agents::CreateJoinTokenRequest {
        ttl: 60,
        token: "t".into(),
        agent_id: None,
    };
    fixture
        .local()
        .agents()
        .create_join_token(make)
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let caller = fixture.stranger();
        tasks.spawn(async move { attest(&caller, vec![step("join_token", "t")]).await.is_ok() });
    }
    assert_eq!(
        tasks
            .join_all()
            .await
            .into_iter()
            .filter(|won| *won)
            .count(),
        1
    );
}

#[tokio::test]
async fn an_attestor_may_put_questions() {
    let fixture = Fixture::with(&[Arc::new(Mirror)]).await;
    let caller = fixture.stranger();
    let reply = |text: &str| Step::ChallengeResponse(text.to_owned().into());
    let done = attest(&caller, vec![step("mirror", "abc"), reply("cba")])
        .await
        .unwrap();
    assert!(result(done).reattestable);
    let denied = attest(&caller, vec![step("mirror", "abc"), reply("abc")])
        .await
        .unwrap_err();
    assert_eq!(
        (denied.code(), denied.message()),
        (Code::PermissionDenied, "that is not backwards")
    );
    let confused = attest(&caller, vec![step("mirror", "abc"), step("mirror", "abc")]).await;
    assert_eq!(confused.unwrap_err().code(), Code::InvalidArgument);

    // Such a node attests again instead of renewing, and its first SVID is over then.
    let name = id("/spire/agent/mirror/abc");
    let serial = fixture
        .index
        .node(&name)
        .unwrap()
        .value
        .current
        .clone()
        .unwrap()
        .serial;
    let renew = agents::RenewAgentRequest::default();
    let refused = fixture
        .peer(name.clone(), &serial)
        .agents()
        .renew_agent(renew)
        .await
        .unwrap_err();
    assert_eq!(refused.message(), "agent must reattest instead of renew");
    assert!(!refused.details().is_empty());
    attest(&caller, vec![step("mirror", "abc"), reply("cba")])
        .await
        .unwrap();
    let now = fixture
        .index
        .node(&name)
        .unwrap()
        .value
        .current
        .clone()
        .unwrap()
        .serial;
    assert_ne!(now, serial);
}

#[tokio::test]
async fn a_banned_node_does_not_attest() {
    let fixture = Fixture::with(&[Arc::new(Mirror)]).await;
    let steps = || vec![step("mirror", "x"), Step::ChallengeResponse("x".into())];
    attest(&fixture.stranger(), steps()).await.unwrap();
    let ban = agents::BanAgentRequest {
        id: Some(wire_id("/spire/agent/mirror/x")),
    };
    fixture.local().agents().ban_agent(ban).await.unwrap();
    let status = attest(&fixture.stranger(), steps()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "failed to attest: agent is banned");
    assert!(status.details().is_empty());
}

#[tokio::test]
async fn each_missing_piece_is_named() {
    let fixture = Fixture::new().await;
    let told = async |change: fn(&mut Params)| {
        let Step::Params(mut params) = step("join_token", "t") else {
            panic!()
        };
        change(&mut params);
        let status = attest(&fixture.stranger(), vec![Step::Params(params)])
            .await
            .unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let missing = |what: &str| (Code::InvalidArgument, format!("malformed param: {what}"));
    assert_eq!(
        told(|p| p.data = None).await,
        missing("missing attestation data")
    );
    assert_eq!(
        told(|p| p.params = None).await,
        missing("missing X509-SVID parameters")
    );
    let no_csr: fn(&mut Params) = |p| p.params.as_mut().unwrap().csr.clear();
    assert_eq!(told(no_csr).await, missing("missing CSR"));
    let no_type: fn(&mut Params) = |p| p.data.as_mut().unwrap().r#type.clear();
    assert_eq!(
        told(no_type).await,
        missing("missing attestation data type")
    );
    let no_payload: fn(&mut Params) = |p| p.data.as_mut().unwrap().payload.clear();
    assert_eq!(
        told(no_payload).await,
        missing("missing attestation data payload")
    );
    let unknown: fn(&mut Params) = |p| p.data.as_mut().unwrap().r#type = "nobody".into();
    let want = "error getting node attestor: could not find node attestor type \"nobody\"";
    assert_eq!(told(unknown).await, (Code::FailedPrecondition, want.into()));
    let large: fn(&mut Params) = |p| p.params.as_mut().unwrap().csr = vec![0; 20_000].into();
    assert_eq!(told(large).await.0, Code::InvalidArgument);
    let first = Step::ChallengeResponse("x".into());
    let status = attest(&fixture.stranger(), vec![first]).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message().to_owned()),
        missing("missing params")
    );
}

#[tokio::test]
async fn a_bad_csr_spends_the_token_all_the_same() {
    let fixture = Fixture::new().await;
    let make = agents::CreateJoinTokenRequest {
        ttl: 60,
        token: "t".into(),
        agent_id: None,
    };
    fixture
        .local()
        .agents()
        .create_join_token(make)
        .await
        .unwrap();
    let Step::Params(mut params) = step("join_token", "t") else {
        panic!()
    };
    params.params.as_mut().unwrap().csr = "not a CSR".into();
    let status = attest(&fixture.stranger(), vec![Step::Params(params)])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let status = attest(&fixture.stranger(), vec![step("join_token", "t")])
        .await
        .unwrap_err();
    assert!(status.message().contains("already been used"), "{status}");
}

#[tokio::test]
async fn silent_attestations_of_one_address_block_no_other() {
    let fixture = Fixture::new().await;
    let mut local = fixture.local().agents();
    for token in ["t1", "t2"] {
        let make = agents::CreateJoinTokenRequest {
            ttl: 60,
            token: token.into(),
            agent_id: None,
        };
        local.create_join_token(make).await.unwrap();
    }
    let rogue = fixture.from("10.0.0.1:1".parse().unwrap());
    let mut silent = Vec::new();
    for _ in 0..crate::limits::MAX_ATTESTATIONS_PER_NETWORK {
        let nothing = tokio_stream::pending();
        let stream = rogue.agents().attest_agent(nothing).await.unwrap();
        silent.push(stream.into_inner());
    }
    // They have their places once those were given out, in the order in which they came.
    let neighbour = fixture.from("10.0.0.1:2".parse().unwrap());
    let waiting = tokio::spawn(async move {
        let result = attest(&neighbour, vec![step("join_token", "t1")]).await;
        result.map(drop)
    });
    let other = fixture.from("10.0.0.2:1".parse().unwrap());
    attest(&other, vec![step("join_token", "t2")])
        .await
        .unwrap();
    assert!(!waiting.is_finished());
    drop(silent);
    waiting.await.unwrap().unwrap();
}
