//! Cases 5 to 7: the form of chains and signatures, and the action.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::Reason;
use countersign_identity::X509Svid;
use countersign_proto::grpc::health::v1::health_server::HealthServer;

use crate::fixture::{Member, NOW, OPEN, Raw, World, report};
use crate::forge::{self, Claims, Forge, Style, TASKS, bytes, head, int, text};

/// A callee, a caller, and a chain whose first signature nobody can check: any cryptography would answer with another
/// reason than `chain_malformed`.
struct Form {
    raw: Raw,
    callee: Member,
    planner: X509Svid,
    coder: X509Svid,
    _world: World,
}

impl Form {
    async fn new() -> Self {
        let world = World::new(OPEN);
        let callee = world.member("reviewer").await;
        let (planner, coder) = (world.home.svid("planner"), world.home.svid("coder"));
        Self {
            raw: world.raw(&coder),
            callee,
            planner,
            coder,
            _world: world,
        }
    }

    fn chain(&self) -> Forge {
        Forge::start(&self.planner, self.coder.id()).then(&self.coder, &self.callee.id)
    }

    fn claims(&self) -> Claims {
        Forge::start(&self.planner, self.coder.id()).last().clone()
    }

    /// A chain whose first link has this form.
    fn first_link(&self, style: &Style) -> Forge {
        let mut chain = Forge::default();
        chain.add(&self.planner, self.claims(), style);
        chain.then_with(&self.coder, &self.callee.id, |_| {})
    }

    #[track_caller]
    fn send(&self, chain: &[u8]) -> impl Future<Output = ()> {
        let value = forge::byte_sequence(chain);
        let at = std::panic::Location::caller();
        async move {
            let answer = self
                .raw
                .present_fields(&self.callee, &[("agent-chain", Some(value))])
                .await;
            assert_eq!(answer.reason(), "chain_malformed", "the chain sent at {at}");
        }
    }

    async fn lines(&self, fields: &[(&str, Option<String>)]) -> String {
        self.raw
            .present_fields(&self.callee, fields)
            .await
            .reason()
            .to_owned()
    }
}

#[tokio::test]
async fn case_05_the_field_has_one_form() {
    let form = Form::new().await;
    let chain = form.chain();
    let (value, encoded) = (chain.http(), chain.encode());
    let one = |value: String| [("agent-chain", Some(value))];
    assert_eq!(
        form.lines(&one(value.clone())).await,
        "chain_key_unknown",
        "well formed, and only that"
    );

    let twice = [
        ("agent-chain", Some(value.clone())),
        ("agent-chain", Some(value.clone())),
    ];
    assert_eq!(form.lines(&twice).await, "chain_malformed");
    assert_eq!(
        form.lines(&one(format!("{value},{value}"))).await,
        "chain_malformed"
    );
    assert_eq!(
        form.lines(&one(format!("{value}, "))).await,
        "chain_malformed"
    );
    let both = [
        ("agent-chain", Some(value.clone())),
        ("agent-chain-bin", Some(STANDARD.encode(&encoded))),
    ];
    assert_eq!(form.lines(&both).await, "chain_malformed");
    let other = [("agent-chain-bin", Some(STANDARD.encode(&encoded)))];
    assert_eq!(form.lines(&other).await, "chain_malformed");
    let certs_twice = [
        ("agent-chain", Some(value.clone())),
        ("agent-chain-certs", chain.certs()),
        ("agent-chain-certs", chain.certs()),
    ];
    assert_eq!(form.lines(&certs_twice).await, "chain_malformed");
    let certs_of_the_other = [
        ("agent-chain", Some(value.clone())),
        ("agent-chain-certs-bin", chain.certs()),
    ];
    assert_eq!(form.lines(&certs_of_the_other).await, "chain_malformed");

    let mut padded = encoded.clone();
    while padded.len() % 3 == 0 {
        padded.push(0);
    }
    let unpadded = STANDARD.encode(&padded).trim_end_matches('=').to_owned();
    assert_eq!(
        form.lines(&one(format!(":{unpadded}:"))).await,
        "chain_malformed"
    );
    assert_eq!(
        form.lines(&one(format!("{value};a=1"))).await,
        "chain_malformed"
    );
    assert_eq!(
        form.lines(&one(value.trim_matches(':').to_owned())).await,
        "chain_malformed"
    );
    assert_eq!(
        form.lines(&one(value.replacen(':', ": ", 1))).await,
        "chain_malformed"
    );
    assert_eq!(form.lines(&one(String::new())).await, "chain_malformed");
}

