//! Cases 15 and 16: rotation, signatures that are found false late, and calls without a chain.

use std::sync::Arc;

use axum::body::Body;
use countersign::{Chain, Permitted, Reason, Refused};
use countersign_identity::UnixTime;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use tokio::sync::{mpsc, oneshot};

use crate::fixture::{NOW, OPEN, World, ok, report, task_request};
use crate::forge::{self, Forge, head};
use crate::grpc::{self, HEALTH};

#[tokio::test]
async fn case_15_svids_rotate_on_both_sides_without_one_refusal() {
    let world = World::new(OPEN);
    let (mut planner, mut coder) = (world.member("planner").await, world.member("coder").await);
    let client = planner.client_of(&coder);
    let (report_in, mut reports) = mpsc::channel(1024);
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (client, report_in) = (client.clone(), report_in.clone());
        callers.push(tokio::spawn(async move {
            while report_in.send(report(&client, "").await).await.is_ok() {}
        }));
    }
    let mut bundles = world.bundles.clone();
    bundles.insert(Arc::new(world.home.bundle()));
    for round in 0..6 {
        for _ in 0..20 {
            assert_eq!(reports.recv().await.unwrap(), "done", "round {round}");
        }
        let rotated = if round % 2 == 0 {
            &mut planner
        } else {
            &mut coder
        };
        let name = rotated.id.path().trim_start_matches('/').to_owned();
        let fresh = world.home.svid(&name);
        let serial = fresh.leaf().serial.clone();
        let mesh = rotated.mesh.clone();
        let (seen, ()) = tokio::join!(mesh.updated(), async {
            rotated.feed.send(fresh, bundles.clone()).unwrap();
        });
        assert_eq!(seen.unwrap().serial(), serial);
    }
    for _ in 0..20 {
        assert_eq!(reports.recv().await.unwrap(), "done");
    }
    drop(reports);
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn case_15_connections_after_a_rotation_show_the_new_svid() {
    let world = World::new(OPEN);
    let mut planner = world.member("planner").await;
    let coder = world
        .member_with("coder", |_| {
            axum::Router::new().fallback(|request: axum::extract::Request| async move {
                let connection = request
                    .extensions()
                    .get::<Arc<countersign_transport::Connection>>()
                    .unwrap();
                connection.peer.as_ref().unwrap().serial.clone()
            })
        })
        .await;
    let client = planner.client_of(&coder);
    assert_eq!(report(&client, "").await, planner.svid.leaf().serial);
    let fresh = world.home.svid("planner");
    planner
        .feed
        .send(fresh.clone(), world.bundles.clone())
        .unwrap();
    assert_eq!(report(&client, "").await, fresh.leaf().serial);
}

#[tokio::test]
async fn case_15_a_bad_update_leaves_the_last_good_one() {
    let world = World::new(OPEN);
    let (mut planner, coder) = (world.member("planner").await, world.member("coder").await);
    let stranger = crate::fixture::Authority::new("ai-agents.org").svid("planner");
    let error = planner
        .feed
        .send(stranger, world.bundles.clone())
        .unwrap_err()
        .to_string();
    assert!(error.contains("refused by every peer"), "{error}");
    assert_eq!(planner.task(&coder, "").await, "done");
}

