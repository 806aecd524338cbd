//! Cases 8 to 11: loops, hops, budgets, and contexts that are lost or kept.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use countersign::{Chain, Context, Mesh, Reason};
use futures::StreamExt as _;
use tokio::sync::oneshot;

use crate::fixture::{Member, OPEN, World, report, text_of};
use crate::forge::{Claims, Forge};

#[tokio::test]
async fn case_08_loops_are_refused_before_they_are_sent() {
    let world = World::new(OPEN);
    let planner = world.member("planner").await;
    let (coder, reviewer) = (world.member("coder").await, world.member("reviewer").await);
    assert_eq!(planner.task(&planner, "").await, "cycle_detected here");
    assert_eq!(planner.task(&coder, "planner").await, "cycle_detected here");
    assert_eq!(planner.task(&coder, "coder").await, "cycle_detected here");
    assert_eq!(
        planner.task(&coder, "reviewer planner").await,
        "cycle_detected here"
    );
    assert_eq!(
        planner.task(&coder, "reviewer coder").await,
        "cycle_detected here"
    );
    assert_eq!(planner.task(&coder, "reviewer").await, "done");
    assert_eq!(
        (planner.served(), coder.served(), reviewer.served()),
        (0, 5, 3)
    );
}

#[tokio::test]
async fn case_08_loops_that_are_sent_are_refused_by_the_callee() {
    let world = World::new(OPEN);
    let planner = world.member("planner").await;
    let (coder, reviewer) = (world.home.svid("coder"), world.home.svid("reviewer"));

    let own = Forge::start(&planner.svid, &planner.id);
    world
        .raw(&planner.svid)
        .present(&planner, &own)
        .await
        .is_refused(Reason::CycleDetected);
    let two = Forge::start(&planner.svid, coder.id()).then(&coder, &planner.id);
    world
        .raw(&coder)
        .present(&planner, &two)
        .await
        .is_refused(Reason::CycleDetected);
    let three = Forge::start(&planner.svid, coder.id())
        .then(&coder, reviewer.id())
        .then(&reviewer, &planner.id);
    let answer = world.raw(&reviewer).present(&planner, &three).await;
    answer.is_refused(Reason::CycleDetected);
    assert!(
        answer.text.contains("\"hop\":3") && answer.text.contains("\"retryable\":false"),
        "{}",
        answer.text
    );
    assert_eq!(planner.served(), 0);
}

#[tokio::test]
async fn case_08_with_reentry_1_a_workload_may_be_called_again_once() {
    let policy = OPEN.replace("actions", "reentry = 1\n actions");
    let world = World::new(&policy);
    let planner = world.member("planner").await;
    let (coder, _tester) = (world.member("coder").await, world.member("tester").await);
    assert_eq!(planner.task(&coder, "planner tester").await, "done");
    assert_eq!(planner.served(), 1);
    assert_eq!(
        planner.task(&coder, "planner coder planner").await,
        "cycle_detected here"
    );
}

#[tokio::test]
async fn case_09_five_hops_pass_by_default_and_the_sixth_does_not() {
    let world = World::new(OPEN);
    let planner = world.member("planner").await;
    let mut members = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        members.push(world.member(name).await);
    }
    let first = &members[0];
    for plan in ["", "b", "b c", "b c d", "b c d e"] {
        assert_eq!(planner.task(first, plan).await, "done", "{plan:?}");
    }
    assert_eq!(
        planner.task(first, "b c d e f").await,
        "hop_limit_exceeded here"
    );
    assert_eq!(members[5].served(), 0);

    // The same from a client that does not refuse by itself.
    let mut chain = Forge::start(&planner.svid, &first.id);
    for (caller, callee) in members.iter().zip(members.iter().skip(1)) {
        chain = chain.then(&caller.svid, &callee.id);
    }
    let raw = world.raw(&members[4].svid);
    raw.present(&members[5], &chain)
        .await
        .is_refused(Reason::HopLimitExceeded);
}

