//! A server from its start to its end, in this process, with a real database, sockets and handshakes.

use std::path::Path;

use countersign_daemon::logs::{Level, Levels};
use countersign_identity::tls::{ALPN_H2, ExpectedPeer, KeyExchange, TlsContext, TlsVersions};
use countersign_transport::SystemClock;
use countersign_transport::clock::RustlsTime;
use countersign_transport::dial::{Cause, TlsConnector};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group;
use tempfile::TempDir;

use super::*;
use crate::config::{Overrides, ServerConfig};

mod callers;

fn config(folder: &TempDir, overrides: &Overrides) -> ServerConfig {
    let text = format!(
        r#"
server {{
  bind_address = "127.0.0.1"
  bind_port = 0
  trust_domain = "example.org"
  data_dir = "{folder}/data"
  socket_path = "{folder}/private/api.sock"
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{ }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/data/keys.json" }} }}
}}
"#,
        folder = folder.path().display()
    );
    ServerConfig::parse("server.conf", &text, overrides)
        .unwrap()
        .0
}

async fn start(config: &ServerConfig) -> Result<Bound, StartError> {
    build(
        config,
        Levels::detached(Level::Info),
        None,
        SystemClock::shared(),
    )
    .await
}

/// The message of a start that fails, with its causes.
async fn refusal(config: &ServerConfig) -> String {
    let error = start(config).await.err().expect("the start fails");
    countersign_transport::error::Chain(&error).to_string()
}

fn connector(bound: &Bound, address: SocketAddr) -> TlsConnector {
    let clock = SystemClock::shared();
    let tls = TlsContext::new(
        Arc::new(bound.index.clone()),
        RustlsTime::shared(Arc::clone(&clock)),
    );
    let server = bound.rotation.authority().trust_domain().server_id();
    let client = tls
        .client(
            None,
            ExpectedPeer::Exactly(server),
            TlsVersions::From12,
            &[ALPN_H2],
        )
        .unwrap();
    TlsConnector::new(Arc::new(client), &address.to_string(), clock)
}

#[tokio::test]
async fn it_serves_tls_and_the_admin_socket_until_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let bound = start(&config(&folder, &Overrides::default()))
        .await
        .unwrap();
    let address = bound.tcp_address;
    let connector = connector(&bound, address);
    let socket = folder.path().join("private/api.sock");
    let address_file = folder.path().join("addresses");
    assert!(!address_file.exists());

    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (stop, address_file) = (stop.clone(), address_file.clone());
        async move { bound.serve(stop, Some(&address_file)).await }
    });
    let connection = connector.dial().await.unwrap();
    assert_eq!(
        connection.peer().id.as_str(),
        "spiffe://example.org/spire/server"
    );
    drop(connection);
    drop(tokio::net::UnixStream::connect(&socket).await.unwrap());

    stop.cancel();
    serving.await.unwrap().unwrap();
    assert_eq!(
        address_file::read(&address_file).unwrap(),
        [Listening::Tcp(address), Listening::Unix(socket.clone())]
    );
    assert!(!socket.exists());
    let refused = connector.dial().await.unwrap_err();
    assert_eq!(Cause::of(&refused), Some(Cause::Refused), "{refused}");
}

/// How a handshake ends of somebody with these key exchanges and versions, who trusts nobody.
async fn handshake(
    address: SocketAddr,
    groups: Vec<&'static dyn SupportedKxGroup>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> String {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = groups;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    tls.connect(name, tcp).await.unwrap_err().to_string()
}

#[tokio::test]
async fn required_post_quantum_key_exchange_refuses_any_other() {
    use rustls::version::{TLS12, TLS13};

    for (required, classical_ends) in [(false, "UnknownIssuer"), (true, "HandshakeFailure")] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder, &Overrides::default());
        if required {
            config.key_exchange = KeyExchange::RequirePostQuantum;
        }
        let bound = start(&config).await.unwrap();
        let (address, connector) = (bound.tcp_address, connector(&bound, bound.tcp_address));
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { bound.serve(stop, None).await }
        });
        // Ours prefer it, so that they speak with either.
        drop(connector.dial().await.unwrap());
        let classical = || vec![kx_group::X25519, kx_group::SECP256R1];
        let ended = handshake(address, classical(), &[&TLS13]).await;
        assert!(ended.contains(classical_ends), "{required}: {ended}");
        let ended = handshake(address, classical(), &[&TLS12]).await;
        assert_eq!(
            ended.contains("UnknownIssuer"),
            !required,
            "{required}: {ended}"
        );
        let ended = handshake(address, vec![kx_group::X25519MLKEM768], &[&TLS13]).await;
        assert!(ended.contains("UnknownIssuer"), "{required}: {ended}");
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_restart_keeps_the_authority() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder, &Overrides::default());
    let roots = |bound: &Bound| bound.rotation.journal().clone();
    let first = roots(&start(&config).await.unwrap());
    assert_eq!(roots(&start(&config).await.unwrap()), first);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder, &Overrides::default());
    let _first = start(&config).await.unwrap();
    let told = refusal(&config).await;
    assert!(
        told.contains("another server is using the data directory"),
        "{told}"
    );
}