#[tokio::test]
async fn case_15_a_late_signature_failure_ends_the_exchange() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let tester = world.member("tester").await;
    let address = format!("https://{}", tester.address);
    // Answers at once with the head; once the caller has it, calls on from within the body.
    let (head_is_out, go_on) = oneshot::channel::<()>();
    let go_on = Arc::new(std::sync::Mutex::new(Some(go_on)));
    let coder = world
        .member_with("coder", move |mesh| {
            let client = mesh
                .client("spiffe://ai-agents.org/tester")
                .unwrap()
                .at(&address)
                .unwrap();
            axum::Router::new().fallback(move || {
                let (client, go_on) = (client.clone(), go_on.lock().unwrap().take());
                let call = futures::stream::once(async move {
                    drop(go_on.expect("one call").await);
                    Ok::<_, std::convert::Infallible>(report(&client, "").await)
                });
                async { Body::from_stream(call) }
            })
        })
        .await;
    let mut chain = Forge::start(&planner, &coder.id);
    let mut link = chain.links.remove(0);
    let end = link.len();
    link[end - 40] ^= 1;
    let value = forge::byte_sequence(&[head(4, 1), link].concat());
    let pool = world
        .raw(&planner)
        .pool(&coder, &[countersign_identity::tls::ALPN_H2]);
    let answer = pool
        .request(task_request(&coder, &[("agent-chain", Some(value))]))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    head_is_out.send(()).unwrap();
    let broken = answer.into_body().collect().await.unwrap_err();
    assert_eq!(reset_of(&broken), Some(h2::Reason::CANCEL));
    assert_eq!(tester.served(), 0);

    // The same first link, now behind a further one: were it cached, nobody would look at it again.
    let scraper = world.home.svid("scraper");
    let mut chain = Forge::start(&planner, scraper.id());
    let honest = chain.clone();
    let mut link = chain.links.remove(0);
    let end = link.len();
    link[end - 40] ^= 1;
    let mut behind = Forge::default();
    behind.push(link);
    let mut last = honest.last().clone();
    (last.iss, last.chain, last.budget, last.aud) = (None, None, 1, coder.id.to_string());
    behind.add(&scraper, last, &forge::Style::default());
    let fields = [
        ("agent-chain", Some(behind.http())),
        ("agent-chain-certs", honest.all_certs()),
    ];
    world
        .raw(&scraper)
        .present_fields(&coder, &fields)
        .await
        .is_refused(Reason::ChainSignatureInvalid);
}

fn optional_policy() -> String {
    format!(
        "{}\n{}",
        OPEN.replace(
            "from    = [\"spiffe://ai-agents.org/*\"]",
            "from    = [\"spiffe://ai-agents.org/coder\"]"
        )
        .replace(
            "spiffe://ai-agents.org/rogue",
            "spiffe://ai-agents.org/coder"
        )
        .replace(
            "to      = [\"spiffe://ai-agents.org/*\"]",
            "to      = [\"spiffe://ai-agents.org/tester\"]"
        ),
        r#"
allow "an old system reports" {
  from    = ["spiffe://ai-agents.org/legacy"]
  to      = ["spiffe://ai-agents.org/coder"]
  actions = ["POST /tasks"]
  chain   = "optional"
}
"#
    )
}

#[tokio::test]
async fn case_16_a_handler_without_a_chain_may_not_originate() {
    let world = World::new(&optional_policy());
    let tester = world.member("tester").await;
    let address = format!("https://{}", tester.address);
    let coder = world
        .member_with("coder", move |mesh| {
            let client = mesh
                .client("spiffe://ai-agents.org/tester")
                .unwrap()
                .at(&address)
                .unwrap();
            axum::Router::new().fallback(move |request: axum::extract::Request| {
                let (client, mesh) = (client.clone(), mesh.clone());
                async move {
                    let permitted = request.extensions().get::<Permitted>().unwrap().clone();
                    let started = Chain::start(&mesh).unwrap_err();
                    let from_body = futures::stream::once({
                        let client = client.clone();
                        async move {
                            Ok::<_, std::convert::Infallible>(format!(
                                ", {}",
                                report(&client, "").await
                            ))
                        }
                    });
                    let text = format!(
                        "{} by {:?}, {}, {}",
                        permitted.caller(),
                        permitted.rule(),
                        started.refused().unwrap().reason(),
                        report(&client, "").await
                    );
                    let text = futures::stream::once(async { Ok(text) });
                    Body::from_stream(text.chain(from_body))
                }
            })
        })
        .await;
    let answer = world
        .raw(&world.home.svid("legacy"))
        .present_fields(&coder, &[])
        .await;
    answer.is_served();
    let expected = "spiffe://ai-agents.org/legacy by \"an old system reports\", origination_denied, \
                    origination_denied here, origination_denied here";
    assert_eq!(answer.text, expected);
    assert_eq!(tester.served(), 0);
    // Outside a handler the workload may start chains.
    assert_eq!(coder.task(&tester, "").await, "done");
}

