//! Rotation under load: SVIDs that live for seconds, calls all the time, none of them fails.

use countersign_identity::SpiffeId;
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings, TRUST_DOMAIN, allow};
use countersign_tests::scripted_workload::{Call, ScriptedWorkload};

use crate::{NODE, rounds};

/// Case 15 of `docs/call-chains.md`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_svids_rotate() -> anyhow::Result<()> {
    let settings = Settings {
        agent: FAST_SYNC.into(),
        ..Settings::default()
    };
    let deployment = Deployment::start(NODE, settings).await?;
    let id = |path: &str| format!("spiffe://{TRUST_DOMAIN}{path}");
    let mut policy = format!(
        "originate \"load\" {{\n  workloads = [\"{}\"]\n  new_chains = \"10000/s burst 10000\"\n}}\n",
        id("/caller")
    );
    let rate = "  rate = \"10000/s burst 10000\"";
    allow(&mut policy, "calls", &id("/caller"), &id("/callee"), rate);
    deployment.write_policy(&policy)?;
    let ttl = ["-x509SVIDTTL", "20"];
    let mut callee = deployment.scripted_workload("/callee", &ttl).await?;
    let mut caller = deployment.scripted_workload("/caller", &ttl).await?;
    let probe = deployment.attacker("/probe").await?;
    let callee_id = SpiffeId::parse(&callee.id)?;

    let mut serials = vec![probe.shown(&callee_id, &callee.address).await?.serial];
    caller.steady(vec![Call::new(&callee)]).await?;
    while serials.len() <= rounds(2) {
        let serial = rotated(&mut callee, serials.len()).await?;
        // From now on, whoever connects is shown the new certificate.
        assert_eq!(
            probe.shown(&callee_id, &callee.address).await?.serial,
            serial
        );
        assert!(!serials.contains(&serial));
        serials.push(serial);
    }
    let output = caller.process.output();
    let failures: Vec<_> = output
        .lines()
        .filter(|line| line.starts_with("failure"))
        .collect();
    assert!(failures.is_empty(), "{failures:?}");
    let last = output.lines().rev().find(|line| line.starts_with("steady"));
    assert!(last.is_some(), "no calls were made: {output}");
    println!(
        "{} rotations; {}",
        serials.len() - 1,
        last.unwrap_or_default()
    );
    Ok(())
}

/// Waits for the callee's n-th rotation and returns the new serial number.
async fn rotated(callee: &mut ScriptedWorkload, n: usize) -> anyhow::Result<String> {
    loop {
        let output = callee.process.output();
        if let Some(line) = output
            .lines()
            .filter_map(|l| l.strip_prefix("rotated "))
            .nth(n - 1)
        {
            return Ok(line.to_owned());
        }
        let seen = output.lines().filter(|l| l.starts_with("rotated ")).count();
        callee.process.lines("rotated ", seen + 1).await?;
    }
}
