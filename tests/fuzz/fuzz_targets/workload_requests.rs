//! Whatever a workload sends to the node agent, of any method and on either socket: it gets answers and in the end a
//! status, and nothing panics.
//!
//! The first byte picks the method, the second what goes with it: the security header, how many messages, whether they are
//! the rest as it stands or made up from it, and whether a token in them is a sound one. The services are the real ones,
//! over a picture with two identities for this process and a delegate's rights; only the server is missing.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use countersign_agent::fuzzing::{
    ApiConfig, AuthorizedEntry, Delivery, EntrySource, Feed, JwtSvids, SdsConfig, ServedEntry, ServedSvid, Snapshot, Sources,
    VerifierConfig, admin, public, user_attestors,
};
use countersign_identity::jwt::JwtTemplate;
use countersign_identity::{EntryId, Selector, TrustDomain};
use countersign_daemon::logs::{Level, Levels};
use countersign_transport::{Connection, SystemClock, UnixCaller, unix};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor, Value};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt as _;

#[path = "authority.rs"]
mod authority;
#[path = "message.rs"]
mod message;

use authority::Authority;

/// What belongs to the node agent, by the beginning of the package's or the service's name.
const PUBLIC: [&str; 3] = ["SpiffeWorkloadAPI", "envoy.service.secret", "grpc.health"];
const ADMIN: [&str; 2] = ["spire.agent", "spire.api.agent"];
/// How long one answer may take; only a fault gets there.
const PATIENCE: Duration = Duration::from_secs(20);

struct Method {
    path: String,
    input: MessageDescriptor,
    socket: Socket,
    /// Its stream of answers lasts as long as the caller's stream of requests.
    talks: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Socket {
    Public,
    Admin,
}

struct House {
    runtime: tokio::runtime::Runtime,
    methods: Vec<Method>,
    sources: Sources,
    config: ApiConfig,
    caller: UnixCaller,
    token: String,
}

static HOUSE: LazyLock<House> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let caller = runtime.block_on(async {
        let (own, _other) = tokio::net::UnixStream::pair().expect("a socket");
        unix::caller(&own).expect("the kernel's word")
    });
    let (authority, foreign) = (Authority::new("example.org"), Authority::new("other.org"));
    let feed = Feed::default();
    let selector = format!("unix:uid:{}", caller.uid);
    let entries = ["a", "b"].map(|name| entry(name, &selector, &authority));
    let config = ApiConfig {
        verifiers: VerifierConfig { allow_unauthenticated: true, ..VerifierConfig::default() },
        sds: Some(SdsConfig::default()),
        delegates: Arc::new(entries.iter().map(|served| served.entry.spiffe_id.clone()).collect()),
        ..ApiConfig::default()
    };
    let federated = BTreeMap::from([(foreign.trust_domain.clone(), Arc::new(foreign.bundle()))]);
    feed.publish(Snapshot::new(Arc::new(authority.bundle()), entries, federated, EntrySource::Server));
    let clock = SystemClock::shared();
    let id = authority.trust_domain.id_with_path("/a").expect("an ID");
    let template = JwtTemplate {
        id: &id,
        audience: &["a".to_owned()],
        ttl: Duration::from_secs(86_400),
        issuer: None,
        with_id: false,
    };
    let token = authority.jwt.issue(&template, clock.now()).expect("a token").token;
    let sources = Sources {
        jwt_svids: JwtSvids::new(10, feed.clone(), Arc::clone(&clock)),
        feed,
        attestors: user_attestors(),
        clock,
        stop: CancellationToken::new(),
    };
    House { runtime, methods: methods(), sources, config, caller, token }
});

