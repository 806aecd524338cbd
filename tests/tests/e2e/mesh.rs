//! Call chains over real mTLS between processes: the cases of `docs/call-chains.md`, by their numbers there.
//!
//! The workloads link the library. What the library refuses to do is done by this process itself, an attacker with SVIDs
//! of its own.

use bytes::Bytes;
use countersign_attacker::{Attacker, reason};
use countersign_identity::SpiffeId;
use countersign_mesh::Carrier;
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings, TRUST_DOMAIN, allow};
use countersign_tests::scripted_workload::{Call, Outcome, ScriptedWorkload};
use http::Request;

use crate::NODE;

/// Planner, coder and reviewer, each allowed to call the next one in the circle.
struct Cluster {
    deployment: Deployment,
    planner: ScriptedWorkload,
    coder: ScriptedWorkload,
    reviewer: ScriptedWorkload,
}

fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

fn parsed(text: &str) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::parse(text)?)
}

fn policy() -> String {
    let mut policy = format!(
        "originate \"work\" {{\n  workloads = [\"{}\", \"{}\"]\n  new_chains = \"100/s burst 1000\"\n}}\n",
        id("/planner"),
        id("/attacker/originator"),
    );
    for (name, from, to) in [
        ("to coder", "/planner", "/coder"),
        ("to reviewer", "/coder", "/reviewer"),
        ("back to planner", "/reviewer", "/planner"),
        ("attackers to coder", "/attacker/*", "/coder"),
        ("attackers to planner", "/attacker/*", "/planner"),
        ("among attackers", "/attacker/*", "/attacker/*"),
        ("planner to attackers", "/planner", "/attacker/*"),
    ] {
        let rate = "  rate = \"1000/s burst 1000\"";
        allow(&mut policy, name, &id(from), &id(to), rate);
    }
    policy
}

impl Cluster {
    async fn start() -> anyhow::Result<Self> {
        let settings = Settings {
            agent: FAST_SYNC.into(),
            ..Settings::default()
        };
        let deployment = Deployment::start(NODE, settings).await?;
        deployment.write_policy(&policy())?;
        let planner = deployment.scripted_workload("/planner", &[]).await?;
        let coder = deployment.scripted_workload("/coder", &[]).await?;
        let reviewer = deployment.scripted_workload("/reviewer", &[]).await?;
        Ok(Self {
            deployment,
            planner,
            coder,
            reviewer,
        })
    }

    async fn attacker(&self, path: &str) -> anyhow::Result<Attacker> {
        self.deployment.attacker(path).await
    }
}

/// Case 8.
#[tokio::test]
async fn a_task_follows_its_chain_and_cannot_close_a_loop() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    let (coder, reviewer) = (Call::new(&cluster.coder), Call::new(&cluster.reviewer));
    let planner = Call::new(&cluster.planner);

    let outcomes = cluster
        .planner
        .run(vec![coder.clone().then(reviewer.clone())])
        .await?;
    let Outcome::Answered(last) = outcomes[0].deepest() else {
        panic!("{outcomes:?}")
    };
    assert_eq!(
        last.members,
        [id("/planner"), id("/coder"), id("/reviewer")]
    );
    assert_eq!(last.hop, 2);

    // The policy allows each edge of the circle: it is the chain that stops the loop, before anything is sent.
    let loop_ = coder.then(reviewer.then(planner));
    let outcomes = cluster.planner.run(vec![loop_]).await?;
    let refused = Outcome::Refused {
        reason: "cycle_detected".into(),
        here: true,
    };
    assert_eq!(outcomes[0].deepest(), &refused, "{outcomes:?}");
    Ok(())
}

/// Case 8.
#[tokio::test]
async fn a_hand_made_client_cannot_close_the_loop_either() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let originator = cluster.attacker("/attacker/originator").await?;
    let middle = cluster.attacker("/attacker/middle").await?;
    // This process has the coder's ID too, and so can sign what the coder's library would not.
    let coder = cluster.attacker("/coder").await?;
    let first = originator.sign(&originator.start()?, coder.svid().id(), "/work")?;
    let second = coder.sign(
        &received(&coder, &originator, &first)?,
        middle.svid().id(),
        "/work",
    )?;
    let context = received(&middle, &coder, &second)?;
    let address = &cluster.coder.address;
    let answer = middle
        .call(&context, coder.svid().id(), address, "/work", Bytes::new())
        .await?;
    assert_eq!(
        (answer.status().as_u16(), reason(&answer)),
        (403, Some("cycle_detected"))
    );
    let problem: serde_json::Value = serde_json::from_slice(answer.body())?;
    assert_eq!(problem["hop"], 3, "{problem}");
    assert_eq!(problem["retryable"], false, "{problem}");
    Ok(())
}

