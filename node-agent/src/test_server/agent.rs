//! Node agents: AttestAgent with join tokens, RenewAgent, PostStatus.

use std::pin::Pin;

use countersign_identity::csr::Csr;
use countersign_proto::spire::api::server::agent::v1::{
    self, agent_server, attest_agent_request, attest_agent_response,
};
use countersign_proto::spire::api::types;
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{NodeRecord, Shared, denied, not_here};
use crate::test_ca::trust_domain;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Shared {
    fn sign_agent(
        &self,
        id: &countersign_identity::SpiffeId,
        csr: &[u8],
    ) -> (types::X509svid, String) {
        let now = self.now();
        let state = self.state();
        let csr = Csr::parse(csr).unwrap();
        let chain = state.ca.sign(id, csr.public_key(), state.agent_ttl, now);
        let leaf = countersign_identity::verify::Leaf::parse(&chain[0]).unwrap();
        let svid = types::X509svid {
            cert_chain: chain.iter().map(|c| c.to_vec().into()).collect(),
            id: Some(id.into()),
            expires_at: leaf.not_after.as_i64(),
            hint: String::new(),
        };
        (svid, leaf.serial)
    }
}

impl Shared {
    fn attested(
        &self,
        id: countersign_identity::SpiffeId,
        csr: &[u8],
        reattestable: bool,
    ) -> v1::AttestAgentResponse {
        let (svid, serial) = self.sign_agent(&id, csr);
        self.state().node = Some(NodeRecord {
            id,
            current: serial,
            pending: None,
            reattestable,
        });
        let result = attest_agent_response::Result {
            svid: Some(svid),
            reattestable,
        };
        v1::AttestAgentResponse {
            step: Some(attest_agent_response::Step::Result(result)),
        }
    }

    /// The form of x509pop, without its cryptography, which has tests of its own.
    fn attest_with_a_challenge(
        &self,
        mut requests: Streaming<v1::AttestAgentRequest>,
        csr: Vec<u8>,
    ) -> Result<Response<Answers<v1::AttestAgentResponse>>, Status> {
        let shared = self.clone();
        let challenge = v1::AttestAgentResponse {
            step: Some(attest_agent_response::Step::Challenge(
                b"challenge".as_slice().into(),
            )),
        };
        let answered = async move {
            match requests.message().await?.and_then(|r| r.step) {
                Some(attest_agent_request::Step::ChallengeResponse(answer)) => {
                    assert_eq!(answer.as_ref(), b"answer");
                }
                other => panic!("{other:?}"),
            }
            let id = trust_domain()
                .id_with_path("/spire/agent/x509pop/node")
                .unwrap();
            Ok(shared.attested(id, &csr, true))
        };
        use futures::StreamExt as _;
        let answers = futures::stream::iter([Ok(challenge)]).chain(futures::stream::once(answered));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl agent_server::Agent for Shared {
    type AttestAgentStream = Answers<v1::AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<v1::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        self.called("AttestAgent")?;
        let mut requests = request.into_inner();
        let Some(attest_agent_request::Step::Params(params)) =
            requests.message().await?.and_then(|r| r.step)
        else {
            return Err(Status::invalid_argument("malformed param: missing params"));
        };
        let data = params.data.unwrap();
        if data.r#type == "x509pop" {
            return self.attest_with_a_challenge(requests, params.params.unwrap().csr.to_vec());
        }
        assert_eq!(data.r#type, "join_token");
        let token = String::from_utf8(data.payload.to_vec()).unwrap();
        if token == "expired" {
            return Err(Status::invalid_argument("join token expired"));
        }
        if !self.state().tokens.remove(&token) {
            return Err(Status::invalid_argument(
                "failed to attest: join token does not exist or has already been used",
            ));
        }
        let id = trust_domain()
            .id_with_path(&format!("/spire/agent/join_token/{token}"))
            .unwrap();
        let answer = self.attested(id, &params.params.unwrap().csr, false);
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(answer)]))))
    }

    async fn renew_agent(
        &self,
        request: Request<v1::RenewAgentRequest>,
    ) -> Result<Response<v1::RenewAgentResponse>, Status> {
        self.authorize(&request)?;
        self.called("RenewAgent")?;
        let csr = request.into_inner().params.unwrap().csr;
        if self
            .state()
            .node
            .as_ref()
            .is_some_and(|node| node.reattestable)
        {
            return Err(denied(
                types::permission_denied_details::Reason::AgentMustReattest,
            ));
        }
        let id = self.state().node.as_ref().map(|node| node.id.clone());
        let id =
            id.ok_or_else(|| denied(types::permission_denied_details::Reason::AgentNotAttested))?;
        let (svid, serial) = self.sign_agent(&id, &csr);
        self.state().node.as_mut().unwrap().pending = Some(serial);
        Ok(Response::new(v1::RenewAgentResponse { svid: Some(svid) }))
    }

    async fn post_status(
        &self,
        request: Request<v1::PostStatusRequest>,
    ) -> Result<Response<v1::PostStatusResponse>, Status> {
        self.authorize(&request)?;
        self.called("PostStatus")?;
        self.state().version = request.into_inner().agent_version;
        Ok(Response::new(v1::PostStatusResponse {}))
    }

    async fn count_agents(
        &self,
        _: Request<v1::CountAgentsRequest>,
    ) -> Result<Response<v1::CountAgentsResponse>, Status> {
        not_here()
    }

    async fn list_agents(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        not_here()
    }

    async fn get_agent(
        &self,
        _: Request<v1::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        not_here()
    }

    async fn delete_agent(
        &self,
        _: Request<v1::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        not_here()
    }

    async fn ban_agent(&self, _: Request<v1::BanAgentRequest>) -> Result<Response<()>, Status> {
        not_here()
    }

    async fn create_join_token(
        &self,
        _: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        not_here()
    }
}