#[tokio::test]
async fn case_09_the_65th_call_of_an_edge_in_one_chain_is_refused() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    let chain = Chain::start(&planner.mesh).unwrap();
    let client = planner.client_of(&coder).grant(0);
    for call in 1..=64 {
        assert_eq!(
            chain.scope(report(&client, "")).await,
            "done",
            "call {call}"
        );
    }
    assert_eq!(
        chain.scope(report(&client, "")).await,
        "chain_budget_exhausted there"
    );
    assert_eq!(coder.served(), 64);
    assert_eq!(planner.task(&coder, "").await, "done", "another chain");
}

/// Presents `count` calls below the same first link; gives how many were served.
async fn siblings(
    world: &World,
    rogue: &Member,
    victim: &Member,
    first: &Forge,
    count: usize,
) -> usize {
    let raw = world.raw(&rogue.svid);
    let mut served = 0;
    for _ in 0..count {
        let last = |claims: &mut Claims| claims.budget = 0;
        let answer = raw
            .present(
                victim,
                &first.clone().then_with(&rogue.svid, &victim.id, last),
            )
            .await;
        match answer.reason() {
            "" => served += 1,
            reason => assert!(
                ["chain_budget_exhausted", "rate_limited"].contains(&reason),
                "{reason}"
            ),
        }
    }
    served
}

#[tokio::test]
async fn case_10_siblings_over_the_parents_budget_are_refused() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let (rogue, victim) = (world.member("scraper").await, world.member("victim").await);
    let first = Forge::start_with(&planner, &rogue.id, |c| c.budget = 3);
    assert_eq!(siblings(&world, &rogue, &victim, &first, 100).await, 3);
    assert_eq!(victim.served(), 3);
}

#[tokio::test]
async fn case_10_colluders_get_the_budget_of_the_last_honest_link() {
    let world = World::new(OPEN);
    let planner = world.home.svid("planner");
    let (one, two) = (world.member("scraper").await, world.member("fetcher").await);
    let victim = world.member("victim").await;
    let first = Forge::start_with(&planner, &one.id, |c| c.budget = 15);
    let mut served = siblings(&world, &one, &victim, &first, 20).await;
    // The first hands to the second as much as it likes, again and again.
    for _ in 0..5 {
        let second = first
            .clone()
            .then_with(&one.svid, &two.id, |c| c.budget = 14);
        served += siblings(&world, &two, &victim, &second, 20).await;
    }
    assert_eq!(served, 15);
}

/// Each member of a row calls the next in the row twice, whatever comes of it.
fn doubling(mesh: Mesh, next: Option<(String, String)>, served: Arc<AtomicUsize>) -> axum::Router {
    axum::Router::new().fallback(move || {
        let (mesh, next, served) = (mesh.clone(), next.clone(), Arc::clone(&served));
        async move {
            served.fetch_add(1, Ordering::SeqCst);
            if let Some((id, address)) = next {
                let client = mesh.client(id).unwrap().at(&address).unwrap();
                let twice = futures::future::join(report(&client, ""), report(&client, ""));
                let _ = twice.await;
            }
            "done"
        }
    })
}

#[tokio::test]
async fn case_10_a_fan_out_of_two_to_the_n_ends_at_the_budget() {
    let policy = OPEN.replace("new_chains", "budget = 20\n max_hops = 16\n new_chains");
    let world = World::new(&policy.replace("actions", "max_hops = 16\n actions"));
    let served = Arc::new(AtomicUsize::new(0));
    let mut members: Vec<Member> = Vec::new();
    let mut next = None;
    // Ten in a row could make 2 + 4 + … + 1,024 calls.
    for number in (0..10).rev() {
        let name = format!("m{number}");
        let count = Arc::clone(&served);
        let member = world
            .member_with(&name, |mesh| doubling(mesh, next.take(), count))
            .await;
        next = Some((member.id.to_string(), format!("https://{}", member.address)));
        members.push(member);
    }
    let planner = world.member("planner").await;
    let chain = Chain::start(&planner.mesh).unwrap();
    let first = planner.client_of(members.last().unwrap());
    for _ in 0..30 {
        chain.scope(report(&first, "")).await;
    }
    let served = served.load(Ordering::SeqCst);
    assert!(
        (10..=20).contains(&served),
        "{served} calls on a budget of 20"
    );
    assert_eq!(chain.context().remaining(), 0);
}

