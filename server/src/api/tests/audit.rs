//! The audit log, read as it is written.

use std::io::Write;
use std::sync::Mutex;

use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// Collects lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let filter = tracing_subscriber::filter::Targets::new()
            .with_target(countersign_daemon::logs::AUDIT, tracing::Level::INFO);
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(move || lines.clone());
        tracing::subscriber::set_default(tracing_subscriber::registry().with(filter).with(layer))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines since the last time.
    fn take(&self) -> Vec<Value> {
        let text = self.text();
        self.0.lock().unwrap().clear();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn one(&self) -> Value {
        let mut lines = self.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }
}

async fn audited() -> Fixture {
    let mut fixture = Fixture::new().await;
    let parts = Parts {
        audit_log: true,
        ..fixture.api.0.parts.clone()
    };
    fixture.api = Api::new(parts);
    fixture
}

#[tokio::test]
async fn each_call_leaves_a_line_with_caller_method_and_status() {
    let fixture = audited().await;
    let lines = Lines::default();
    let _listening = lines.listen();
    let entries = vec![
        types::Entry {
            id: "first".into(),
            ..entry("/a", "/p")
        },
        entry("/b", "other"),
    ];
    let request = countersign_proto::spire::api::server::entry::v1::BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let local = fixture.local();
    local.entries().batch_create_entry(request).await.unwrap();
    let line = lines.one();
    let field = |name: &str| line[name].clone();
    assert_eq!(field("message"), "API accessed");
    assert_eq!(
        field("method"),
        "\"/spire.api.server.entry.v1.Entry/BatchCreateEntry\""
    );
    assert_eq!(field("authorized_as"), "local");
    assert_eq!(
        (field("caller_uid"), field("caller_gid")),
        (0.into(), 0.into())
    );
    assert_eq!(
        (field("status"), field("status_code")),
        ("success".into(), "Ok".into())
    );
    assert_eq!(
        (field("items"), field("items_failed")),
        (2.into(), 1.into())
    );
    assert_eq!(field("about"), "[\"first\"]");
    assert!(uuid::Uuid::parse_str(field("request_id").as_str().unwrap()).is_ok());
    assert!(field("microseconds").is_u64());
}

#[tokio::test]
async fn refused_calls_and_unknown_methods_leave_lines_too() {
    let fixture = audited().await;
    let lines = Lines::default();
    let _listening = lines.listen();
    let workload = fixture.peer(id("/workload"), "9");
    let ban = agents::BanAgentRequest {
        id: Some(wire_id("/spire/agent/x/y")),
    };
    workload.agents().ban_agent(ban.clone()).await.unwrap_err();
    let line = lines.one();
    assert_eq!(line["authorized_as"], "nobody");
    assert_eq!(line["caller_id"], "spiffe://example.org/workload");
    assert_eq!(line["caller_addr"], "127.0.0.1:4711");
    assert_eq!(line["status_code"], "PermissionDenied");
    assert!(line.get("about").is_none(), "{line}");
    // It passes the guard, and fails behind it.
    fixture.local().agents().ban_agent(ban).await.unwrap_err();
    let line = lines.one();
    assert_eq!(line["status_code"], "NotFound");
    assert_eq!(line["status_message"], "\"agent not found\"");
    assert_eq!(line["about"], "[\"spiffe://example.org/spire/agent/x/y\"]");
    access::told(&fixture.stranger(), "/nobody.Knows/This").await;
    let line = lines.one();
    assert_eq!(line["status_code"], "Unimplemented");
}

#[tokio::test]
async fn secrets_stay_out_of_it() {
    let fixture = audited().await;
    let lines = Lines::default();
    let _listening = lines.listen();
    let make = agents::CreateJoinTokenRequest {
        ttl: 60,
        token: "s3cret-token".into(),
        agent_id: Some(wire_id("/node")),
    };
    let mut client = fixture.local().agents();
    client.create_join_token(make).await.unwrap();
    attest::attest(
        &fixture.stranger(),
        vec![attest::step("join_token", "s3cret-wrong")],
    )
    .await
    .unwrap_err();
    let text = lines.text();
    assert!(text.contains("spiffe://example.org/node"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_stream_leaves_its_line_at_its_end() {
    let fixture = audited().await;
    let agent = fixture.agent("a", &[]).await;
    let lines = Lines::default();
    let _listening = lines.listen();
    let request =
        countersign_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest::default();
    let mut client = agent.entries();
    let stream = client
        .sync_authorized_entries(tokio_stream::iter([request]))
        .await
        .unwrap();
    assert_eq!(lines.take().len(), 0, "it has not ended");
    let mut stream = stream.into_inner();
    while stream.message().await.unwrap().is_some() {}
    let line = lines.one();
    assert_eq!(line["authorized_as"], "agent");
    assert_eq!(line["status"], "success");
    // One that is given up ends too.
    let request =
        countersign_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest::default();
    let stream = client
        .sync_authorized_entries(tokio_stream::iter([request]))
        .await
        .unwrap();
    drop(stream);
    assert_eq!(lines.one()["status_code"], "Cancelled");
}

#[tokio::test]
async fn unidentified_callers_do_not_use_up_the_lines_of_others() {
    let fixture = audited().await;
    let lines = Lines::default();
    let _listening = lines.listen();
    let (_, at_once) = crate::limits::AUDIT_UNIDENTIFIED;
    let mut bundles = fixture.stranger().bundles();
    for _ in 0..at_once * 2 {
        let request =
            countersign_proto::spire::api::server::bundle::v1::GetBundleRequest::default();
        bundles.get_bundle(request).await.unwrap();
    }
    // What was earned meanwhile is little beside that.
    let written = lines.take().len();
    assert!(
        written < usize::try_from(at_once).unwrap() * 3 / 2,
        "{written}"
    );
    let count = agents::CountAgentsRequest::default();
    fixture.local().agents().count_agents(count).await.unwrap();
    assert_eq!(lines.one()["authorized_as"], "local");
}
