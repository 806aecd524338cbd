//! Chains in a stack of your own: a tonic channel with a timeout, behind the outbound layer.
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:///run/countersign/agent.sock COUNTERSIGN_POLICY=mesh.hcl \
//!     own_stack spiffe://ai-agents.org/coder/1 10.0.0.7:8443
//! ```

use std::error::Error;
use std::time::Duration;

use countersign::Mesh;
use countersign_proto::grpc::health::v1::HealthCheckRequest;
use countersign_proto::grpc::health::v1::health_client::HealthClient;
use tonic::transport::Endpoint;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: own_stack CALLEE_ID HOST:PORT";
    let (callee, address) = (
        arguments.next().ok_or(usage)?,
        arguments.next().ok_or(usage)?,
    );

    let mesh = Mesh::join().await?;
    let callee = mesh.client(callee)?;
    // One layer and one channel for each SVID: a link counts only over a connection with the certificate that signed it.
    loop {
        let rotated = mesh.updated();
        let layer = callee.layer()?;
        let channel = Endpoint::from_static("http://coder")
            .timeout(Duration::from_secs(10))
            .connect_with_connector(layer.connector(&address)?)
            .await?;
        let service = ServiceBuilder::new().layer(layer).service(channel);
        let answer = HealthClient::new(service)
            .check(HealthCheckRequest::default())
            .await?;
        tracing::info!(status = answer.into_inner().status, "Healthy");
        if rotated.await.is_none() {
            return Ok(());
        }
    }
}