#[tokio::test]
async fn case_10_ten_calls_of_one_piece_of_work_charge_one_new_chain() {
    let world =
        World::new(&OPEN.replace("1000/s burst 1000\"\n}\nallow", "1/h burst 1\"\n}\nallow"));
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    let chain = Chain::start(&planner.mesh).unwrap();
    for call in 1..=10 {
        assert_eq!(
            chain.scope(planner.task(&coder, "")).await,
            "done",
            "call {call}"
        );
    }
    let another = Chain::start(&planner.mesh).unwrap();
    assert_eq!(
        another.scope(planner.task(&coder, "")).await,
        "new_chain_rate_limited there"
    );
    assert_eq!(
        planner.task(&coder, "").await,
        "new_chain_rate_limited there"
    );
    assert_eq!(coder.served(), 10);
}

#[tokio::test]
async fn a_refused_call_gives_its_grant_back_but_costs_one() {
    let world =
        World::new(&OPEN.replace("1000/s burst 1000\"\n}\nallow", "1/h burst 1\"\n}\nallow"));
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    assert_eq!(planner.task(&coder, "").await, "done");
    let chain = Chain::start(&planner.mesh).unwrap();
    assert_eq!(chain.context().remaining(), 256);
    let half = chain.context().split(NonZeroU16::new(2).unwrap());
    let client = planner.client_of(&coder).grant(half);
    assert_eq!(
        chain.scope(report(&client, "")).await,
        "new_chain_rate_limited there"
    );
    assert_eq!(chain.context().remaining(), 255);
}

#[tokio::test]
async fn a_share_of_a_split_pays_for_its_call_and_grants_the_rest() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    let chain = Chain::start(&planner.mesh).unwrap();
    let half = chain.context().split(NonZeroU16::new(2).unwrap());
    let client = planner.client_of(&coder).grant(half);
    assert_eq!(chain.scope(report(&client, "")).await, "done");
    assert_eq!(chain.context().remaining(), 128);
    assert_eq!(chain.scope(report(&client, "")).await, "done");
    assert_eq!(chain.context().remaining(), 0);
    assert_eq!(
        chain.scope(report(&client, "")).await,
        "chain_budget_exhausted here"
    );
}

#[tokio::test]
async fn case_11_a_task_that_lost_its_context_is_origination_denied() {
    let world = World::new(OPEN);
    let planner = world.member("planner").await;
    let _tester = world.member("tester").await;
    let tester = format!("https://{}", _tester.address);
    let coder = world
        .member_with("coder", move |mesh| {
            let client = mesh
                .client("spiffe://ai-agents.org/tester")
                .unwrap()
                .at(&tester)
                .unwrap();
            axum::Router::new().fallback(move || {
                let client = client.clone();
                async move {
                    let lost = tokio::spawn({
                        let client = client.clone();
                        async move { report(&client, "").await }
                    });
                    let context = Context::current().unwrap();
                    let kept = context.spawn({
                        let client = client.clone();
                        async move { report(&client, "").await }
                    });
                    let scoped =
                        tokio::spawn(context.scope(async move { report(&client, "").await }));
                    format!(
                        "{}, {}, {}",
                        lost.await.unwrap(),
                        kept.await.unwrap().unwrap(),
                        scoped.await.unwrap()
                    )
                }
            })
        })
        .await;
    assert_eq!(
        planner.task(&coder, "").await,
        "origination_denied here, done, done"
    );
}

