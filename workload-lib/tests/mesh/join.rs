//! Joining by the Workload API, and what happens when the node agent changes its mind or goes away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign::{Join, JoinError, Mesh, Which};
use countersign_identity::{KeyType, PrivateKey, X509Svid};
use tempfile::TempDir;

use crate::agent::{Agent, Says, svids};
use crate::forge::Forge;
use crate::world::{Authority, HOUR, OPEN, World, now, report};

/// A folder with a policy file, for a node agent's socket.
fn folder(policy: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mesh.hcl");
    std::fs::write(&path, policy).unwrap();
    (folder, path)
}

fn join(world: &World, agent: &Agent, policy: &PathBuf) -> Join {
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
    assert_eq!(mesh.id().unwrap(), *planner.id());
    assert_eq!(mesh.not_after().unwrap(), planner.not_after());

    let coder = world.member("coder").await;
    let client = mesh
        .callee(coder.id.as_str())
        .at(&format!("https://{}", coder.address))
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
        async move { join.await.unwrap().id().unwrap() }
    };
    assert_eq!(id_of(Which::First).await, *one.id());
    assert_eq!(id_of(Which::Id(two.id().clone())).await, *two.id());
    assert_eq!(id_of(Which::Hint("second".to_owned())).await, *two.id());
    let missing = join(&world, &agent, &policy).svid(Which::Hint("third".to_owned()));
    let error = missing.wait(Duration::from_millis(300)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no SVID with the hint \"third\" among the 2"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let world = World::new(OPEN);
    let (folder, policy) = folder("allow \"broken\" {\n  from = []\n}\n");
    let wait = Duration::from_millis(300);
    let agent = Agent::start(&folder, Says::NoIdentity);

    let error = join(&world, &agent, &policy).wait(wait).await.unwrap_err();
    assert!(matches!(error, JoinError::NoIdentity { .. }), "{error}");
    assert!(error.to_string().contains("no identity issued"), "{error}");

    agent
        .say
        .send_replace(svids(&[(&world.home.svid("planner"), "")], &world.bundles));
    let error = join(&world, &agent, &policy).wait(wait).await.unwrap_err();
    assert!(matches!(error, JoinError::NoPolicy { .. }), "{error}");
    assert!(
        error.to_string().contains("mesh.hcl") && error.to_string().contains("2:"),
        "{error}"
    );

    let error = join(&world, &agent, &policy.join("none"))
        .wait(wait)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("could not read the policy file"),
        "{error}"
    );

    let error = join(&world, &agent, &policy)
        .endpoint("unix:///nowhere/agent.sock")
        .wait(wait)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nowhere/agent.sock"), "{error}");
    let error = join(&world, &agent, &policy)
        .endpoint("https://x")
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::BadEndpoint { .. }), "{error}");
}

#[tokio::test]
async fn a_key_that_cannot_sign_chains_is_refused_at_once_with_the_setting_named() {
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
async fn case_15_an_svid_that_the_node_agent_rotates_is_taken_over_and_survives_the_node_agent() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let first = world.home.svid("planner");
    let agent = Agent::start(&folder, svids(&[(&first, "")], &world.bundles));
    let mesh = join(&world, &agent, &policy).await.unwrap();
    let coder = world.member("coder").await;
    let client = mesh
        .callee(coder.id.as_str())
        .at(&format!("https://{}", coder.address))
        .unwrap();

    let rotate = async |agent: &Agent| {
        let next = world.home.svid("planner");
        let (serial, _) = tokio::join!(mesh.rotated(), async {
            agent
                .say
                .send_replace(svids(&[(&next, "")], &world.bundles));
        });
        assert_eq!(serial.unwrap(), next.leaf().serial);
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
async fn an_identity_that_the_node_agent_withdraws_is_gone_until_it_comes_back() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let svid = world.home.svid("planner");
    let agent = Agent::start(&folder, svids(&[(&svid, "")], &world.bundles));
    let mesh = join(&world, &agent, &policy).await.unwrap();
    agent.say.send_replace(Says::NoIdentity);
    while mesh.id().is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(
        mesh.id()
            .unwrap_err()
            .to_string()
            .contains("no identity issued")
    );
    let again = mesh.rotated();
    agent
        .say
        .send_replace(svids(&[(&svid, "")], &world.bundles));
    assert_eq!(again.await.unwrap(), svid.leaf().serial);
}

#[tokio::test]
async fn a_policy_that_changes_is_read_again_and_a_bad_one_leaves_the_last_good_one() {
    let world = World::new(OPEN);
    let (folder, policy) = folder(OPEN);
    let svid = world.home.svid("planner");
    let agent = Agent::start(&folder, svids(&[(&svid, "")], &world.bundles));
    let mesh = join(&world, &agent, &policy).await.unwrap();
    let coder = world.member("coder").await;
    let client = mesh
        .callee(coder.id.as_str())
        .at(&format!("https://{}", coder.address))
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
async fn what_an_authority_vouched_for_is_forgotten_when_it_is_removed() {
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
