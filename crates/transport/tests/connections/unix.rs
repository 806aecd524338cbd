//! Unix sockets: one daemon each, exact modes, callers known.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use countersign_transport::dial::UnixConnector;
use countersign_transport::drain::Drained;
use countersign_transport::serve::Http;
use countersign_transport::unix::{Access, BindError, Reachability, Socket};
use countersign_transport::{Address, Connection, ServeOptions, SystemClock, limits, serve_unix};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/here/api.sock");
    (folder, path)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn socket_and_folder_get_exactly_their_modes_whatever_the_umask() {
    for access in [Access::PUBLIC, Access::ADMIN] {
        let (_folder, path) = place();
        let socket = Socket::bind(&path, access).await.unwrap();
        assert_eq!(
            (mode(socket.path()), mode(path.parent().unwrap())),
            (access.socket, access.folder)
        );
    }
    let (folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o700)).unwrap();
    let _socket = Socket::bind(&path, Access::PUBLIC).await.unwrap();
    assert_eq!(
        mode(path.parent().unwrap()),
        0o700,
        "a folder that was there keeps its mode"
    );
    drop(folder);
}

#[tokio::test]
async fn a_second_daemon_on_a_socket_is_refused() {
    let (_folder, path) = place();
    let first = Socket::bind(&path, Access::PUBLIC).await.unwrap();
    let refused = Socket::bind(&path, Access::PUBLIC).await.unwrap_err();
    assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("another process already serves"),
        "{refused}"
    );
    let (client, accepted) = tokio::join!(UnixStream::connect(&path), first.accept());
    drop((client.unwrap(), accepted.unwrap()));

    drop(first);
    assert!(!path.exists(), "a socket is taken away with its listener");
    Socket::bind(&path, Access::PUBLIC).await.unwrap();
}

#[tokio::test]
async fn a_foreign_listener_is_kept_and_a_stale_socket_is_replaced() {
    let (_folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(
        Socket::bind(&path, Access::PUBLIC).await,
        Err(BindError::InUse { .. })
    ));
    assert!(path.exists());
    drop(foreign);
    let socket = Socket::bind(&path, Access::PUBLIC).await.unwrap();
    let (client, accepted) = tokio::join!(UnixStream::connect(&path), socket.accept());
    drop((client.unwrap(), accepted.unwrap()));
}

#[tokio::test]
async fn what_is_not_a_socket_is_left_alone() {
    let (_folder, path) = place();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        Socket::bind(&path, Access::PUBLIC).await,
        Err(BindError::NotASocket { .. })
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_path_may_be_as_long_as_the_system_allows_and_no_longer() {
    let (folder, _) = place();
    let fill = limits::SOCKET_PATH - folder.path().as_os_str().len() - 1;
    let longest = folder.path().join("a".repeat(fill));
    let socket = Socket::bind(&longest, Access::PUBLIC).await.unwrap();
    UnixStream::connect(socket.path()).await.unwrap();
    let error = Socket::bind(&folder.path().join("a".repeat(fill + 1)), Access::PUBLIC)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is 108 bytes long, and the system allows 107"),
        "{error}"
    );
}

