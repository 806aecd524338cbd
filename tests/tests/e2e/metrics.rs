//! What both daemons export, and that the documentation and the dashboards say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use countersign_daemon::address_file::{self, Listening};
use countersign_daemon::metrics::{Metric, MetricKind};
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings};
use countersign_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::NODE;

/// Metrics that need a fault to be there.
const FAULTS: [&str; 3] = [
    "countersign_agent_rate_limited_total",
    "countersign_agent_workload_attestation_failures_total",
    "countersign_server_authority_rotation_failures_total",
];

/// Both daemons with a port for Prometheus, on whatever port is free.
pub(crate) fn settings() -> Settings {
    Settings {
        agent: FAST_SYNC.into(),
        sections: "telemetry {\n  Prometheus {\n    host = \"127.0.0.1\"\n    port = 0\n  }\n}"
            .into(),
        ..Settings::default()
    }
}

/// What is on the page of the daemon that wrote this address file.
pub(crate) async fn scrape(addresses: &Path) -> anyhow::Result<String> {
    let places = address_file::read(addresses)?;
    let address = places.iter().find_map(|place| match place {
        Listening::Metrics(address) => Some(*address),
        _ => None,
    });
    let mut stream = TcpStream::connect(address.context("no metrics")?).await?;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    Ok(answer)
}

/// The page, once all these are on it.
pub(crate) async fn scrape_until(addresses: &Path, parts: &[&str]) -> anyhow::Result<String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let page = scrape(addresses).await?;
        let missing: Vec<_> = parts.iter().filter(|part| !page.contains(**part)).collect();
        if missing.is_empty() {
            return Ok(page);
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{missing:?} are not on:\n{page}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Holds a page against what the daemon says that it exports.
fn hold(page: &str, catalogue: &[Metric]) -> anyhow::Result<()> {
    let known: BTreeMap<_, _> = catalogue
        .iter()
        .map(|metric| (metric.name, metric))
        .collect();
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').context("no type")?;
            let metric = known
                .get(name)
                .with_context(|| format!("{name} is in no list"))?;
            ensure!(kind == word(metric.kind), "{line}");
            seen.insert(metric.name);
        } else if let Some(helped) = line.strip_prefix("# HELP ") {
            let (name, help) = helped.split_once(' ').context("no help")?;
            ensure!(
                known.get(name).is_some_and(|metric| metric.help == help),
                "{line}"
            );
        } else if let Some((name, labels)) = line.split_once('{') {
            let (labels, _) = labels.split_once('}').context("no end of labels")?;
            let metric = known
                .get(name)
                .or_else(|| known.get(name.trim_end_matches("_bucket")))
                .or_else(|| known.get(name.trim_end_matches("_sum")))
                .or_else(|| known.get(name.trim_end_matches("_count")))
                .with_context(|| format!("{name} is in no list"))?;
            for label in labels
                .split(',')
                .filter_map(|label| label.split('=').next())
            {
                let listed = metric.labels.contains(&label)
                    || (label == "le" && metric.kind == MetricKind::Histogram);
                ensure!(listed, "the label {label} is in no list: {line}");
            }
        }
    }
    let missing: Vec<_> = known
        .keys()
        .filter(|name| !seen.contains(*name) && !FAULTS.contains(name))
        .collect();
    ensure!(missing.is_empty(), "{missing:?} are not on:\n{page}");
    let helped = page
        .lines()
        .filter(|line| line.starts_with("# HELP "))
        .count();
    ensure!(helped == seen.len(), "something has no help:\n{page}");
    for secret in ["spiffe://", "unix:", "/tmp"] {
        ensure!(!page.contains(secret), "{secret} is on:\n{page}");
    }
    Ok(())
}