#[tokio::test]
async fn grpc_calls_carry_the_chain_and_refusals_their_details() {
    let world = World::new(&OPEN.replace("\"POST /tasks\"", HEALTH));
    let (planner, coder) = (
        world
            .member_with("planner", |mesh| grpc::router(&mesh))
            .await,
        world.member_with("coder", |mesh| grpc::router(&mesh)).await,
    );
    assert_eq!(
        grpc::check(&planner.client_of(&coder)).await.unwrap(),
        "SERVING"
    );

    // Refused by this process: our own sentence, and the reason for programs.
    let status = grpc::check(&coder.client_of(&planner)).await.unwrap_err();
    let refused = Refused::try_from(&status).unwrap();
    assert_eq!(
        (refused.reason(), status.code()),
        (Reason::OriginationDenied, tonic::Code::PermissionDenied)
    );
    assert_eq!(status.message(), Reason::OriginationDenied.sentence());

    // Refused by the callee.
    let chain = Chain::start(&planner.mesh).unwrap();
    let client = planner.client_of(&coder).grant(0);
    for _ in 0..64 {
        chain.scope(grpc::check(&client)).await.unwrap();
    }
    let status = chain.scope(grpc::check(&client)).await.unwrap_err();
    let refused = Refused::try_from(&status).unwrap();
    assert_eq!(
        (refused.reason(), status.code()),
        (
            Reason::ChainBudgetExhausted,
            tonic::Code::FailedPrecondition
        )
    );
    assert_eq!(status.message(), Reason::ChainBudgetExhausted.sentence());
}

#[tokio::test]
async fn a_grpc_caller_that_waits_only_so_long_is_answered_in_time() {
    let world = World::new(&OPEN.replace("\"POST /tasks\"", HEALTH));
    let (planner, coder) = (
        world.member("planner").await,
        world.member_with("coder", |mesh| grpc::router(&mesh)).await,
    );
    use countersign_proto::grpc::health::v1::{HealthCheckRequest, health_client::HealthClient};
    let mut request = tonic::Request::new(HealthCheckRequest {
        service: "never".to_owned(),
    });
    request.set_timeout(std::time::Duration::from_millis(50));
    let status = HealthClient::new(planner.client_of(&coder).grpc())
        .check(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_running_stream_is_reset_at_the_chains_deadline() {
    use countersign_proto::grpc::health::v1::{HealthCheckRequest, health_client::HealthClient};
    let policy = OPEN
        .replace("\"POST /tasks\"", HEALTH)
        .replace("new_chains", "deadline = \"1s\"\n new_chains");
    let world = World::new(&policy);
    let (planner, coder) = (
        world.member("planner").await,
        world.member_with("coder", |mesh| grpc::router(&mesh)).await,
    );
    // By the library's client.
    let mut client = HealthClient::new(planner.client_of(&coder).grpc());
    let mut stream = client
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(
        first.status().as_str_name(),
        "SERVING",
        "the context is there within the stream"
    );
    assert!(stream.message().await.is_err(), "cut at the deadline");

    // By a client that would wait for ever.
    let raw = world
        .raw(&planner.svid)
        .pool(&coder, &[countersign_identity::tls::ALPN_H2]);
    let chain = Forge::start_with(&planner.svid, &coder.id, |c| {
        (c.action, c.exp) = ("POST /grpc.health.v1.Health/Watch".to_owned(), NOW + 1);
    });
    let mut request = task_request(&coder, &[]);
    *request.uri_mut() = format!("https://{}/grpc.health.v1.Health/Watch", coder.address)
        .parse()
        .unwrap();
    *request.version_mut() = http::Version::HTTP_2;
    *request.body_mut() = http_body_util::Full::from(vec![0; 5]);
    let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, chain.encode());
    request
        .headers_mut()
        .insert("agent-chain-bin", value.parse().unwrap());
    request
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    let mut body = raw.request(request).await.unwrap().into_body();
    let error = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the stream ended as if all were said"),
        }
    };
    assert_eq!(reset_of(&error), Some(h2::Reason::CANCEL));
}

fn reset_of(error: &hyper::Error) -> Option<h2::Reason> {
    std::error::Error::source(error)?
        .downcast_ref::<h2::Error>()?
        .reason()
}

