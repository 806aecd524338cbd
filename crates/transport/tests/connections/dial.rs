//! The connectors under tonic and under hyper-util's client.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use countersign_identity::verify::Leaf;
use countersign_transport::dial::{Cause, DialError, UnixConnector};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

use crate::stage::{Domain, HOUR, Server};

async fn who(channel: &mut Channel) -> String {
    let request = Request::get("http://localhost/who")
        .body(tonic::body::Body::empty())
        .unwrap();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    let body = Body::new(response.into_body())
        .collect()
        .await
        .unwrap()
        .to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_tonic_channel_dials_tls_and_errors_keep_their_cause() {
    let server = Server::start(|options| options).await;
    let svid = server.domain.svid("/caller", HOUR);
    let connector = server.connector(server.domain.client(Some(&svid)));
    let endpoint = Endpoint::from_static("http://localhost");
    let mut channel = endpoint
        .connect_with_connector(connector.clone())
        .await
        .unwrap();
    assert_eq!(who(&mut channel).await, "spiffe://td/caller");

    server.stop.cancel();
    server.end.await.unwrap();
    let error = endpoint
        .connect_with_connector(connector)
        .await
        .unwrap_err();
    assert_eq!(Cause::of(&error), Some(Cause::Refused));
    let dial = DialError::of(&error).unwrap();
    assert_eq!(
        dial.to_string(),
        format!("cannot connect to {}", server.address)
    );
}

#[tokio::test]
async fn several_servers_of_one_name_stand_in_for_each_other() {
    let server = Server::start(|options| options).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    // It takes connections and says nothing sensible.
    let broken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nonsense = broken.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        while let Ok((caller, _)) = broken.accept().await {
            drop(caller);
        }
    });
    let connector = server.connector(server.domain.client(None));
    let io = connector
        .dial_first_of(&[closed, nonsense, server.address])
        .await
        .unwrap();
    assert_eq!(io.peer().id.as_str(), "spiffe://td/server");

    // A stranger among them is told of only if all are strangers.
    let elsewhere = Domain::new("td", server.clock.shared());
    let stranger = server.connector(elsewhere.client(None));
    let error = stranger.dial_first_of(&[server.address]).await.unwrap_err();
    assert_eq!(Cause::of(&error), Some(Cause::UnknownAuthority));
    let error = stranger
        .dial_first_of(&[server.address, closed])
        .await
        .unwrap_err();
    assert_eq!(Cause::of(&error), Some(Cause::Refused));
    assert!(connector.dial_first_of(&[]).await.is_err());
    answering.abort();
}

#[tokio::test]
async fn a_hyper_client_tells_which_leaf_answered() {
    let server = Server::start(|options| options).await;
    let connector = server.connector(server.domain.client(None));
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let response = client
        .get(Uri::from_static("http://server/who"))
        .await
        .unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2, "by ALPN");
    let leaf = response.extensions().get::<Arc<Leaf>>().unwrap();
    assert_eq!(leaf.id.as_str(), "spiffe://td/server");
}

#[tokio::test]
async fn a_missing_unix_socket_differs_from_one_without_a_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let connector = UnixConnector::new(format!("unix://{}", path.display()));
    assert_eq!(
        Cause::of(&connector.dial().await.unwrap_err()),
        Some(Cause::NoSocket)
    );
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(
        Cause::of(&connector.dial().await.unwrap_err()),
        Some(Cause::Refused)
    );
}