fn entry(name: &str, selector: &str, authority: &Authority) -> ServedEntry {
    let spiffe_id = authority.trust_domain.id_with_path(&format!("/{name}")).expect("an ID");
    let svid = authority.svid(&spiffe_id);
    let entry = AuthorizedEntry {
        id: EntryId::new(name).expect("an ID"),
        spiffe_id,
        selectors: [Selector::parse(selector).expect("a selector")].into_iter().collect(),
        federates_with: vec![TrustDomain::new("other.org").expect("a name")],
        revision: 0,
        created_at: 0,
        hint: String::new(),
        delivery: Delivery::Prefetched,
        privileged: false,
    };
    ServedEntry { entry: Arc::new(entry), svid: Some(Arc::new(ServedSvid::new(svid))) }
}

fn methods() -> Vec<Method> {
    let pool = DescriptorPool::decode(countersign_proto::DESCRIPTOR_SET).expect("descriptors");
    let begins = |name: &str, with: &[&str]| with.iter().any(|start| name.starts_with(start));
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let methods: Vec<Method> = methods
        .filter_map(|method| {
            let service = method.parent_service().full_name().to_owned();
            let socket = match () {
                () if begins(&service, &PUBLIC) => Socket::Public,
                () if begins(&service, &ADMIN) => Socket::Admin,
                () => return None,
            };
            Some(Method {
                path: format!("/{service}/{}", method.name()),
                input: method.input(),
                socket,
                talks: method.is_client_streaming(),
            })
        })
        .collect();
    assert!(methods.len() > 15, "the node agent has more methods than {}", methods.len());
    methods
}

fuzz_target!(|data: &[u8]| {
    let [method, with, rest @ ..] = data else { return };
    let house = &*HOUSE;
    let method = &house.methods[usize::from(*method) % house.methods.len()];
    let stop = CancellationToken::new();
    let request = http::Request::post(format!("http://localhost{}", method.path))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .extension(Arc::new(Connection::unix(house.caller.clone(), CancellationToken::new())));
    // One time in eight it is missing.
    let request = if with & 7 == 0 { request } else { request.header("workload.spiffe.io", "true") };
    let request = request.body(Body::from(frames(house, method, *with, rest))).expect("a request");
    let sources = Sources { stop: stop.clone(), ..house.sources.clone() };
    let router = match method.socket {
        Socket::Public => public(&sources, &house.config, PathBuf::from("/nowhere/s")),
        Socket::Admin => admin(&sources, &house.config, Levels::detached(Level::Error)),
    };
    let answer = async {
        let answer = router.oneshot(request).await.expect("an answer");
        if Status::from_header_map(answer.headers()).is_some() {
            return;
        }
        let mut body = answer.into_body();
        loop {
            let frame = body.frame().await.expect("a status before the end").expect("a body");
            if let Some(trailers) = frame.trailers_ref() {
                assert!(Status::from_header_map(trailers).is_some(), "an end without a status");
                return;
            }
            // The first answer is there: streams that would go on are ended as when the node agent stops.
            if !method.talks {
                stop.cancel();
            }
        }
    };
    let answer = async { tokio::time::timeout(PATIENCE, answer).await };
    house.runtime.block_on(answer).expect("an answer in time");
});

/// The messages of one request, as gRPC sends them.
fn frames(house: &House, method: &Method, with: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = message::Bytes(rest);
    let mut body = Vec::new();
    // One message is what most methods take; those that talk get up to four.
    let count = if method.talks { 1 + (with >> 6) } else { 1 };
    for number in 0..count {
        let encoded = if with & 8 == 0 {
            let piece = rest.len() / usize::from(count);
            rest[piece * usize::from(number)..][..piece].to_vec()
        } else {
            let mut made = message::message(&method.input, &mut bytes, 0);
            if let Some(svid) = method.input.get_field_by_name("svid")
                && with & 16 == 0
            {
                made.set_field(&svid, Value::String(house.token.clone()));
            }
            made.encode_to_vec()
        };
        body.push(0);
        body.extend(u32::try_from(encoded.len()).expect("short").to_be_bytes());
        body.extend(encoded);
    }
    body
}
