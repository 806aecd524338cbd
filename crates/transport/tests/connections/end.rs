//! What ends connections, and what is let run on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_identity::tls::{ALPN_HTTP11, ClientAuth, ExpectedPeer, TlsVersions};
use countersign_transport::clock::TestClock;
use countersign_transport::dial::TlsConnector;
use countersign_transport::drain::Drained;
use countersign_transport::presented::Identities;
use countersign_transport::{Address, Connection, ServeOptions, TlsAcceptor};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::stage::{Caller, Domain, HOUR, MINUTE, NOW, Seen, Server};

const DEFAULTS: fn(ServeOptions) -> ServeOptions = |options| options;

#[tokio::test]
async fn a_cut_connection_ends_hanging_handlers_and_open_streams() {
    let (say, mut connections) = mpsc::unbounded_channel::<Arc<Connection>>();
    let mut server = Server::start_with(DEFAULTS, move |router| {
        router.layer(axum::middleware::from_fn(
            move |request: axum::extract::Request, next: axum::middleware::Next| {
                say.send(Arc::clone(
                    request.extensions().get::<Arc<Connection>>().unwrap(),
                ))
                .unwrap();
                next.run(request)
            },
        ))
    })
    .await;
    let mut caller = server.caller(HOUR).await;
    let mut stream = caller.get("/stream").await.unwrap().into_body();
    server.chunks.send(Ok(Bytes::from_static(b"one"))).unwrap();
    assert_eq!(
        stream.frame().await.unwrap().unwrap().into_data().unwrap(),
        "one"
    );
    let hanging = tokio::spawn(caller.get("/hang"));
    assert_eq!(server.seen.recv().await, Some(Seen::Hanging));

    let connection = connections.recv().await.unwrap();
    assert_eq!(
        connection.peer.as_ref().unwrap().id.as_str(),
        "spiffe://td/caller"
    );
    connection.cut.cancel();
    assert_eq!(server.seen.recv().await, Some(Seen::Dropped));
    assert!(stream.frame().await.unwrap().is_err());
    assert!(hanging.await.unwrap().is_err());
    server.chunks.closed().await;
}