#[tokio::test]
async fn case_05_the_encoding_has_one_form() {
    let form = Form::new().await;
    let chain = form.chain();
    let honest = chain.encode();

    form.send(&[honest.clone(), vec![0]].concat()).await;
    form.send(&honest[..honest.len() - 1]).await;
    form.send(&[vec![0x98, 2], honest[1..].to_vec()].concat())
        .await;
    form.send(&[vec![0x9f], honest[1..].to_vec(), vec![0xff]].concat())
        .await;
    form.send(&[vec![0xd2], honest.clone()].concat()).await;
    form.send(&[0x80]).await;

    let mut unprotected = chain.links[0].clone();
    let at = unprotected.iter().position(|b| *b == 0xa0).unwrap();
    unprotected[at] = 0xa1;
    unprotected.splice(at + 1..at + 1, [0x01, 0x01]);
    form.send(&[head(4, 2), unprotected, chain.links[1].clone()].concat())
        .await;

    let many = |count: usize| [head(4, count as u64), chain.links[1].repeat(count)].concat();
    form.send(&many(17)).await;
    let long = Forge::start_with(&form.planner, form.coder.id(), |c| {
        c.action = format!("POST /{}", "a".repeat(1015));
    });
    let mut too_long = long.clone();
    while too_long.encode().len() <= 6_000 {
        too_long = too_long.then_with(&form.coder, &form.callee.id, |c| {
            c.budget = c.budget.saturating_sub(1);
        });
    }
    form.send(&too_long.encode()).await;
}

#[tokio::test]
async fn case_05_headers_and_payloads_have_one_form_too() {
    let form = Form::new().await;
    let payloads: [fn(Vec<u8>) -> Vec<u8>; 8] = [
        // An unknown key, in its right place at the end.
        |p| [head(5, 10), p[1..].to_vec(), int(-70_009), int(1)].concat(),
        // A defaulted claim with its default.
        |p| [head(5, 10), p[1..].to_vec(), int(-70_005), int(0)].concat(),
        // A claim of what comes later.
        |p| [head(5, 10), p[1..].to_vec(), int(-70_005), int(1)].concat(),
        // A duplicate of the last claim.
        |p| [head(5, 10), p[1..].to_vec(), int(-70_006), bytes(&[7; 16])].concat(),
        // An indefinite map.
        |p| [vec![0xbf], p[1..].to_vec(), vec![0xff]].concat(),
        // A long head.
        |p| [vec![0xb8, 9], p[1..].to_vec()].concat(),
        // Bytes after the end.
        |p| [p, vec![0]].concat(),
        // The first claim is missing.
        |p| {
            [
                head(5, 8),
                p[1 + 1 + text("spiffe://ai-agents.org/planner").len()..].to_vec(),
            ]
            .concat()
        },
    ];
    for (number, payload) in payloads.into_iter().enumerate() {
        let style = Style {
            payload: Some(payload),
            ..Style::default()
        };
        let value = form.first_link(&style).http();
        assert_eq!(
            form.lines(&[("agent-chain", Some(value))]).await,
            "chain_malformed",
            "payload {number}"
        );
    }
    let headers: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |h| [head(5, 3), h[1..].to_vec(), int(5), int(1)].concat(),
        |h| {
            [
                head(5, 3),
                h[1..].to_vec(),
                int(4),
                h[h.len() - 34..].to_vec(),
            ]
            .concat()
        },
        |h| [vec![0xb8, 2], h[1..].to_vec()].concat(),
        |h| [h, vec![0]].concat(),
    ];
    for (number, header) in headers.into_iter().enumerate() {
        let style = Style {
            header: Some(header),
            ..Style::default()
        };
        let value = form.first_link(&style).http();
        assert_eq!(
            form.lines(&[("agent-chain", Some(value))]).await,
            "chain_malformed",
            "header {number}"
        );
    }
}

#[tokio::test]
async fn case_06_signatures_have_one_form() {
    let form = Form::new().await;
    let styles = [
        (
            "EdDSA",
            Style {
                alg: Some(-8),
                ..Style::default()
            },
        ),
        (
            "zero",
            Style {
                signature: Some(vec![0; 64]),
                ..Style::default()
            },
        ),
        (
            "high s",
            Style {
                high_s: true,
                ..Style::default()
            },
        ),
        (
            "short",
            Style {
                signature: Some(vec![1; 63]),
                ..Style::default()
            },
        ),
    ];
    for (name, style) in styles {
        let value = form.first_link(&style).http();
        assert_eq!(
            form.lines(&[("agent-chain", Some(value))]).await,
            "chain_malformed",
            "{name}"
        );
    }
}

#[tokio::test]
async fn case_06_an_algorithm_that_the_key_does_not_imply_is_refused() {
    let form = Form::new().await;
    let style = Style {
        alg: Some(-35),
        signature: Some(vec![1; 96]),
        ..Style::default()
    };
    let chain = form.first_link(&style);
    form.raw
        .present(&form.callee, &chain)
        .await
        .is_refused(Reason::ChainSignatureInvalid);
}

#[tokio::test]
async fn case_06_an_altered_byte_in_an_earlier_link_is_refused() {
    let form = Form::new().await;
    let chain = form.chain();
    let (first, second) = (chain.links[0].clone(), chain.links[1].clone());
    // Every 7th byte, so that all parts of the link are met.
    for at in (0..first.len()).step_by(7) {
        let mut altered = first.clone();
        altered[at] ^= 1;
        let value = forge::byte_sequence(&[head(4, 2), altered, second.clone()].concat());
        let fields = [
            ("agent-chain", Some(value)),
            ("agent-chain-certs", chain.certs()),
        ];
        // Many failures empty the peer's failure bucket: that is a refusal too.
        assert_ne!(
            form.lines(&fields).await,
            "",
            "byte {at} of {}",
            first.len()
        );
    }
    assert_eq!(form.callee.served(), 0);
}

