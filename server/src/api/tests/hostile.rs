//! No request, of any method and from any caller, makes a handler panic or leaves the caller without a status. The fuzz
//! target `requests` goes on where this ends.

use http_body_util::BodyExt as _;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tonic::Status;

use super::*;

#[path = "../../../../tests/fuzz/fuzz_targets/message.rs"]
mod message;

fn methods() -> Vec<(String, MessageDescriptor)> {
    let pool = DescriptorPool::decode(countersign_proto::DESCRIPTOR_SET).unwrap();
    pool.services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            (path, method.input())
        })
        .collect()
}

async fn call(caller: &TestCaller, path: &str, message: &[u8]) -> Status {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    let request = http::Request::post(format!("http://server{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Body::from(frame)))
        .unwrap();
    let answer = caller.clone().call(request).await.unwrap();
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let body = answer.into_body().collect().await.unwrap();
    body.trailers().and_then(Status::from_header_map).unwrap()
}

#[test]
fn no_request_makes_a_handler_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let doors = runtime.block_on(async {
        let fixture = Fixture::new().await;
        let agent = fixture.agent("a", &["unix:uid:1"]).await;
        [fixture.local(), agent, fixture.stranger()]
    });
    let methods = methods();
    let shape = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<bool>(),
        prop::collection::vec(any::<u8>(), 0..200),
    );
    let config = ProptestConfig::with_cases(1_500);
    let tried = TestRunner::new(config).run(&shape, |(caller, method, made_up, bytes)| {
        let (path, of) = method.get(&methods);
        let encoded = if made_up {
            message::message(of, &mut message::Bytes(&bytes), 0).encode_to_vec()
        } else {
            bytes
        };
        runtime.block_on(call(caller.get(&doors), path, &encoded));
        Ok(())
    });
    tried.unwrap();
}
