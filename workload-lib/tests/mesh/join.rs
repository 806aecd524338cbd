//! Joining by the Workload API, and what happens when the node agent changes its mind or goes away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign::{Event, JoinError, Mesh, MeshBuilder, SvidPicker};
use countersign_identity::{KeyType, PrivateKey, X509Svid};
use tempfile::TempDir;

use crate::agent::{Agent, Says, svids};
use crate::fixture::{Authority, HOUR, OPEN, World, now, report};
use crate::forge::Forge;

/// A folder with a policy file, for a node agent's socket.
fn folder(policy: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mesh.hcl");
    std::fs::write(&path, policy).unwrap();
    (folder, path)
}

fn join(world: &World, agent: &Agent, policy: &PathBuf) -> MeshBuilder {
    Mesh::join()
        .endpoint(&agent.endpoint)
        .policy_file(policy)
        .clock(Arc::new(world.clock.clone()))
}

#[tokio::test]
async fn a_workload_joins_once_its_node_agent_knows_it() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let agent = Agent::start(&folder, Says::NotYet);
    let planner = world.home.svid("planner");
    let joining = tokio::spawn(join(&world, &agent, &policy).into_future());
    agent.say.send_replace(Says::NoIdentity);
    agent
        .say
        .send_replace(svids(&[(&planner, "")], &world.bundles));
    let mesh = joining.await.unwrap().unwrap();
    assert_eq!(mesh.svid().unwrap().id(), planner.id());
    assert_eq!(mesh.svid().unwrap().not_after(), planner.not_after());

    let coder = world.member("coder").await;
    let client = mesh
        .client(coder.id.as_str())
        .unwrap()
        .at(format!("https://{}", coder.address))
        .unwrap();
    assert_eq!(report(&client, "").await, "done");
}

#[tokio::test]
async fn of_several_svids_the_one_that_was_asked_for_is_used() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let (one, two) = (world.home.svid("one"), world.home.svid("two"));
    let agent = Agent::start(
        &folder,
        svids(&[(&one, "first"), (&two, "second")], &world.bundles),
    );
    let id_of = |which| {
        let join = join(&world, &agent, &policy).svid(which);
        async move { join.await.unwrap().svid().unwrap().id().clone() }
    };
    assert_eq!(id_of(SvidPicker::First).await, *one.id());
    assert_eq!(id_of(SvidPicker::Id(two.id().clone())).await, *two.id());
    assert_eq!(
        id_of(SvidPicker::Hint("second".to_owned())).await,
        *two.id()
    );
    let missing = join(&world, &agent, &policy).svid(SvidPicker::Hint("third".to_owned()));
    let error = missing.wait(Duration::from_millis(300)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no SVID with the hint \"third\" among the 2"),
        "{error}"
    );
}

#[tokio::test]
async fn a_workload_without_an_entry_is_told_so() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let agent = Agent::start(&folder, Says::NoIdentity);
    let wait = Duration::from_millis(300);
    let error = join(&world, &agent, &policy).wait(wait).await.unwrap_err();
    assert!(matches!(error, JoinError::NoIdentity { .. }), "{error}");
    assert!(error.to_string().contains("no identity issued"), "{error}");
}

#[tokio::test]
async fn a_policy_that_is_missing_or_has_errors_fails_at_once() {
    let world = World::new(OPEN);
    let (folder, policy) = folder("allow \"broken\" {\n  from = []\n}\n");
    // The node agent never answers: the policy alone decides.
    let agent = Agent::start(&folder, Says::NotYet);
    let hour = Duration::from_secs(3600);
    let error = join(&world, &agent, &policy).wait(hour).await.unwrap_err();
    assert!(matches!(error, JoinError::Policy(_)), "{error}");
    let text = format!("{error:?}");
    assert!(text.contains("mesh.hcl") && text.contains("2:"), "{text}");

    let missing = policy.with_extension("none");
    let error = join(&world, &agent, &missing).wait(hour).await.unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("could not read the policy file"), "{text}");
    assert!(text.contains("mesh.none"), "{text}");
}

