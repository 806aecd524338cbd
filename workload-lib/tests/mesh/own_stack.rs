//! Chains in an application's own client stack, by the outbound layer: hyper-util's client and tonic's channel.

use countersign::{Body, CallError, Chain, OutboundLayer, Reason, Refused};
use countersign_proto::grpc::health::v1::health_client::HealthClient;
use countersign_proto::grpc::health::v1::{HealthCheckRequest, HealthListRequest};
use http::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tonic::transport::Endpoint;
use tower::{Layer as _, ServiceExt as _};

use crate::fixture::{Member, OPEN, World, text_of};
use crate::grpc::{self, HEALTH};

/// `POST /tasks` by a client of hyper-util's.
async fn post(layer: &OutboundLayer, callee: &Member) -> Result<Response<Body>, CallError> {
    let connector = layer.connector(&callee.address.to_string()).unwrap();
    let pool: Client<_, Body> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::post(format!("https://{}/tasks", callee.address));
    let request = request.body(Body::empty()).unwrap();
    layer.layer(pool).oneshot(request).await
}

fn layer_to(caller: &Member, callee: &Member) -> OutboundLayer {
    caller.mesh.client(&callee.id).unwrap().layer().unwrap()
}

#[tokio::test]
async fn a_hyper_client_continues_the_chain_of_its_task() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    let layer = layer_to(&planner, &coder);
    let work = Chain::start(&planner.mesh).unwrap();
    let answer = work.scope(post(&layer.grant(0), &coder)).await.unwrap();
    assert_eq!(text_of(answer.into_body()).await, "done");
    assert_eq!(work.context().remaining(), 255, "one call was paid");

    let error = post(&layer_to(&coder, &planner), &planner).await;
    let error = error.unwrap_err();
    let refused = error.refused().expect("the coder may not start a chain");
    assert_eq!(refused.reason(), Reason::OriginationDenied);
}

#[tokio::test]
async fn a_tonic_channel_carries_chains_and_refusals() {
    let world = World::new(&OPEN.replace("\"POST /tasks\"", HEALTH));
    let planner = world.member("planner").await;
    let coder = world.member_with("coder", |mesh| grpc::router(&mesh)).await;
    let layer = layer_to(&planner, &coder);
    let connector = layer.connector(&coder.address.to_string()).unwrap();
    let coder_endpoint = Endpoint::from_static("http://coder");
    let channel = coder_endpoint.connect_with_connector(connector).await;
    let mut client = HealthClient::new(layer.layer(channel.unwrap()));
    let answer = client.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status().as_str_name(), "SERVING");
    let status = client.list(HealthListRequest {}).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert!(Refused::try_from(&status).is_err(), "the handler answered");

    // Without the right to start chains, the layer answers in the channel's place.
    let outsider = world.member("coder").await;
    let layer = layer_to(&outsider, &coder);
    let connector = layer.connector(&coder.address.to_string()).unwrap();
    let channel = coder_endpoint.connect_with_connector_lazy(connector);
    let status = HealthClient::new(layer.layer(channel))
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    let refused = Refused::try_from(&status).unwrap();
    assert_eq!(refused.reason(), Reason::OriginationDenied);
}

#[tokio::test]
async fn a_layer_outlives_a_rotation_but_not_the_identity() {
    let world = World::new(OPEN);
    let (mut planner, coder) = (world.member("planner").await, world.member("coder").await);
    let layer = layer_to(&planner, &coder);
    let rotated = world.home.svid("planner");
    planner.feed.send(rotated, world.bundles.clone()).unwrap();
    let answer = post(&layer, &coder).await.unwrap();
    assert_eq!(text_of(answer.into_body()).await, "done");

    planner.feed.withdraw();
    let error = post(&layer, &coder).await.unwrap_err();
    assert!(matches!(error, CallError::NoIdentity(_)), "{error}");
}