/// What `to` makes of a call that `from` signed, without a network in between.
fn received(
    to: &Attacker,
    from: &Attacker,
    call: &countersign_mesh::OutgoingCall,
) -> anyhow::Result<countersign_mesh::Context> {
    let request = Attacker::request("/work", call, Bytes::new())?;
    to.received("POST", "/work", request.headers(), from.svid().chain())
}

/// Case 1.
#[tokio::test]
async fn a_missing_and_an_unauthorised_chain_are_refused() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    let attacker = cluster.attacker("/attacker/middle").await?;
    let coder = parsed(&cluster.coder.id)?;
    let bare = Request::post("https://callee/work").body(Bytes::new())?;
    let answer = attacker.send(&coder, &cluster.coder.address, bare).await?;
    assert_eq!(
        (answer.status().as_u16(), reason(&answer)),
        (403, Some("chain_required"))
    );

    let own = attacker.start()?;
    let answer = attacker
        .call(&own, &coder, &cluster.coder.address, "/work", Bytes::new())
        .await?;
    assert_eq!(reason(&answer), Some("origination_denied"));
    // Nor by the library: the coder has no right to start.
    let outcomes = {
        let call = Call::new(&cluster.reviewer);
        cluster.coder.loose(vec![call]).await?
    };
    let refused = Outcome::Refused {
        reason: "origination_denied".into(),
        here: true,
    };
    assert_eq!(outcomes, [refused]);
    Ok(())
}

/// Cases 2 and 3.
#[tokio::test]
async fn altered_stolen_and_replayed_chains_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let originator = cluster.attacker("/attacker/originator").await?;
    let other = cluster.attacker("/attacker/other").await?;
    let (coder, planner) = (parsed(&cluster.coder.id)?, parsed(&cluster.planner.id)?);
    let work = originator.start()?;

    let for_coder = originator.sign(&work, &coder, "/work")?;
    let request = || Attacker::request("/work", &for_coder, Bytes::new());
    // Case 3: B's chain sent to C.
    let answer = originator
        .send(&planner, &cluster.planner.address, request()?)
        .await?;
    assert_eq!(reason(&answer), Some("chain_audience_mismatch"));
    // Case 3: B's chain presented by C.
    let answer = other
        .send(&coder, &cluster.coder.address, request()?)
        .await?;
    assert_eq!(reason(&answer), Some("chain_audience_mismatch"));
    // Where it belongs it is served, once.
    let answer = originator
        .send(&coder, &cluster.coder.address, request()?)
        .await?;
    assert_eq!((answer.status().as_u16(), reason(&answer)), (200, None));
    let answer = originator
        .send(&coder, &cluster.coder.address, request()?)
        .await?;
    assert_eq!(reason(&answer), Some("chain_replayed"));
    // Another action than the one that was signed.
    let mut elsewhere = request()?;
    *elsewhere.uri_mut() = "https://callee/other".parse()?;
    let answer = originator
        .send(&coder, &cluster.coder.address, elsewhere)
        .await?;
    assert_eq!(reason(&answer), Some("action_denied"));

    // Case 2: an altered byte in an earlier link.
    let first = originator.sign(&work, other.svid().id(), "/work")?;
    let context = received(&other, &originator, &first)?;
    let second = other.sign(&context, &coder, "/work")?;
    let mut forged = Attacker::request("/work", &second, Bytes::new())?;
    let field = Carrier::Http.chain_field();
    let value = forged.headers()[field].to_str()?.to_owned();
    let middle = value.len() / 4;
    let swapped = if value.as_bytes()[middle] == b'A' {
        'B'
    } else {
        'A'
    };
    let altered = format!("{}{swapped}{}", &value[..middle], &value[middle + 1..]);
    forged.headers_mut().insert(field, altered.parse()?);
    let answer = other.send(&coder, &cluster.coder.address, forged).await?;
    assert!(
        reason(&answer).is_some(),
        "an altered chain was served: {answer:?}"
    );
    // Unaltered it is served.
    let request = Attacker::request("/work", &second, Bytes::new())?;
    let answer = other.send(&coder, &cluster.coder.address, request).await?;
    assert_eq!(reason(&answer), None);
    Ok(())
}