#[tokio::test]
async fn the_socket_of_a_successor_is_not_taken_away() {
    let (_folder, path) = place();
    let first = Socket::bind(&path, Access::PUBLIC).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let locked = Socket::bind(&path, Access::PUBLIC).await;
    assert!(
        matches!(locked, Err(BindError::InUse { .. })),
        "the lock holds even when the file is gone"
    );
    let _successor = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

struct Served {
    _folder: TempDir,
    path: PathBuf,
    stop: CancellationToken,
    reachability: watch::Receiver<Reachability>,
    end: JoinHandle<Drained>,
    connections: mpsc::UnboundedReceiver<Arc<Connection>>,
}

async fn serve() -> Served {
    serve_http(Http::Auto).await
}

async fn serve_http(http: Http) -> Served {
    let (folder, path) = place();
    let (say, connections) = mpsc::unbounded_channel();
    let tell = move |connection: Arc<Connection>| say.send(connection).unwrap();
    let tell_too = tell.clone();
    let hello = move |Extension(connection)| {
        tell(connection);
        async { "hello" }
    };
    let hang = move |Extension(connection)| {
        tell_too(connection);
        std::future::pending::<()>()
    };
    let router = Router::new()
        .route("/", get(hello))
        .route("/hang", get(hang));
    let socket = Socket::bind(&path, Access::PUBLIC).await.unwrap();
    let options = ServeOptions::new(http, SystemClock::shared());
    let stop = CancellationToken::new();
    let reachability = socket.reachability();
    let end = tokio::spawn(serve_unix(socket, router, options, stop.clone()));
    Served {
        _folder: folder,
        path,
        stop,
        reachability,
        end,
        connections,
    }
}

#[tokio::test]
async fn the_caller_is_who_the_kernel_says() {
    let mut served = serve().await;
    let mut stream = UnixConnector::new(&served.path).dial().await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    let connection = served.connections.recv().await.unwrap();
    let Address::Unix(caller) = &connection.address else {
        panic!("{connection:?}")
    };
    let (uid, gid) = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    assert_eq!(
        (caller.pid, caller.uid, caller.gid),
        (i32::try_from(std::process::id()).ok(), uid, gid)
    );
    let process = caller.process.as_ref().unwrap();
    assert_eq!(Some(process.pid()), caller.pid);
    assert!(process.is_running().unwrap());

    served.stop.cancel();
    assert_eq!(served.end.await.unwrap(), Drained::Clean);
    assert!(!served.path.exists());
}

#[tokio::test]
async fn cutting_a_unix_connection_ends_it() {
    let mut served = serve().await;
    let mut stream = UnixConnector::new(&served.path).dial().await.unwrap();
    stream
        .write_all(b"GET /hang HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    served.connections.recv().await.unwrap().cut.cancel();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn callers_that_never_say_anything_do_not_hold_up_the_end() {
    for first_bytes in ["", "PRI * HTTP", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut served = serve_http(Http::Http2Only).await;
        let mut mute = UnixConnector::new(&served.path).dial().await.unwrap();
        mute.write_all(first_bytes.as_bytes()).await.unwrap();
        // Accepted, as the one behind it was.
        assert_eq!(answer_to_authority(&served.path, "localhost").await, 1);
        served.connections.recv().await.unwrap();
        served.stop.cancel();
        assert_eq!(served.end.await.unwrap(), Drained::Clean, "{first_bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_never_says_anything_loses_its_place() {
    let served = serve_http(Http::Http2Only).await;
    let mut mute = UnixConnector::new(&served.path).dial().await.unwrap();
    mute.read_to_end(&mut Vec::new()).await.unwrap();
    drop(served);
}

/// Waits until somebody answers at the path. The clock of the test goes on by itself.
async fn found(path: &Path) {
    while UnixStream::connect(path).await.is_err() {
        tokio::time::sleep(limits::SOCKET_LOOK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_socket_is_made_again_with_its_folder_and_lock() {
    let served = serve_http(Http::Http2Only).await;
    let folder = served.path.parent().unwrap();
    for removed in [&*served.path, folder, folder.parent().unwrap()] {
        if removed.is_dir() {
            std::fs::remove_dir_all(removed).unwrap();
        } else {
            std::fs::remove_file(removed).unwrap();
        }
        found(&served.path).await;
        assert_eq!((mode(&served.path), mode(folder)), (0o777, 0o755));
        assert_eq!(answer_to_authority(&served.path, "localhost").await, 1);
        let second = Socket::bind(&served.path, Access::PUBLIC).await;
        assert!(matches!(second, Err(BindError::InUse { .. })), "{second:?}");
    }
    served.stop.cancel();
    served.end.await.unwrap();
    assert!(!served.path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_socket_taken_over_is_left_alone_while_somebody_serves_it() {
    let mut served = serve_http(Http::Http2Only).await;
    let aside = served.path.with_file_name("other");
    let foreign = std::os::unix::net::UnixListener::bind(&aside).unwrap();
    std::fs::rename(&aside, &served.path).unwrap();
    served.reachability.changed().await.unwrap();
    let Reachability::Unreachable(reason) = served.reachability.borrow_and_update().clone() else {
        panic!("it is not noticed");
    };
    assert!(
        reason.contains("another process already serves"),
        "{reason}"
    );
    UnixStream::connect(&served.path).await.unwrap();
    foreign.accept().unwrap();

    // Its owner is gone, and left the file.
    drop(foreign);
    served.reachability.changed().await.unwrap();
    assert_eq!(*served.reachability.borrow(), Reachability::Reachable);
    assert_eq!(answer_to_authority(&served.path, "localhost").await, 1);

    let foreign = std::os::unix::net::UnixListener::bind(&aside).unwrap();
    std::fs::rename(&aside, &served.path).unwrap();
    served.stop.cancel();
    served.end.await.unwrap();
    UnixStream::connect(&served.path).await.unwrap();
    drop(foreign);
}

#[tokio::test]
async fn a_process_at_its_limit_keeps_connections_and_gets_no_more() {
    let served = serve_http(Http::Http2Only).await;
    let mut open = Vec::new();
    for _ in 0..limits::CONNECTIONS_PER_PROCESS {
        open.push(UnixConnector::new(&served.path).dial().await.unwrap());
    }
    let mut one_more = UnixConnector::new(&served.path).dial().await.unwrap();
    assert_eq!(one_more.read(&mut [0]).await.unwrap_or_default(), 0);
    for stream in &mut open {
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 1, "settings");
    }
    drop(open);
    loop {
        let mut stream = UnixConnector::new(&served.path).dial().await.unwrap();
        drop(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
        if stream.read(&mut [0]).await.unwrap_or_default() == 1 {
            break;
        }
    }
}

/// What an HTTP/2 server says to a GET request with this `:authority`: the type of the first frame on stream 1
/// (1 = HEADERS, 3 = RST_STREAM).
async fn answer_to_authority(path: &Path, authority: &str) -> u8 {
    let mut stream = UnixConnector::new(path).dial().await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    // :method GET, :scheme http, :path /, and :authority as a literal that is not indexed.
    let mut block = vec![
        0x82,
        0x86,
        0x84,
        0x01,
        u8::try_from(authority.len()).unwrap(),
    ];
    block.extend_from_slice(authority.as_bytes());
    let mut frame = vec![
        0,
        0,
        u8::try_from(block.len()).unwrap(),
        1,
        0x05,
        0,
        0,
        0,
        1,
    ];
    frame.append(&mut block);
    stream.write_all(&frame).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let [a, b, c, kind, _flags, id @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if u32::from_be_bytes(id) == 1 {
            return kind;
        }
    }
}

/// Nobody on a Unix socket asks whom a request is for (decision 0002). Only an empty one has no octet to replace.
#[tokio::test]
async fn any_authority_is_taken() {
    let served = serve().await;
    for authority in [
        "localhost",
        "localhost:80",
        "api.sock",
        "_",
        "unix%3Aapi@localhost",
        "/tmp/api.sock",
        "tmp%2Fapi.sock",
        "%2Ftmp%2Fapi.sock",
        "unix:/tmp/api.sock",
        "unix:///tmp/a:b.sock",
        "[::1]:80",
        "\"<>{}|\\^`@",
    ] {
        assert_eq!(
            answer_to_authority(&served.path, authority).await,
            1,
            "{authority:?}"
        );
    }
    assert_eq!(answer_to_authority(&served.path, "").await, 3);
}