#[tokio::test]
async fn an_endpoint_that_waiting_cannot_mend_fails_at_once() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let agent = Agent::start(&folder, Says::NotYet);
    let hour = Duration::from_secs(3600);
    let at = |endpoint: String| {
        let join = join(&world, &agent, &policy).endpoint(endpoint).wait(hour);
        async move { join.await.unwrap_err() }
    };
    let error = at("https://x".to_owned()).await;
    assert!(
        matches!(error, JoinError::InvalidEndpoint { .. }),
        "{error}"
    );
    let error = at(format!("unix://{}", policy.display())).await;
    assert!(matches!(error, JoinError::NotASocket(_)), "{error}");
}

#[tokio::test]
async fn a_node_agent_that_is_away_fails_after_a_second() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let agent = Agent::start(&folder, Says::NotYet);
    let joining = join(&world, &agent, &policy).endpoint("unix:///nowhere/agent.sock");
    let mut events = joining.events();
    let error = joining.await.unwrap_err();
    assert!(matches!(error, JoinError::NoNodeAgent { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/agent.sock"), "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");
    let mut waiting = false;
    while let Some(event) = events.next().await {
        waiting |= matches!(event, Event::Waiting { why } if why.contains("/nowhere/agent.sock"));
    }
    assert!(waiting, "what it waits for is an event");
}

#[tokio::test]
async fn a_node_agent_that_starts_later_is_waited_for() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let planner = world.home.svid("planner");
    let path = folder.path().join("agent.sock");
    let joining = Mesh::join()
        .endpoint(format!("unix://{}", path.display()))
        .policy_file(&policy)
        .clock(Arc::new(world.clock.clone()))
        .wait(Duration::from_secs(60));
    let mut events = joining.events();
    let joining = tokio::spawn(joining.into_future());
    while !matches!(events.next().await, Some(Event::Waiting { .. })) {}
    let _agent = Agent::start(&folder, svids(&[(&planner, "")], &world.bundles));
    let mesh = joining.await.unwrap().unwrap();
    assert_eq!(mesh.svid().unwrap().id(), planner.id());
}

#[tokio::test]
async fn events_tell_what_a_log_would() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let first = world.home.svid("planner");
    let agent = Agent::start(&folder, svids(&[(&first, "")], &world.bundles));
    let mesh = join(&world, &agent, &policy).await.unwrap();
    let mut events = mesh.events();
    let second = world.home.svid("planner");
    agent
        .say
        .send_replace(svids(&[(&second, "")], &world.bundles));
    // Identity and policy come by two tasks, so their order is open: an SVID from before the rotation and one from after.
    let (mut policies, mut svids_in_use) = (0, 0);
    while policies < 1 || svids_in_use < 2 {
        match events.next().await.expect("the mesh is there") {
            Event::PolicyInForce { .. } => policies += 1,
            Event::SvidInUse(_) => svids_in_use += 1,
            _ => {}
        }
    }
    let mut seen = async |wanted: fn(&Event) -> bool| {
        while !wanted(&events.next().await.expect("the mesh is there")) {}
    };
    std::fs::write(&policy, "nonsense").unwrap();
    seen(|event| matches!(event, Event::PolicyRefused(_))).await;
    agent.say.send_replace(Says::NoIdentity);
    seen(|event| matches!(event, Event::IdentityWithdrawn { .. })).await;
    drop(mesh);
    assert!(events.next().await.is_none(), "its end is the mesh's");
}

#[tokio::test]
async fn a_key_that_cannot_sign_chains_fails_with_the_setting_named() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let rsa = X509Svid::new(
        world.home.issue(&world.id("planner"), &key, HOUR, now()),
        key,
    )
    .unwrap();
    let agent = Agent::start(&folder, svids(&[(&rsa, "")], &world.bundles));
    let error = join(&world, &agent, &policy).await.unwrap_err();
    assert!(matches!(error, JoinError::Unusable(_)), "{error}");
    assert!(
        error.to_string().contains("workload_x509_svid_key_type"),
        "{error}"
    );
}

