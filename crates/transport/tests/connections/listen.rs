//! Who is let in, and what listeners bear.

use std::sync::Arc;

use countersign_identity::tls::{ALPN_H2, ClientAuth, ExpectedPeer, TlsVersions};
use countersign_transport::dial::{Cause, TlsConnector};
use countersign_transport::serve::Http;
use countersign_transport::{ServeOptions, limits};
use http::{Request, StatusCode};
use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{Caller, Domain, HOUR, MINUTE, NOW, Server};

const DEFAULTS: fn(ServeOptions) -> ServeOptions = |options| options;

#[tokio::test]
async fn an_unfinished_handshake_holds_up_nobody_and_is_dropped() {
    let server = Server::start(DEFAULTS).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut caller = server.caller(HOUR).await;
    assert_eq!(caller.text("/who").await.unwrap(), "spiffe://td/caller");
    server.clock.advance(limits::HANDSHAKE).await;
    assert_eq!(
        silent.read(&mut [0]).await.unwrap(),
        0,
        "closed without an answer"
    );
    assert_eq!(caller.text("/who").await.unwrap(), "spiffe://td/caller");
}

#[tokio::test]
async fn silent_callers_from_one_address_do_not_keep_others_out() {
    let server = Server::start(|mut options| {
        options.handshakes = 8;
        options
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(server.address).await.unwrap());
    }
    // The clock stands still: no handshake is given up meanwhile.
    let mut caller = server.caller(HOUR).await;
    assert_eq!(caller.text("/who").await.unwrap(), "spiffe://td/caller");
    // Those that waited for a turn are given up as well.
    for _ in 0..4 {
        server.clock.advance(limits::HANDSHAKE).await;
    }
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_known_by_its_address_alone() {
    let server = Server::start(DEFAULTS).await;
    let io = server
        .connector(server.domain.client(None))
        .dial()
        .await
        .unwrap();
    assert_eq!(io.peer().id.as_str(), "spiffe://td/server");
    let mut caller = Caller::http2(io).await;
    let address = caller.text("/who").await.unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
}

#[tokio::test]
async fn a_caller_whom_the_verifier_refuses_learns_why() {
    let server = Server::start(DEFAULTS).await;
    let stranger = Domain::new("elsewhere", server.clock.shared()).svid("/caller", HOUR);
    let mut caller = Caller::http2(
        server
            .connector(server.domain.client(Some(&stranger)))
            .dial()
            .await
            .unwrap(),
    )
    .await;
    let refused = caller.text("/who").await.unwrap_err();
    let broken = caller.connection.await.unwrap().unwrap_err();
    let cause = Cause::of(&broken).or_else(|| Cause::of(&refused));
    assert_eq!(cause, Some(Cause::OwnCertificateRefused), "{broken:?}");
}

#[tokio::test]
async fn without_an_identity_nobody_enters_and_those_inside_drain() {
    let server = Server::start(DEFAULTS).await;
    let mut caller = server.caller(HOUR).await;
    caller.text("/who").await.unwrap();
    server.identity.send_replace(None);
    caller.connection.await.unwrap().unwrap();
    let error = server
        .connector(server.domain.client(None))
        .dial()
        .await
        .unwrap_err();
    assert_eq!(Cause::of(&error), Some(Cause::Protocol));
}

#[tokio::test]
async fn headers_beyond_64_kib_get_431_in_both_http_versions() {
    let server = Server::start(DEFAULTS).await;
    let svid = server.domain.svid("/caller", MINUTE);
    let connector = server.connector(server.domain.client(Some(&svid)));
    for mut caller in [
        Caller::http1(connector.dial().await.unwrap()).await,
        Caller::http2(connector.dial().await.unwrap()).await,
    ] {
        for (len, status) in [
            (60_000, StatusCode::OK),
            (66_000, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        ] {
            let request = Request::get("https://server/who")
                .header("host", "server")
                .header("x", "a".repeat(len));
            let response = caller
                .request(request.body(Empty::new()).unwrap())
                .await
                .unwrap();
            assert_eq!(response.status(), status);
        }
    }
}

#[tokio::test]
async fn a_grpc_listener_speaks_http2_alone() {
    let server = Server::start(|options| ServeOptions {
        http: Http::Http2Only,
        ..options
    })
    .await;
    let mut caller = server.caller(HOUR).await;
    assert_eq!(caller.text("/who").await.unwrap(), "spiffe://td/caller");
    let mut io = server
        .connector(server.domain.client(None))
        .dial()
        .await
        .unwrap();
    io.write_all(b"GET /who HTTP/1.1\r\nhost: server\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    drop(io.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
}

#[tokio::test]
async fn beyond_its_bound_of_connections_a_caller_waits_for_a_place() {
    let server = Server::start(|options| ServeOptions {
        connections: 1,
        ..options
    })
    .await;
    let mut first = server.caller(HOUR).await;
    first.text("/who").await.unwrap();
    let mut second = Box::pin(server.caller(HOUR));
    tokio::select! {
        biased;
        _ = &mut second => panic!("no place was free"),
        answer = first.text("/who") => drop(answer.unwrap()),
    }
    drop(first);
    assert_eq!(
        second.await.text("/who").await.unwrap(),
        "spiffe://td/caller"
    );
}

#[tokio::test]
async fn one_workload_cannot_take_all_connections() {
    let server = Server::start(|options| ServeOptions {
        connections: 4,
        ..options
    })
    .await;
    let mut held = [server.caller(HOUR).await, server.caller(HOUR).await];
    for caller in &mut held {
        caller.text("/who").await.unwrap();
    }
    // One more is closed unheard, however often it tries; somebody else is served.
    for _ in 0..4 {
        let svid = server.domain.svid("/caller", HOUR);
        let connector = server.connector(server.domain.client(Some(&svid)));
        let mut further = connector.dial().await.unwrap();
        let request = b"GET /who HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
        drop(further.write_all(request).await);
        let mut answer = Vec::new();
        drop(further.read_to_end(&mut answer).await);
        assert_eq!(answer, b"");
    }
    let other = server.domain.svid("/other", HOUR);
    let connector = server.connector(server.domain.client(Some(&other)));
    let mut other = Caller::http2(connector.dial().await.unwrap()).await;
    assert_eq!(other.text("/who").await.unwrap(), "spiffe://td/other");
    let mut nobody = Caller::http2(
        server
            .connector(server.domain.client(None))
            .dial()
            .await
            .unwrap(),
    )
    .await;
    assert!(nobody.text("/who").await.is_ok());
}

#[tokio::test]
async fn a_client_can_tell_apart_what_went_wrong() {
    let server = Server::start(DEFAULTS).await;
    let cause =
        async |connector: TlsConnector| Cause::of(&connector.dial().await.unwrap_err()).unwrap();
    let domain = &server.domain;
    let elsewhere = Domain::new("td", server.clock.shared());
    assert_eq!(
        cause(server.connector(elsewhere.client(None))).await,
        Cause::UnknownAuthority
    );

    let other = ExpectedPeer::Exactly(domain.svid("/other", HOUR).id().clone());
    let wrong = domain
        .tls()
        .client(None, other, TlsVersions::Only13, &[ALPN_H2])
        .unwrap();
    assert_eq!(
        cause(server.connector(Arc::new(wrong))).await,
        Cause::WrongId
    );

    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let nobody = TlsConnector::new(domain.client(None), &gone, server.clock.shared());
    assert_eq!(cause(nobody).await, Cause::Refused);

    let nowhere = TlsConnector::new(domain.client(None), "no-port", server.clock.shared());
    assert_eq!(cause(nowhere).await, Cause::Unresolved);

    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf_address = deaf.local_addr().unwrap().to_string();
    let waiting = TlsConnector::new(domain.client(None), &deaf_address, server.clock.shared());
    let late = tokio::spawn(async move { waiting.dial().await.unwrap_err() });
    let _accepted = deaf.accept().await.unwrap();
    server.clock.advance(limits::DIAL).await;
    assert_eq!(Cause::of(&late.await.unwrap()), Some(Cause::Unreachable));

    let expired = server.connector(domain.client(None));
    server.clock.set(NOW.after(2 * HOUR));
    assert_eq!(cause(expired.clone()).await, Cause::Clock);
    server.clock.set(NOW.before(HOUR));
    assert_eq!(cause(expired).await, Cause::Clock);

    server.clock.set(NOW);
    let required = domain.presented(&domain.svid("/server", 5 * HOUR), ClientAuth::Required);
    server.identity.send_replace(Some(required));
    let io = server.connector(domain.client(None)).dial().await;
    let broken = Caller::http2(io.unwrap())
        .await
        .connection
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        Cause::of(&broken),
        Some(Cause::CertificateRequired),
        "{broken:?}"
    );
}
