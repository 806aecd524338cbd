//! Call chains over real mTLS between processes. The numbers are those of the cases in `docs/call-chains.md`.
//!
//! The workloads are puppets that link the library; what the library refuses to do is done by this very process, which
//! has SVIDs of its own.

use bytes::Bytes;
use countersign_identity::SpiffeId;
use countersign_mesh::Carrier;
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings, TRUST_DOMAIN, allow};
use countersign_tests::puppet::{Call, Outcome, Puppet};
use countersign_tests::rogue::{Rogue, reason};
use http::Request;

use crate::NODE;

/// Planner, coder and reviewer, each allowed to call the next round the circle, and a tool that all may call.
struct Stage {
    deployment: Deployment,
    planner: Puppet,
    coder: Puppet,
    reviewer: Puppet,
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
        id("/rogue/originator"),
    );
    let rate = "  rate = \"1000/s burst 1000\"";
    allow(
        &mut policy,
        "to coder",
        &id("/planner"),
        &id("/coder"),
        rate,
    );
    allow(
        &mut policy,
        "to reviewer",
        &id("/coder"),
        &id("/reviewer"),
        rate,
    );
    allow(
        &mut policy,
        "back to planner",
        &id("/reviewer"),
        &id("/planner"),
        rate,
    );
    allow(&mut policy, "rogue", &id("/rogue/*"), &id("/coder"), rate);
    allow(
        &mut policy,
        "rogue too",
        &id("/rogue/*"),
        &id("/planner"),
        rate,
    );
    allow(
        &mut policy,
        "rogues",
        &id("/rogue/*"),
        &id("/rogue/*"),
        rate,
    );
    allow(
        &mut policy,
        "from planner",
        &id("/planner"),
        &id("/rogue/*"),
        rate,
    );
    policy
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let settings = Settings {
            agent: FAST_SYNC.into(),
            ..Settings::default()
        };
        let deployment = Deployment::start(NODE, settings).await?;
        deployment.write_policy(&policy())?;
        let planner = deployment.puppet("/planner", &[]).await?;
        let coder = deployment.puppet("/coder", &[]).await?;
        let reviewer = deployment.puppet("/reviewer", &[]).await?;
        Ok(Self {
            deployment,
            planner,
            coder,
            reviewer,
        })
    }

    async fn rogue(&self, path: &str) -> anyhow::Result<Rogue> {
        self.deployment.rogue(path).await
    }
}

#[tokio::test]
async fn case_8_a_task_goes_along_its_chain_and_a_loop_does_not_close() -> anyhow::Result<()> {
    let mut stage = Stage::set().await?;
    let (coder, reviewer) = (Call::new(&stage.coder), Call::new(&stage.reviewer));
    let planner = Call::new(&stage.planner);

    let outcomes = stage
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
    let outcomes = stage.planner.run(vec![loop_]).await?;
    let refused = Outcome::Refused {
        reason: "cycle_detected".into(),
        here: true,
    };
    assert_eq!(outcomes[0].deepest(), &refused, "{outcomes:?}");
    Ok(())
}

#[tokio::test]
async fn case_8_a_hand_made_client_does_not_close_the_loop_either() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let originator = stage.rogue("/rogue/originator").await?;
    let middle = stage.rogue("/rogue/middle").await?;
    // This process has the coder's ID too, and so can sign what the coder's library would not.
    let coder = stage.rogue("/coder").await?;
    let first = originator.sign(&originator.start()?, coder.svid().id(), "/work")?;
    let second = coder.sign(
        &received(&coder, &originator, &first)?,
        middle.svid().id(),
        "/work",
    )?;
    let context = received(&middle, &coder, &second)?;
    let address = &stage.coder.address;
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
    to: &Rogue,
    from: &Rogue,
    call: &countersign_mesh::OutgoingCall,
) -> anyhow::Result<countersign_mesh::Context> {
    let request = Rogue::request("/work", call, Bytes::new())?;
    let leaf = from.svid().leaf();
    let peer = countersign_transport::connection::Peer {
        id: leaf.id.clone(),
        kid: leaf.kid,
        serial: leaf.serial.clone(),
        chain: from.svid().chain().to_vec(),
        not_after: leaf.not_after,
        address: ([127, 0, 0, 1], 1).into(),
        cut: tokio_util::sync::CancellationToken::new(),
    };
    to.received("POST", "/work", request.headers(), &peer)
        .map_err(|refusal| anyhow::anyhow!("{refusal}"))
}

