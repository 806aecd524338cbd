//! One join token, fifty node agents at once: one of them wins.

use std::sync::Arc;

use countersign_identity::csr::Csr;
use countersign_identity::tls::{ALPN_H2, TlsContext, TlsVersions};
use countersign_identity::{BundleSet, KeyType, PrivateKey, TrustDomain};
use countersign_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use countersign_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, attest_agent_request, attest_agent_response,
};
use countersign_proto::spire::api::types;
use countersign_tests::deployment::{Deployment, Settings, TRUST_DOMAIN};
use countersign_transport::clock::{RustlsTime, SystemClock};
use countersign_transport::dial::TlsConnector;
use tonic::transport::Endpoint;

use crate::{NODE, rounds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_attests_exactly_one_of_fifty_node_agents() -> anyhow::Result<()> {
    let mut deployment = Deployment::new(NODE, Settings::default())?;
    deployment.start_server().await?;
    let address = deployment
        .server_address
        .map(|a| a.to_string())
        .unwrap_or_default();
    for round in 0..rounds(5) {
        let token = deployment.token(None).await?;
        let start = Arc::new(tokio::sync::Barrier::new(50));
        let attempts: Vec<_> = (0..50)
            .map(|_| {
                let (start, address, token) = (Arc::clone(&start), address.clone(), token.clone());
                tokio::spawn(async move { attest(&address, &token, &start).await })
            })
            .collect();
        let mut won = 0;
        for attempt in attempts {
            match attempt.await?? {
                Ok(()) => won += 1,
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
                    assert!(status.message().contains("already been used"), "{status:?}");
                }
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    Ok(())
}

/// What a node agent does to be attested, up to the answer.
async fn attest(
    address: &str,
    token: &str,
    start: &tokio::sync::Barrier,
) -> anyhow::Result<Result<(), tonic::Status>> {
    let clock = SystemClock::shared();
    let time = RustlsTime::shared(SystemClock::shared());
    let server = TrustDomain::new(TRUST_DOMAIN)?.server_id();
    let config = TlsContext::new(Arc::new(BundleSet::default()), time).insecure_client(
        server,
        TlsVersions::From12,
        &[ALPN_H2],
    )?;
    let connector = TlsConnector::new(Arc::new(config), address, clock);
    let channel = Endpoint::from_static("http://server")
        .connect_with_connector(connector)
        .await?;
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: "join_token".into(),
            payload: token.as_bytes().to_vec().into(),
        }),
        params: Some(AgentX509svidParams {
            csr: Csr::make(&key, None)?.into(),
        }),
    };
    let request = AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    };
    start.wait().await;
    let stream = match AgentClient::new(channel)
        .attest_agent(tokio_stream::once(request))
        .await
    {
        Ok(stream) => stream,
        Err(status) => return Ok(Err(status)),
    };
    Ok(match stream.into_inner().message().await {
        Ok(Some(answer)) => {
            let won = matches!(answer.step, Some(attest_agent_response::Step::Result(_)));
            anyhow::ensure!(won, "a challenge for a join token");
            Ok(())
        }
        Ok(None) => anyhow::bail!("the stream ended without an answer"),
        Err(status) => Err(status),
    })
}