#[tokio::test]
async fn case_15_a_rotated_svid_is_used_and_outlives_the_node_agent() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let first = world.home.svid("planner");
    let agent = Agent::start(&folder, svids(&[(&first, "")], &world.bundles));
    let mesh = join(&world, &agent, &policy).await.unwrap();
    let coder = world.member("coder").await;
    let client = mesh
        .client(coder.id.as_str())
        .unwrap()
        .at(format!("https://{}", coder.address))
        .unwrap();

    let rotate = async |agent: &Agent| {
        let next = world.home.svid("planner");
        let (svid, _) = tokio::join!(mesh.updated(), async {
            agent
                .say
                .send_replace(svids(&[(&next, "")], &world.bundles));
        });
        assert_eq!(svid.unwrap().serial(), next.leaf().serial);
        assert_eq!(report(&client, "").await, "done");
    };
    rotate(&agent).await;
    drop(agent);
    assert_eq!(report(&client, "").await, "done", "the node agent is away");
    let agent = Agent::start(&folder, Says::NotYet);
    assert_eq!(
        report(&client, "").await,
        "done",
        "the node agent does not know yet"
    );
    rotate(&agent).await;
}

#[tokio::test]
async fn a_withdrawn_identity_is_gone_until_it_comes_back() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let svid = world.home.svid("planner");
    let agent = Agent::start(&folder, svids(&[(&svid, "")], &world.bundles));
    let mesh = join(&world, &agent, &policy).await.unwrap();
    agent.say.send_replace(Says::NoIdentity);
    while mesh.svid().is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(
        mesh.svid()
            .unwrap_err()
            .to_string()
            .contains("no identity issued")
    );
    let again = mesh.updated();
    agent
        .say
        .send_replace(svids(&[(&svid, "")], &world.bundles));
    assert_eq!(again.await.unwrap().serial(), svid.leaf().serial);
}

#[tokio::test]
async fn a_changed_policy_is_read_and_a_bad_one_changes_nothing() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let svid = world.home.svid("planner");
    let agent = Agent::start(&folder, svids(&[(&svid, "")], &world.bundles));
    let mesh = join(&world, &agent, &policy).await.unwrap();
    let coder = world.member("coder").await;
    let client = mesh
        .client(coder.id.as_str())
        .unwrap()
        .at(format!("https://{}", coder.address))
        .unwrap();
    assert_eq!(report(&client, "").await, "done");

    // Without the right to start chains. Between two looks at the file, each call starts one more.
    let asleep = || tokio::time::sleep(Duration::from_millis(20));
    std::fs::write(
        &policy,
        OPEN.replace("ai-agents.org/planner\"", "ai-agents.org/other\""),
    )
    .unwrap();
    while report(&client, "").await == "done" {
        asleep().await;
    }
    assert_eq!(report(&client, "").await, "origination_denied here");
    // A bad one is refused whole: what was in force stays until the good one comes.
    std::fs::write(&policy, OPEN.replace("originate", "orginate")).unwrap();
    for _ in 0..80 {
        assert_eq!(report(&client, "").await, "origination_denied here");
        asleep().await;
    }
    let next = policy.with_extension("next");
    std::fs::write(&next, OPEN).unwrap();
    std::fs::rename(&next, &policy).unwrap();
    while report(&client, "").await == "origination_denied here" {
        asleep().await;
    }
    assert_eq!(report(&client, "").await, "done");
}

#[tokio::test]
async fn a_removed_authoritys_signatures_are_forgotten() {
    let other = Authority::new("other.org");
    let text = OPEN.replace("spiffe://ai-agents.org/rogue", "spiffe://other.org/planner");
    let mut world = World::new(&text);
    world.bundles.insert(Arc::new(other.bundle()));
    let (stranger, scraper) = (other.svid("planner"), world.home.svid("scraper"));
    let mut coder = world.member("coder").await;
    let raw = world.raw(&scraper);
    let chain = || Forge::start(&stranger, scraper.id()).then(&scraper, &coder.id);
    let (first, second) = (chain(), chain());
    raw.present(&coder, &first).await.is_served();
    raw.present(&coder, &second).await.is_served();
    // The same link, with its certificate already known.
    let again = Forge::start(&stranger, scraper.id()).then(&scraper, &coder.id);
    let only_home = [world.home.bundle()].into_iter().collect();
    coder.feed.send(coder.svid.clone(), only_home).unwrap();
    // The connections from before are asked to go.
    let answer = world.raw(&scraper).present(&coder, &again).await;
    assert_eq!(answer.reason(), "chain_signature_invalid");
}