#[tokio::test]
async fn case_11_a_context_is_there_in_the_response_body() {
    let world = World::new(OPEN);
    let planner = world.member("planner").await;
    let tester = world.member("tester").await;
    let address = format!("https://{}", tester.address);
    let coder = world
        .member_with("coder", move |mesh| {
            let client = mesh
                .client("spiffe://ai-agents.org/tester")
                .unwrap()
                .at(&address)
                .unwrap();
            axum::Router::new().fallback(move || {
                let client = client.clone();
                async move {
                    let calls = futures::stream::iter(0..3).then(move |_| {
                        let client = client.clone();
                        async move {
                            Ok::<_, std::convert::Infallible>(format!(
                                "{} ",
                                report(&client, "").await
                            ))
                        }
                    });
                    Body::from_stream(calls)
                }
            })
        })
        .await;
    assert_eq!(planner.task(&coder, "").await, "done done done ");
    assert_eq!(tester.served(), 3);
}

#[tokio::test]
async fn a_spawned_task_ends_with_the_call_it_belongs_to() {
    let world = World::new(OPEN);
    let planner = world.member("planner").await;
    let (ended, end) = oneshot::channel::<Option<()>>();
    let ended = Arc::new(std::sync::Mutex::new(Some(ended)));
    let coder = world
        .member_with("coder", move |_| {
            axum::Router::new().fallback(move || {
                let ended = ended.lock().unwrap().take().unwrap();
                let task = Context::current()
                    .unwrap()
                    .spawn(std::future::pending::<()>());
                tokio::spawn(async move { ended.send(task.await.unwrap()) });
                async { "answered" }
            })
        })
        .await;
    assert_eq!(planner.task(&coder, "").await, "answered");
    assert_eq!(
        end.await.unwrap(),
        None,
        "the task was dropped, not finished"
    );
}

#[tokio::test]
async fn a_cancelled_request_takes_its_handler_and_tasks_along() {
    struct Dropped(Option<oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            if let Some(sender) = self.0.take() {
                let _ = sender.send(());
            }
        }
    }
    let world = World::new(OPEN);
    let planner = world.member("planner").await;
    let (begun, has_begun) = oneshot::channel();
    let (gone, is_gone) = oneshot::channel();
    let (task_gone, task_is_gone) = oneshot::channel();
    let parts = Arc::new(std::sync::Mutex::new(Some((
        begun,
        Dropped(Some(gone)),
        Dropped(Some(task_gone)),
    ))));
    let coder = world
        .member_with("coder", move |_| {
            axum::Router::new().fallback(move || {
                let (begun, gone, task_gone) = parts.lock().unwrap().take().unwrap();
                async move {
                    let _gone = gone;
                    let _task = Context::current().unwrap().spawn(async move {
                        let _task_gone = task_gone;
                        std::future::pending::<()>().await;
                    });
                    begun.send(()).unwrap();
                    std::future::pending::<&str>().await
                }
            })
        })
        .await;
    let client = planner.client_of(&coder);
    let call = tokio::spawn(async move { report(&client, "").await });
    has_begun.await.unwrap();
    call.abort();
    is_gone.await.unwrap();
    task_is_gone.await.unwrap();
}

#[tokio::test]
async fn a_request_goes_to_the_callee_of_its_client_and_nowhere_else() {
    let world = World::new(OPEN);
    let (planner, coder) = (world.member("planner").await, world.member("coder").await);
    let client = planner.client_of(&coder);
    let elsewhere = http::Request::post("https://other.example/tasks")
        .body(String::new())
        .unwrap();
    let error = client.http().send(elsewhere).await.unwrap_err();
    assert!(
        error.to_string().contains("leave scheme and host out"),
        "{error}"
    );

    // Somebody else at the callee's address is not called.
    let tester = world.member("tester").await;
    let wrong = planner
        .mesh
        .client(coder.id.as_str())
        .unwrap()
        .at(format!("https://{}", tester.address))
        .unwrap();
    let error = wrong
        .http()
        .send(http::Request::post("/tasks").body(String::new()).unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(error, countersign::CallError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("spiffe://ai-agents.org/tester"),
        "{error}"
    );
    assert_eq!(tester.served(), 0);

    // An error of the handler's own is an answer.
    let failing = world.member_with("failing", |_| axum::Router::new()).await;
    let answer = planner
        .client_of(&failing)
        .http()
        .send(http::Request::post("/tasks").body("").unwrap())
        .await
        .unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            text_of(answer.into_body()).await.as_str()
        ),
        (404, "")
    );
}