#[tokio::test]
async fn start_errors_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let long = folder.path().join("x".repeat(120));
    let cases: [(Overrides, &str); 6] = [
        (
            Overrides {
                bind_port: Some(taken.local_addr().unwrap().port()),
                ..Overrides::default()
            },
            "another process uses this port. Stop it, or set another bind_port",
        ),
        (
            Overrides {
                bind_address: Some("192.0.2.1".into()),
                ..Overrides::default()
            },
            "this machine does not have that address",
        ),
        (
            Overrides {
                bind_address: Some("no such name".into()),
                ..Overrides::default()
            },
            "could not resolve bind_address",
        ),
        (
            Overrides {
                data_dir: Some(file.join("data")),
                ..Overrides::default()
            },
            "file/data",
        ),
        (
            Overrides {
                socket_path: Some(long),
                ..Overrides::default()
            },
            "choose a shorter one",
        ),
        (
            Overrides {
                socket_path: Some(file.join("api.sock")),
                ..Overrides::default()
            },
            "file/api.sock",
        ),
    ];
    for (overrides, told) in cases {
        let text = refusal(&config(&folder, &overrides)).await;
        assert!(text.contains(told), "{text}");
    }
}

#[tokio::test]
async fn a_clock_that_was_never_set_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let clock = countersign_transport::clock::TestClock::fixed(
        countersign_identity::UnixTime::from_secs(86_400),
    );
    let error = build(
        &config(&folder, &Overrides::default()),
        Levels::detached(Level::Info),
        None,
        clock.shared(),
    )
    .await
    .err()
    .unwrap();
    assert!(
        error.to_string().contains("1970-01-02T00:00:00Z"),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_file_that_cannot_be_written_stops_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let bound = start(&config(&folder, &Overrides::default()))
        .await
        .unwrap();
    let error = bound
        .serve(
            CancellationToken::new(),
            Some(Path::new("/nonexistent/file")),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, ServeError::AddressFile(_)), "{error}");
}

/// The whole path to it belongs to this user alone, whatever the umask and whatever was there before.
#[tokio::test]
async fn the_data_directory_is_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt;

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder, &Overrides::default());
    let store = folder.path().join("data/store");
    drop(start(&config).await.unwrap());
    assert_eq!(mode(&folder.path().join("data")), 0o700);
    assert_eq!(mode(&store), 0o700);
    // As an earlier version made it.
    std::fs::set_permissions(&store, PermissionsExt::from_mode(0o755)).unwrap();
    drop(start(&config).await.unwrap());
    assert_eq!(mode(&store), 0o700);
}

#[tokio::test(start_paused = true)]
async fn the_running_server_removes_what_has_expired() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder, &Overrides::default());
    config.store = crate::config::StoreChoice::Memory;
    let bound = start(&config).await.unwrap();
    let (store, stop) = (bound.store.clone(), CancellationToken::new());
    let expired = countersign_identity::UnixTime::from_secs(1);
    drop(store.token_create("unused", expired, None).await.unwrap());
    let serving = tokio::spawn(bound.serve(stop.clone(), None));
    // A token that is there can't be made again.
    let mut waited = Duration::ZERO;
    while store.token_create("unused", expired, None).await.is_err() {
        tokio::time::sleep(Duration::from_secs(10)).await;
        waited += Duration::from_secs(10);
        assert!(waited < Duration::from_secs(3600), "it never goes");
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// As happens when a disk is not mounted, or a server is tried out with the configuration of another.
#[tokio::test]
async fn a_new_store_does_not_delete_the_keys_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder, &Overrides::default());
    let roots = |bound: &Bound| bound.rotation.journal().clone();
    let first = roots(&start(&config).await.unwrap());

    let mut elsewhere = config.clone();
    elsewhere.store = crate::config::StoreChoice::Sled(folder.path().join("other"));
    for store in [elsewhere.store.clone(), crate::config::StoreChoice::Memory] {
        elsewhere.store = store;
        let told = refusal(&elsewhere).await;
        assert!(
            told.contains("belong to a server with another store"),
            "{told}"
        );
    }
    assert_eq!(roots(&start(&config).await.unwrap()), first);
}
