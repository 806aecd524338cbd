//! Callers that begin what they never end: they take up places of their own process, and leave no trace.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::Status;

use super::*;

/// The head of a message that says that something follows, and nothing more, ever.
struct Unending(Option<Bytes>);

impl Body for Unending {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}

async fn connection(served: &TestAgent) -> SendRequest<Unending> {
    let stream = UnixStream::connect(served.socket()).await.unwrap();
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    send
}

fn request(path: &str) -> http::Request<Unending> {
    http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(SECURITY_HEADER, "true")
        .body(Unending(Some(Bytes::from_static(&[0, 0, 0, 0, 200]))))
        .unwrap()
}

fn status(answer: &Response<Incoming>) -> Option<Status> {
    let headers: &HeaderMap = answer.headers();
    Status::from_header_map(headers)
}

#[tokio::test]
async fn endless_requests_use_up_only_their_own_limit() {
    let served = TestAgent::start().await;
    served.publish(&[served.signed(served.entry("a", &own()))], &[]);
    let mut caller = connection(&served).await;
    // Whatever the method, and whether it exists.
    let paths = [
        "/SpiffeWorkloadAPI/FetchJWTSVID",
        "/SpiffeWorkloadAPI/ValidateJWTSVID",
        "/SpiffeWorkloadAPI/FetchX509SVID",
        "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
    ];
    let mut waiting: Vec<_> = paths
        .iter()
        .cycle()
        .take(limits::STREAMS_PER_PROCESS)
        .map(|path| Box::pin(caller.send_request(request(path))))
        .collect();
    // They are on their way before this one, on the same connection.
    let all = futures::future::select_all(waiting.iter_mut());
    let refused = tokio::select! {
        (answer, ..) = all => panic!("an answer to half a request: {answer:?}"),
        answer = caller.clone().send_request(request(paths[0])) => answer.unwrap(),
    };
    let refused = status(&refused).unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("at most 64 streams"),
        "{refused}"
    );

    drop((waiting, caller));
    // All is free again, as soon as the node agent has seen the end of the connection.
    loop {
        let mut answers = served.client().await.x509_svids().await;
        match &mut answers {
            Ok(answers) => break drop(answers.message().await.unwrap().unwrap()),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
}