#[tokio::test]
async fn case_06_with_verify_always_any_altered_byte_is_refused() {
    let world = World::new(&format!("defaults {{ verify = \"always\" }}\n{OPEN}"));
    let planner = world.home.svid("planner");
    let coder = world.member("coder").await;
    let raw = world.raw(&planner);
    let chain = Forge::start(&planner, &coder.id);
    let link = &chain.links[0];
    for at in (0..link.len()).step_by(7) {
        let mut altered = link.clone();
        altered[at] ^= 1;
        let value = forge::byte_sequence(&[head(4, 1), altered].concat());
        let answer = raw
            .present_fields(&coder, &[("agent-chain", Some(value))])
            .await;
        assert_ne!(answer.reason(), "", "byte {at} of {}", link.len());
    }
    assert_eq!(coder.served(), 0);
}

#[tokio::test]
async fn case_06_a_false_last_signature_fails_before_the_next_link() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let (coder, reviewer) = (world.member("coder").await, world.member("reviewer").await);
    let raw = world.raw(&planner);
    let mut honest = Forge::start(&planner, &coder.id);
    let mut link = honest.links.remove(0);
    let end = link.len();
    link[end - 40] ^= 1;
    let value = Some(forge::byte_sequence(&[head(4, 1), link].concat()));

    // The handler calls on: the check fails before a link is made, and the exchange ends with that reason.
    let mut request = crate::fixture::task_request(&coder, &[("agent-chain", value)]);
    *request.body_mut() = http_body_util::Full::from("reviewer");
    let answer = raw.send(&coder, request).await.unwrap();
    answer.is_refused(Reason::ChainSignatureInvalid);
    assert_eq!((coder.served(), reviewer.served()), (1, 0));
}

#[tokio::test]
async fn case_07_an_action_unlike_the_request_is_action_denied() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let coder = world.member("coder").await;
    let raw = world.raw(&planner);
    for action in [
        "POST /task",
        "POST /tasks/",
        "PUT /tasks",
        "POST /tasks?x=1",
    ] {
        let chain = Forge::start_with(&planner, &coder.id, |c| c.action = action.to_owned());
        raw.present(&coder, &chain)
            .await
            .is_refused(Reason::ActionDenied);
    }
    // And a request that no rule allows, rightly signed.
    let chain = Forge::start_with(&planner, &coder.id, |c| c.action = "GET /tasks".to_owned());
    let mut request = crate::fixture::task_request(&coder, &[("agent-chain", Some(chain.http()))]);
    *request.method_mut() = http::Method::GET;
    raw.send(&coder, request)
        .await
        .unwrap()
        .is_refused(Reason::ActionDenied);
    // The query is no part of the action.
    let chain = Forge::start(&planner, &coder.id);
    let mut request = crate::fixture::task_request(&coder, &[("agent-chain", Some(chain.http()))]);
    *request.uri_mut() = format!("https://{}/tasks?model=small", coder.address)
        .parse()
        .unwrap();
    raw.send(&coder, request).await.unwrap().is_served();
    assert_eq!(TASKS, "POST /tasks");
}

#[tokio::test]
async fn case_07_a_grpc_path_under_another_content_type_is_415() {
    let policy = OPEN.replace("\"POST /tasks\"", "\"/grpc.health.v1.Health/*\"");
    let world = World::new(&policy);
    let planner = world.home.svid("planner");
    let coder = world
        .member_with("coder", |mesh| {
            let service = HealthServer::from_arc(Arc::new(crate::grpc::Healthy));
            tonic::service::Routes::new(mesh.grpc(service)).into_axum_router()
        })
        .await;
    let path = "/grpc.health.v1.Health/Check";
    for content_type in [
        "application/json",
        "application/grpc-web",
        "application/grpcx",
        "text/plain",
    ] {
        let chain = Forge::start_with(&planner, &coder.id, |c| c.action = format!("POST {path}"));
        let mut request =
            crate::fixture::task_request(&coder, &[("agent-chain", Some(chain.http()))]);
        *request.uri_mut() = format!("https://{}{path}", coder.address).parse().unwrap();
        request
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
        let answer = world.raw(&planner).send(&coder, request).await.unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (415, ""),
            "{content_type}"
        );
    }
    let (mesh, _feed) = world.mesh(planner);
    let client = mesh
        .client(coder.id.as_str())
        .unwrap()
        .at(format!("https://{}", coder.address))
        .unwrap();
    assert_eq!(crate::grpc::check(&client).await.unwrap(), "SERVING");
    assert_eq!(
        report(&client, "").await,
        "action_denied there",
        "no rule allows POST /tasks"
    );
    assert_eq!(NOW % 100, 0);
}