/// Case 5.
#[tokio::test]
async fn malformed_fields_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let originator = cluster.attacker("/attacker/originator").await?;
    let coder = parsed(&cluster.coder.id)?;
    let work = originator.start()?;
    let fields = (Carrier::Http.chain_field(), Carrier::Grpc.chain_field());
    for spoil in ["twice", "both", "trailing", "empty"] {
        let call = originator.sign(&work, &coder, "/work")?;
        let mut request = Attacker::request("/work", &call, Bytes::new())?;
        let value = request.headers()[fields.0].clone();
        let headers = request.headers_mut();
        match spoil {
            "twice" => drop(headers.append(fields.0, value)),
            "both" => drop(headers.append(fields.1, value)),
            "trailing" => drop(headers.insert(fields.0, format!("{};a", value.to_str()?).parse()?)),
            _ => drop(headers.insert(fields.0, "::".parse()?)),
        }
        let answer = originator
            .send(&coder, &cluster.coder.address, request)
            .await?;
        assert_eq!(reason(&answer), Some("chain_malformed"), "{spoil}");
        assert_eq!(answer.status().as_u16(), 400, "{spoil}");
    }
    Ok(())
}

/// Case 9.
#[tokio::test]
async fn five_hops_pass_and_the_sixth_does_not() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let (coder, address) = (parsed(&cluster.coder.id)?, &cluster.coder.address);
    let mut caller = cluster.attacker("/attacker/originator").await?;
    let mut context = caller.start()?;
    for hop in 1..=6 {
        let answer = caller
            .call(&context, &coder, address, "/work", Bytes::new())
            .await?;
        let refused = (hop > 5).then_some("hop_limit_exceeded");
        assert_eq!(reason(&answer), refused, "hop {hop}");
        let next = cluster.attacker(&format!("/attacker/r{hop}")).await?;
        let link = caller.sign(&context, next.svid().id(), "/work")?;
        context = received(&next, &caller, &link)?;
        caller = next;
    }
    Ok(())
}

/// Case 10.
#[tokio::test]
async fn a_chain_ends_at_its_budget() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    // The coder is granted two further calls and makes three.
    let call = Call::new(&cluster.coder)
        .grant(2)
        .then(Call::new(&cluster.reviewer).grant(0).times(3));
    let outcomes = cluster.planner.run(vec![call]).await?;
    let downstream = outcomes[0].downstream();
    assert_eq!(downstream.len(), 3, "{outcomes:?}");
    assert!(
        downstream[..2].iter().all(|o| o.refused().is_none()),
        "{outcomes:?}"
    );
    assert_eq!(
        downstream[2].refused(),
        Some("chain_budget_exhausted"),
        "{outcomes:?}"
    );
    Ok(())
}

/// Case 11.
#[tokio::test]
async fn a_task_that_lost_its_context_starts_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut call = Call::new(&cluster.coder).then(Call::new(&cluster.reviewer));
    call.plan.forget = true;
    let outcomes = cluster.planner.run(vec![call]).await?;
    assert_eq!(
        outcomes[0].deepest().refused(),
        Some("origination_denied"),
        "{outcomes:?}"
    );
    Ok(())
}

/// Case 12.
#[tokio::test]
async fn a_caller_that_no_rule_names_is_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let attacker = cluster.attacker("/attacker/originator").await?;
    let reviewer = parsed(&cluster.reviewer.id)?;
    // No rule names this edge.
    let work = attacker.start()?;
    let answer = attacker
        .call(
            &work,
            &reviewer,
            &cluster.reviewer.address,
            "/work",
            Bytes::new(),
        )
        .await?;
    assert_eq!(reason(&answer), Some("edge_denied"));
    // Without a client certificate there is no connection.
    let bare = Request::post("https://callee/work").body(Bytes::new())?;
    assert!(
        attacker
            .send_nameless(&reviewer, &cluster.reviewer.address, bare)
            .await
            .is_err()
    );
    // Whoever is at an address has to be who is called.
    assert!(
        attacker
            .dial(&parsed(&cluster.coder.id)?, &cluster.reviewer.address)
            .await
            .is_err()
    );
    // A header says nothing about who calls.
    let mut request = Attacker::request(
        "/work",
        &attacker.sign(&work, &reviewer, "/work")?,
        Bytes::new(),
    )?;
    let claim = format!("URI={}", cluster.coder.id);
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", claim.parse()?);
    let answer = attacker
        .send(&reviewer, &cluster.reviewer.address, request)
        .await?;
    assert_eq!(reason(&answer), Some("edge_denied"));
    Ok(())
}
