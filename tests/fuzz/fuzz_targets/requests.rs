//! No request, of any method and from any caller, makes a handler panic or leaves the caller without a status.
//!
//! The first byte picks the caller, the second the method, the third whether the rest is the message as it stands or what
//! a message is made up from. The handlers are the real ones, over a real server whose store is in memory. Filters and
//! masks are fields of such messages.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use countersign_daemon::logs::{Level, Levels};
use countersign_transport::{Connection, SystemClock, UnixCaller};
use countersign_server::embed::{Overrides, ServerConfig};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt as _;

#[path = "message.rs"]
mod message;

const CONFIG: &str = r#"
server {
  bind_address = "127.0.0.1"
  bind_port = 0
  trust_domain = "example.org"
  ratelimit {
    attestation = false
    signing = false
  }
}
plugins {
  DataStore "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
"#;

struct House {
    runtime: tokio::runtime::Runtime,
    methods: Vec<(String, MessageDescriptor)>,
    local: axum::Router,
    network: axum::Router,
    _folder: tempfile::TempDir,
}

static HOUSE: LazyLock<House> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let overrides = Overrides {
        socket_path: Some(folder.path().join("api.sock")),
        data_dir: Some(folder.path().join("data")),
        ..Overrides::default()
    };
    let (config, _) = ServerConfig::parse("fuzz", CONFIG, &overrides).expect("a configuration");
    let bound = runtime
        .block_on(countersign_server::embed::build(
            &config,
            Levels::detached(Level::Error),
            None,
            SystemClock::shared(),
        ))
        .expect("a server");
    let (local, network) = (bound.local_api(), bound.network_api());
    runtime.spawn(bound.serve(CancellationToken::new(), None));
    let pool = DescriptorPool::decode(countersign_proto::DESCRIPTOR_SET).expect("descriptors");
    let methods = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            (path, method.input())
        })
        .collect();
    House {
        runtime,
        methods,
        local,
        network,
        _folder: folder,
    }
});

fuzz_target!(|data: &[u8]| {
    let [caller, method, kind, rest @ ..] = data else { return };
    let house = &*HOUSE;
    let (path, of) = &house.methods[usize::from(*method) % house.methods.len()];
    let encoded = if kind % 2 == 0 {
        rest.to_vec()
    } else {
        message::message(of, &mut message::Bytes(rest), 0).encode_to_vec()
    };
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(encoded.len()).expect("short").to_be_bytes());
    frame.extend_from_slice(&encoded);
    let (router, connection) = match caller % 2 {
        0 => (&house.local, local()),
        _ => (&house.network, stranger()),
    };
    let request = http::Request::post(format!("http://server{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .extension(Arc::new(connection))
        .body(Body::from(frame))
        .expect("a request");
    let answer = async {
        let answer = router.clone().oneshot(request).await.expect("an answer");
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return status;
        }
        let body = answer.into_body().collect().await.expect("a body");
        let trailers = body.trailers().expect("trailers");
        Status::from_header_map(trailers).expect("a status")
    };
    house.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), answer)
            .await
            .expect("an answer in time");
    });
});

fn local() -> Connection {
    let caller = UnixCaller {
        pid: None,
        uid: 0,
        gid: 0,
        process: None,
    };
    Connection::unix(caller, CancellationToken::new())
}

fn stranger() -> Connection {
    Connection {
        address: countersign_transport::Address::Tcp(([127, 0, 0, 1], 4711).into()),
        peer: None,
        presented: None,
        cut: CancellationToken::new(),
    }
}