#[tokio::test]
async fn a_handler_that_hangs_is_answered_for_at_the_deadline() {
    let policy = OPEN.replace("new_chains", "deadline = \"1s\"\n new_chains");
    let world = World::new(&policy);
    let planner = world.home.svid("planner");
    let (gone, is_gone) = oneshot::channel::<()>();
    let gone = Arc::new(std::sync::Mutex::new(Some(gone)));
    let coder = world
        .member_with("coder", move |_| {
            axum::Router::new().fallback(move || {
                let gone = gone.lock().unwrap().take();
                async move {
                    let _gone = gone;
                    std::future::pending::<()>().await;
                    ok("never")
                }
            })
        })
        .await;
    let chain = Forge::start(&planner, &coder.id);
    world
        .raw(&planner)
        .present(&coder, &chain)
        .await
        .is_refused(Reason::ChainDeadlinePassed);
    assert!(is_gone.await.is_err(), "the handler was dropped");
}

#[tokio::test]
async fn servers_of_ones_own_work_behind_the_listener_and_the_layer() {
    use tower::Layer as _;
    let world = World::new(&OPEN.replace(
        "\"POST /tasks\"",
        "\"POST /tasks\", \"/grpc.health.v1.Health/*\"",
    ));
    let planner = world.member("planner").await;

    let (mesh, _feed) = world.mesh(world.home.svid("tonic"));
    let listener = crate::fixture::own_listener(&mesh).await;
    let at = format!("https://{}", listener.local_addr());
    let service =
        countersign_proto::grpc::health::v1::health_server::HealthServer::new(grpc::Healthy);
    let server = tonic::transport::Server::builder()
        .layer(mesh.inbound_layer())
        .add_service(mesh.grpc(service));
    let running = tokio::spawn(server.serve_with_incoming(listener));
    let client = planner
        .mesh
        .client("spiffe://ai-agents.org/tonic")
        .unwrap()
        .at(&at)
        .unwrap();
    assert_eq!(grpc::check(&client).await.unwrap(), "SERVING");
    running.abort();

    let (mesh, _feed) = world.mesh(world.home.svid("axum"));
    let listener = crate::fixture::own_listener(&mesh).await;
    let at = format!("https://{}", listener.local_addr());
    let inner = axum::Router::new().fallback(|| async {
        countersign::Context::current().map_or("no context".to_owned(), |context| {
            context.originator().to_string()
        })
    });
    let router = axum::Router::new().fallback_service(mesh.inbound_layer().layer(inner));
    let service = router.into_make_service_with_connect_info::<countersign::PeerInfo>();
    let running = tokio::spawn(async move { axum::serve(listener, service).await });
    let client = planner
        .mesh
        .client("spiffe://ai-agents.org/axum")
        .unwrap()
        .at(&at)
        .unwrap();
    assert_eq!(report(&client, "").await, "spiffe://ai-agents.org/planner");
    running.abort();
}

#[tokio::test]
async fn a_service_without_the_layer_serves_nobody() {
    let world = World::new(&OPEN.replace("\"POST /tasks\"", HEALTH));
    let planner = world.member("planner").await;
    let (mesh, _feed) = world.mesh(world.home.svid("tonic"));
    let listener = crate::fixture::own_listener(&mesh).await;
    let at = format!("https://{}", listener.local_addr());
    let service =
        countersign_proto::grpc::health::v1::health_server::HealthServer::new(grpc::Healthy);
    let server = tonic::transport::Server::builder().add_service(mesh.grpc(service));
    let running = tokio::spawn(server.serve_with_incoming(listener));
    let client = planner
        .mesh
        .client("spiffe://ai-agents.org/tonic")
        .unwrap()
        .at(&at)
        .unwrap();
    assert_eq!(
        grpc::check(&client).await.unwrap_err().code(),
        tonic::Code::Internal
    );
    running.abort();
}

#[tokio::test]
async fn a_withdrawn_or_expired_identity_makes_no_new_calls() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    planner.feed.withdraw();
    let error = planner
        .client_of(&coder)
        .http()
        .send(http::Request::post("/tasks").body("").unwrap())
        .await;
    assert!(
        matches!(error, Err(countersign::CallError::NoIdentity(_))),
        "{error:?}"
    );

    let tester = world.member("tester").await;
    world.clock.set(UnixTime::from_secs(NOW + 7200));
    assert!(
        tester
            .mesh
            .svid()
            .unwrap_err()
            .to_string()
            .contains("expired")
    );
}