#[tokio::test]
async fn a_cut_ends_http1_with_a_request_waiting_behind_another() {
    let mut server = Server::start(DEFAULTS).await;
    let svid = server.domain.svid("/caller", MINUTE);
    let tls = server.domain.tls();
    let config = tls
        .client(
            Some(&svid),
            ExpectedPeer::Anyone,
            TlsVersions::Only13,
            &[ALPN_HTTP11],
        )
        .unwrap();
    let mut io = server.connector(Arc::new(config)).dial().await.unwrap();
    let request = b"GET /hang HTTP/1.1\r\nhost: server\r\n\r\n";
    io.write_all(&request.repeat(2)).await.unwrap();
    assert_eq!(server.seen.recv().await, Some(Seen::Hanging));
    server.clock.advance(MINUTE).await;
    assert_eq!(server.seen.recv().await, Some(Seen::Dropped));
    // No answer, however the end shows.
    assert_eq!(io.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_connection_ends_at_the_end_of_the_callers_leaf() {
    let mut server = Server::start(DEFAULTS).await;
    let mut short = server.caller(10 * MINUTE).await;
    let mut long = server.caller(20 * MINUTE).await;
    let hanging = tokio::spawn(short.get("/hang"));
    assert_eq!(server.seen.recv().await, Some(Seen::Hanging));
    server.clock.advance(9 * MINUTE).await;
    assert_eq!(short.text("/who").await.unwrap(), "spiffe://td/caller");
    server.clock.advance(MINUTE).await;
    assert_eq!(server.seen.recv().await, Some(Seen::Dropped));
    assert!(hanging.await.unwrap().is_err());
    assert_eq!(long.text("/who").await.unwrap(), "spiffe://td/caller");
}

#[tokio::test]
async fn a_connection_ends_at_the_end_of_the_servers_own_leaf() {
    let mut server = Server::start(DEFAULTS).await;
    let svid = server.domain.svid("/caller", 3 * HOUR);
    // The caller's clock stands still, so that the end cannot come from its side.
    let clock = TestClock::fixed(NOW).shared();
    let target = server.address.to_string();
    let connector = TlsConnector::new(server.domain.client(Some(&svid)), &target, clock);
    let mut caller = Caller::http2(connector.dial().await.unwrap()).await;
    let hanging = tokio::spawn(caller.get("/hang"));
    assert_eq!(server.seen.recv().await, Some(Seen::Hanging));
    server.clock.advance(HOUR).await;
    assert_eq!(server.seen.recv().await, Some(Seen::Dropped));
    assert!(hanging.await.unwrap().is_err());
}

#[tokio::test]
async fn a_new_identity_drains_older_connections() {
    let server = Server::start(DEFAULTS).await;
    let mut old = server.caller(HOUR).await;
    let mut stream = old.get("/stream").await.unwrap().into_body();
    let renewed = server.domain.svid("/server", HOUR);
    let kid = renewed.kid();
    server.identity.send_replace(Some(
        server.domain.presented(&renewed, ClientAuth::Optional),
    ));

    // The first thing to be seen of it is that nothing more can be sent.
    while old.text("/who").await.is_ok() {}
    server
        .chunks
        .send(Ok(Bytes::from_static(b"still here")))
        .unwrap();
    assert_eq!(
        stream.frame().await.unwrap().unwrap().into_data().unwrap(),
        "still here"
    );
    drop(server.chunks);
    let rest = stream.collect().await.unwrap();
    assert!(
        rest.to_bytes().is_empty(),
        "the running exchange comes to its own end"
    );
    old.connection.await.unwrap().unwrap();

    let svid = server.domain.svid("/caller", HOUR);
    let connector = TlsConnector::new(
        server.domain.client(Some(&svid)),
        &server.address.to_string(),
        server.clock.shared(),
    );
    let io = connector.dial().await.unwrap();
    assert_eq!(io.peer().kid, kid);
    let mut new = Caller::http2(io).await;
    assert_eq!(new.text("/who").await.unwrap(), "spiffe://td/caller");
}

#[tokio::test]
async fn a_new_identity_closes_http1_after_the_running_exchange() {
    let server = Server::start(DEFAULTS).await;
    let tls = server.domain.tls();
    let config = Arc::new(
        tls.client(
            None,
            ExpectedPeer::Anyone,
            TlsVersions::Only13,
            &[ALPN_HTTP11],
        )
        .unwrap(),
    );
    let mut busy = Caller::http1(server.connector(Arc::clone(&config)).dial().await.unwrap()).await;
    let mut idle = Caller::http1(server.connector(config).dial().await.unwrap()).await;
    idle.text("/who").await.unwrap();
    let stream = busy.get("/stream").await.unwrap().into_body();
    let renewed = server
        .domain
        .presented(&server.domain.svid("/server", HOUR), ClientAuth::Optional);
    server.identity.send_replace(Some(renewed));

    idle.connection.await.unwrap().unwrap();
    server.chunks.send(Ok(Bytes::from_static(b"all"))).unwrap();
    drop(server.chunks);
    assert_eq!(stream.collect().await.unwrap().to_bytes(), "all");
    busy.connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_drains_within_a_tenth_of_its_maximum_age() {
    let server = Server::start(|options| options.max_age(10 * MINUTE)).await;
    let mut caller = server.caller(HOUR).await;
    let stream = caller.get("/stream").await.unwrap().into_body();
    server.clock.advance(Duration::from_secs(539)).await;
    assert_eq!(caller.text("/who").await.unwrap(), "spiffe://td/caller");
    server.clock.advance(Duration::from_secs(122)).await;
    while caller.text("/who").await.is_ok() {}
    server.chunks.send(Ok(Bytes::from_static(b"all"))).unwrap();
    drop(server.chunks);
    assert_eq!(stream.collect().await.unwrap().to_bytes(), "all");
    caller.connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_waits_for_what_runs() {
    let server = Server::start(|options| options.drain(HOUR)).await;
    let mut caller = server.caller(3 * HOUR).await;
    let stream = caller.get("/stream").await.unwrap().into_body();
    server.stop.cancel();
    while caller.text("/who").await.is_ok() {}
    assert!(!server.end.is_finished());
    drop(server.chunks);
    assert!(stream.collect().await.unwrap().to_bytes().is_empty());
    assert_eq!(server.end.await.unwrap(), Drained::Clean);
}

#[tokio::test]
async fn the_end_is_bounded_and_then_cuts() {
    let mut server = Server::start(|options| options.drain(Duration::from_secs(30))).await;
    let mut caller = server.caller(HOUR).await;
    let hanging = tokio::spawn(caller.get("/hang"));
    assert_eq!(server.seen.recv().await, Some(Seen::Hanging));
    // A caller that never answers the question whether it is still there (hyper#4170), and has asked for nothing: it is
    // not waited for.
    let mut silent = server
        .connector(server.domain.client(None))
        .dial()
        .await
        .unwrap();
    silent
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    silent.read_u8().await.unwrap();

    server.stop.cancel();
    while caller.text("/who").await.is_ok() {}
    server.clock.advance(Duration::from_secs(1)).await;
    while silent.read_u8().await.is_ok() {}
    server.clock.advance(Duration::from_secs(28)).await;
    assert!(!server.end.is_finished());
    server.clock.advance(Duration::from_secs(1)).await;
    assert_eq!(server.end.await.unwrap(), Drained::Cut(1));
    assert_eq!(server.seen.recv().await, Some(Seen::Dropped));
    assert!(hanging.await.unwrap().is_err());
}

#[tokio::test]
async fn a_server_that_is_dropped_serves_nothing_more() {
    let mut server = Server::start(DEFAULTS).await;
    let mut caller = server.caller(HOUR).await;
    let hanging = tokio::spawn(caller.get("/hang"));
    assert_eq!(server.seen.recv().await, Some(Seen::Hanging));
    server.end.abort();
    assert_eq!(server.seen.recv().await, Some(Seen::Dropped));
    assert!(hanging.await.unwrap().is_err());
}

#[tokio::test]
async fn the_acceptor_alone_gives_io_that_ends_with_its_connection() {
    let clock = TestClock::start(NOW);
    let domain = Domain::new("td", clock.shared());
    let presented = domain.presented(&domain.svid("/server", HOUR), ClientAuth::Required);
    let (_identity, identities): (_, Identities) = watch::channel(Some(presented));
    let acceptor = TlsAcceptor::new(Arc::new(identities), clock.shared());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let svid = domain.svid("/caller", HOUR);
    let connector = TlsConnector::new(domain.client(Some(&svid)), &target, clock.shared());
    let accept = async {
        let (stream, address) = listener.accept().await.unwrap();
        (acceptor.accept(stream, address).await.unwrap(), address)
    };
    let (mut client, ((mut io, connection), address)) =
        tokio::join!(async { connector.dial().await.unwrap() }, accept);

    let peer = connection.peer.as_ref().unwrap();
    assert_eq!(
        (&peer.id, peer.kid, &peer.serial),
        (svid.id(), svid.kid(), &svid.leaf().serial)
    );
    assert_eq!(
        (&*peer.chain, peer.not_after),
        (svid.chain(), svid.not_after())
    );
    assert!(matches!(connection.address, Address::Tcp(from) if from == address));
    client.write_all(b"hello").await.unwrap();
    let mut five = [0; 5];
    io.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"hello");
    peer.cut.cancel();
    assert_eq!(
        io.read_u8().await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionAborted
    );
    assert_eq!(
        io.write_u8(1).await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionAborted
    );
}

#[tokio::test]
async fn a_request_under_way_when_the_identity_changes_is_answered() {
    let server = Server::start(DEFAULTS).await;
    let svid = server.domain.svid("/caller", HOUR);
    let io = server
        .connector(server.domain.client(Some(&svid)))
        .dial()
        .await
        .unwrap();
    let renewed = server
        .domain
        .presented(&server.domain.svid("/server", HOUR), ClientAuth::Optional);
    server.identity.send_replace(Some(renewed));
    let mut caller = Caller::http2(io).await;
    assert_eq!(caller.text("/who").await.unwrap(), "spiffe://td/caller");
    caller.connection.await.unwrap().unwrap();
}