#[tokio::test]
async fn case_1_without_a_chain_and_with_a_chain_that_nobody_may_start() -> anyhow::Result<()> {
    let mut stage = Stage::set().await?;
    let rogue = stage.rogue("/rogue/middle").await?;
    let coder = parsed(&stage.coder.id)?;
    let bare = Request::post("https://callee/work").body(Bytes::new())?;
    let answer = rogue.send(&coder, &stage.coder.address, bare).await?;
    assert_eq!(
        (answer.status().as_u16(), reason(&answer)),
        (403, Some("chain_required"))
    );

    let own = rogue.start()?;
    let answer = rogue
        .call(&own, &coder, &stage.coder.address, "/work", Bytes::new())
        .await?;
    assert_eq!(reason(&answer), Some("origination_denied"));
    // Nor by the library: the coder has no right to start.
    let outcomes = {
        let call = Call::new(&stage.reviewer);
        stage.coder.loose(vec![call]).await?
    };
    let refused = Outcome::Refused {
        reason: "origination_denied".into(),
        here: true,
    };
    assert_eq!(outcomes, [refused]);
    Ok(())
}

#[tokio::test]
async fn cases_2_and_3_chains_of_others_and_used_ones() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let originator = stage.rogue("/rogue/originator").await?;
    let other = stage.rogue("/rogue/other").await?;
    let (coder, planner) = (parsed(&stage.coder.id)?, parsed(&stage.planner.id)?);
    let work = originator.start()?;

    let for_coder = originator.sign(&work, &coder, "/work")?;
    let request = || Rogue::request("/work", &for_coder, Bytes::new());
    // Case 3: B's chain sent to C.
    let answer = originator
        .send(&planner, &stage.planner.address, request()?)
        .await?;
    assert_eq!(reason(&answer), Some("chain_audience_mismatch"));
    // Case 3: B's chain presented by C.
    let answer = other.send(&coder, &stage.coder.address, request()?).await?;
    assert_eq!(reason(&answer), Some("chain_audience_mismatch"));
    // Where it belongs it is served, once.
    let answer = originator
        .send(&coder, &stage.coder.address, request()?)
        .await?;
    assert_eq!((answer.status().as_u16(), reason(&answer)), (200, None));
    let answer = originator
        .send(&coder, &stage.coder.address, request()?)
        .await?;
    assert_eq!(reason(&answer), Some("chain_replayed"));
    // Another action than the one that was signed.
    let mut elsewhere = request()?;
    *elsewhere.uri_mut() = "https://callee/other".parse()?;
    let answer = originator
        .send(&coder, &stage.coder.address, elsewhere)
        .await?;
    assert_eq!(reason(&answer), Some("action_denied"));

    // Case 2: an altered byte in an earlier link.
    let first = originator.sign(&work, other.svid().id(), "/work")?;
    let context = received(&other, &originator, &first)?;
    let second = other.sign(&context, &coder, "/work")?;
    let mut forged = Rogue::request("/work", &second, Bytes::new())?;
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
    let answer = other.send(&coder, &stage.coder.address, forged).await?;
    assert!(
        reason(&answer).is_some(),
        "an altered chain was served: {answer:?}"
    );
    // Unaltered it is served.
    let request = Rogue::request("/work", &second, Bytes::new())?;
    let answer = other.send(&coder, &stage.coder.address, request).await?;
    assert_eq!(reason(&answer), None);
    Ok(())
}