const fn word(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

/// How the calls for X.509-SVIDs ended.
fn fetches(page: &str) -> Vec<String> {
    let counted = r#"countersign_agent_calls_total{method="SpiffeWorkloadAPI/FetchX509SVID""#;
    let mut lines: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with(counted))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_server_and_a_node_agent_export_what_their_lists_say() -> anyhow::Result<()> {
    let deployment = Deployment::start(NODE, settings()).await?;
    let workload = deployment.register("/metrics", &[]).await?;
    deployment.fetched(&workload).await?;
    let jwt = [
        "agent",
        "api",
        "fetch",
        "jwt",
        "-audience",
        "a",
        "-socketPath",
    ];
    let socket = deployment.agent_socket();
    let socket = socket.to_str().context("a path")?;
    let ran =
        countersign_tests::process::run(&workload.program, &[&jwt[..], &[socket]].concat(), &[])
            .await?;
    ensure!(ran.status.success(), "{ran:?}");

    let page = scrape_until(
        &deployment.folder().join("agent.addr"),
        &[
            r#"countersign_agent_calls_total{method="SpiffeWorkloadAPI/FetchX509SVID",code="Canceled"} "#,
            r#"countersign_agent_calls_total{method="SpiffeWorkloadAPI/FetchJWTSVID",code="OK"} 1"#,
            r#"countersign_agent_signatures_total{kind="x509",result="ok"} 1"#,
            r#"countersign_agent_signatures_total{kind="jwt",result="ok"} 1"#,
            r#"countersign_agent_node_attestations_total{attestor="join_token",result="ok"} 1"#,
            r#"countersign_agent_svids{kind="jwt"} 1"#,
            r#"countersign_agent_workload_attestation_seconds_count{attestor="unix"}"#,
            "countersign_agent_entries 1",
            "countersign_agent_ready 1",
        ],
    )
    .await?;
    hold(&page, countersign_agent::metrics::ALL)?;
    // What the node agent asks itself is no caller's.
    let before = fetches(&page);
    let ran = deployment.agent_cli(&["healthcheck"]).await?;
    ensure!(ran.status.success(), "{ran:?}");
    let page = scrape_until(
        &deployment.folder().join("agent.addr"),
        &[r#"countersign_agent_calls_total{method="grpc.health.v1.Health/Check",code="OK"} 1"#],
    )
    .await?;
    ensure!(fetches(&page) == before, "{before:?} and then:\n{page}");

    let page = scrape_until(
        &deployment.folder().join("server.addr"),
        &[
            r#"countersign_server_calls_total{method="spire.api.server.entry.v1.Entry/BatchCreateEntry",code="OK"} 1"#,
            r#"countersign_server_node_attestations_total{attestor="join_token",result="ok"} 1"#,
            r#"countersign_server_signatures_total{kind="x509",result="ok"} 1"#,
            r#"countersign_server_signatures_total{kind="jwt",result="ok"} 1"#,
            "countersign_server_entries 1",
            "countersign_server_nodes 1",
        ],
    )
    .await?;
    hold(&page, countersign_server::embed::METRICS)?;
    Ok(())
}

/// The table of `docs/metrics.md` that a list makes.
fn table(catalogue: &[Metric]) -> String {
    let mut table = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in catalogue {
        let labels = metric.labels.iter().map(|label| format!("`{label}`"));
        let labels = labels.collect::<Vec<_>>().join(", ");
        let (name, kind, help) = (metric.name, word(metric.kind), metric.help);
        let _ = writeln!(table, "| `{name}` | {kind} | {labels} | {help} |");
    }
    table
}

#[test]
fn the_documentation_lists_every_metric() {
    let page = include_str!("../../../docs/metrics.md");
    for catalogue in [
        countersign_server::embed::METRICS,
        countersign_agent::metrics::ALL,
    ] {
        let table = table(catalogue);
        assert!(
            page.contains(&table),
            "docs/metrics.md should have this table:\n{table}"
        );
        for metric in catalogue {
            let counts = metric.kind == MetricKind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counts, "{}", metric.name);
            let times = metric.kind == MetricKind::Histogram;
            assert!(
                !times || metric.name.ends_with("_seconds"),
                "{}",
                metric.name
            );
        }
    }
}

/// Every text under the key `expr`, wherever it stands.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if key == "expr" || key == "query" => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|v| expressions(v, found)),
        _ => {}
    }
}

/// The names of our metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("countersign_"))
}

#[test]
fn dashboards_and_alerts_show_metrics_that_there_are() {
    let server = include_str!("../../../config/dashboards/server.json");
    let agent = include_str!("../../../config/dashboards/agent.json");
    for (board, catalogue) in [
        (server, countersign_server::embed::METRICS),
        (agent, countersign_agent::metrics::ALL),
    ] {
        let board: serde_json::Value = serde_json::from_str(board).unwrap();
        let mut found = Vec::new();
        expressions(&board, &mut found);
        let shown: BTreeSet<_> = found.iter().flat_map(|text| names(text)).collect();
        for name in &shown {
            let known = catalogue.iter().any(|metric| match metric.kind {
                MetricKind::Histogram => *name == format!("{}_bucket", metric.name),
                MetricKind::Counter | MetricKind::Gauge => *name == metric.name,
            });
            assert!(known, "{name} is in no list");
        }
        for metric in catalogue {
            let shown = shown
                .iter()
                .any(|name| name.trim_end_matches("_bucket") == metric.name);
            let of_calls = metric.name.ends_with("_calls_open");
            assert!(shown || of_calls, "{} is on no dashboard", metric.name);
        }
    }
    let page = include_str!("../../../docs/metrics.md");
    let (_, alerts) = page.split_once("## What to be woken for").unwrap();
    let all = [
        countersign_server::embed::METRICS,
        countersign_agent::metrics::ALL,
    ]
    .concat();
    for name in names(alerts) {
        assert!(
            all.iter().any(|metric| metric.name == name),
            "{name} is in no list"
        );
    }
}
