//! What a tool without .proto files sees on the public socket.

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::*;

struct Stream {
    ask: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
}

impl Stream {
    async fn open(served: &TestAgent) -> Result<Self, Status> {
        let (ask, asked) = mpsc::channel(1);
        let mut client = ServerReflectionClient::new(served.channel().await);
        let answers = client
            .server_reflection_info(ReceiverStream::new(asked))
            .await?;
        let answers = answers.into_inner();
        Ok(Self { ask, answers })
    }

    async fn ask(&mut self, what: MessageRequest) -> MessageResponse {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(what),
        };
        self.ask.send(request).await.unwrap();
        let answer = self.answers.message().await.unwrap().unwrap();
        answer.message_response.unwrap()
    }
}

#[tokio::test]
async fn the_services_are_told_with_their_messages_and_no_others() {
    let served = TestAgent::start().await;
    let mut stream = Stream::open(&served).await.unwrap();
    let listed = stream
        .ask(MessageRequest::ListServices(String::new()))
        .await;
    let MessageResponse::ListServicesResponse(listed) = listed else {
        panic!("{listed:?}");
    };
    let mut names: Vec<_> = listed.service.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    let wanted = [
        "SpiffeWorkloadAPI",
        "envoy.service.secret.v3.SecretDiscoveryService",
        "grpc.health.v1.Health",
    ];
    assert_eq!(names, wanted);

    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    let told = stream.ask(symbol("SpiffeWorkloadAPI")).await;
    let MessageResponse::FileDescriptorResponse(told) = told else {
        panic!("{told:?}");
    };
    let file = FileDescriptorProto::decode(told.file_descriptor_proto[0].as_slice()).unwrap();
    assert_eq!(file.name(), "workload.proto");
    // What it builds on is there too.
    for name in &file.dependency {
        let told = stream
            .ask(MessageRequest::FileByFilename(name.clone()))
            .await;
        assert!(
            matches!(told, MessageResponse::FileDescriptorResponse(_)),
            "{name}"
        );
    }
    // What the store keeps is nobody's business.
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(symbol("countersign.store.v1.Entry")),
    };
    stream.ask.send(request).await.unwrap();
    let status = stream.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