#[tokio::test]
async fn case_5_malformed_fields_are_refused() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let originator = stage.rogue("/rogue/originator").await?;
    let coder = parsed(&stage.coder.id)?;
    let work = originator.start()?;
    let fields = (Carrier::Http.chain_field(), Carrier::Grpc.chain_field());
    for spoil in ["twice", "both", "trailing", "empty"] {
        let call = originator.sign(&work, &coder, "/work")?;
        let mut request = Rogue::request("/work", &call, Bytes::new())?;
        let value = request.headers()[fields.0].clone();
        let headers = request.headers_mut();
        match spoil {
            "twice" => drop(headers.append(fields.0, value)),
            "both" => drop(headers.append(fields.1, value)),
            "trailing" => drop(headers.insert(fields.0, format!("{};a", value.to_str()?).parse()?)),
            _ => drop(headers.insert(fields.0, "::".parse()?)),
        }
        let answer = originator
            .send(&coder, &stage.coder.address, request)
            .await?;
        assert_eq!(reason(&answer), Some("chain_malformed"), "{spoil}");
        assert_eq!(answer.status().as_u16(), 400, "{spoil}");
    }
    Ok(())
}

#[tokio::test]
async fn case_9_five_hops_pass_and_the_sixth_does_not() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let (coder, address) = (parsed(&stage.coder.id)?, &stage.coder.address);
    let mut caller = stage.rogue("/rogue/originator").await?;
    let mut context = caller.start()?;
    for hop in 1..=6 {
        let answer = caller
            .call(&context, &coder, address, "/work", Bytes::new())
            .await?;
        let refused = (hop > 5).then_some("hop_limit_exceeded");
        assert_eq!(reason(&answer), refused, "hop {hop}");
        let next = stage.rogue(&format!("/rogue/r{hop}")).await?;
        let link = caller.sign(&context, next.svid().id(), "/work")?;
        context = received(&next, &caller, &link)?;
        caller = next;
    }
    Ok(())
}

#[tokio::test]
async fn case_10_a_piece_of_work_ends_at_its_budget() -> anyhow::Result<()> {
    let mut stage = Stage::set().await?;
    // The coder is granted two further calls and makes three.
    let call = Call::new(&stage.coder)
        .grant(2)
        .then(Call::new(&stage.reviewer).grant(0).times(3));
    let outcomes = stage.planner.run(vec![call]).await?;
    let below = outcomes[0].below();
    assert_eq!(below.len(), 3, "{outcomes:?}");
    assert!(
        below[..2].iter().all(|o| o.refused().is_none()),
        "{outcomes:?}"
    );
    assert_eq!(
        below[2].refused(),
        Some("chain_budget_exhausted"),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn case_11_a_task_that_lost_its_context_starts_nothing() -> anyhow::Result<()> {
    let mut stage = Stage::set().await?;
    let mut call = Call::new(&stage.coder).then(Call::new(&stage.reviewer));
    call.plan.forget = true;
    let outcomes = stage.planner.run(vec![call]).await?;
    assert_eq!(
        outcomes[0].deepest().refused(),
        Some("origination_denied"),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn case_12_who_is_not_named_is_not_let_in() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let rogue = stage.rogue("/rogue/originator").await?;
    let reviewer = parsed(&stage.reviewer.id)?;
    // No rule names this edge.
    let work = rogue.start()?;
    let answer = rogue
        .call(
            &work,
            &reviewer,
            &stage.reviewer.address,
            "/work",
            Bytes::new(),
        )
        .await?;
    assert_eq!(reason(&answer), Some("edge_denied"));
    // Without a client certificate there is no connection.
    let bare = Request::post("https://callee/work").body(Bytes::new())?;
    assert!(
        rogue
            .send_nameless(&reviewer, &stage.reviewer.address, bare)
            .await
            .is_err()
    );
    // Whoever is at an address has to be who is called.
    assert!(
        rogue
            .dial(&parsed(&stage.coder.id)?, &stage.reviewer.address)
            .await
            .is_err()
    );
    // A header says nothing about who calls.
    let mut request = Rogue::request(
        "/work",
        &rogue.sign(&work, &reviewer, "/work")?,
        Bytes::new(),
    )?;
    let claim = format!("URI={}", stage.coder.id);
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", claim.parse()?);
    let answer = rogue
        .send(&reviewer, &stage.reviewer.address, request)
        .await?;
    assert_eq!(reason(&answer), Some("edge_denied"));
    Ok(())
}
