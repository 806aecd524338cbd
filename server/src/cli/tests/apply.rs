//! `entry apply` against a real server.

use super::*;

const PLANNER: &str = r#"
entry {
    spiffe_id = "spiffe://example.org/planner"
    parent_id = "spiffe://example.org/node1"
    selectors = ["unix:uid:1000"]
}
"#;
const CODER: &str = r#"
entry {
    spiffe_id = "spiffe://example.org/coder"
    parent_id = "spiffe://example.org/node1"
    selectors = ["unix:uid:1001"]
    x509_svid_ttl = 60
}
"#;

/// A file that can be written again.
struct File(tempfile::NamedTempFile);

impl File {
    fn new(text: &str) -> Self {
        let file = Self(tempfile::NamedTempFile::new().unwrap());
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(self.0.path(), text).unwrap();
    }

    async fn apply(&self, server: &Server, flags: &[&str]) -> Answer {
        let path = self.0.path().to_str().unwrap();
        let verb = ["entry", "apply", "-f", path];
        server.run(&[&verb, flags].concat()).await
    }
}

async fn shown(server: &Server) -> Vec<Value> {
    let json = server.run(&["entry", "show", "-output", "json"]).await;
    let answer: Value = serde_json::from_str(&json.good()).unwrap();
    answer["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_second_run_finds_nothing_to_do() {
    let server = Server::start().await;
    let file = File::new(&[PLANNER, CODER].concat());
    let dry = file.apply(&server, &["-dryRun"]).await.good();
    assert!(
        dry.contains("+ create spiffe://example.org/planner\n"),
        "{dry}"
    );
    assert!(dry.contains("x509_svid_ttl          60\n"), "{dry}");
    assert!(dry.ends_with("Nothing was changed (-dryRun)\n"), "{dry}");
    assert_eq!(shown(&server).await.len(), 0);
    let first = file.apply(&server, &[]).await.good();
    assert!(
        first.ends_with("Done: 2 created, 0 updated, 0 deleted, 0 failed\n"),
        "{first}"
    );
    let before = shown(&server).await;
    let second = file.apply(&server, &[]).await.good();
    let want = "Difference: 0 to create, 0 to update, 0 to delete, 2 as they should be\n\
                Done: 0 created, 0 updated, 0 deleted, 0 failed\n";
    assert_eq!(second, want);
    assert_eq!(shown(&server).await, before, "revisions too");
    server.stop().await;
}

#[tokio::test]
async fn what_differs_is_updated_in_place_and_what_others_made_stays() {
    let server = Server::start().await;
    let by_hand = [
        "entry",
        "create",
        "-entryID",
        "by-hand",
        "-parentID",
        "spiffe://example.org/node1",
        "-spiffeID",
        "spiffe://example.org/planner",
        "-selector",
        "unix:uid:1000",
        "-hint",
        "old",
    ];
    server.run(&by_hand).await.good();
    let other = [
        "entry",
        "create",
        "-parentID",
        "spiffe://example.org/node1",
        "-spiffeID",
        "spiffe://example.org/other",
        "-selector",
        "unix:uid:7",
    ];
    server.run(&other).await.good();
    let file = File::new(&["set = \"team\"\n", PLANNER, CODER].concat());
    let message = file.apply(&server, &["-prune"]).await.good();
    assert!(
        message.contains("~ update spiffe://example.org/planner (by-hand)\n"),
        "{message}"
    );
    assert!(
        message.contains("    hint                   old -> (none)\n"),
        "{message}"
    );
    let entries = shown(&server).await;
    let of = |path: &str| {
        let entry = entries.iter().find(|e| e["spiffe_id"]["path"] == path);
        entry
            .unwrap_or_else(|| panic!("{path} is not there"))
            .clone()
    };
    assert_eq!(of("/planner")["revision_number"], "1");
    assert!(of("/coder")["id"].as_str().unwrap().starts_with("team."));
    assert_eq!(of("/other")["revision_number"], "0");
    server.stop().await;
}

#[tokio::test]
async fn pruning_takes_what_the_set_made_and_nothing_else() {
    let server = Server::start().await;
    let other_set = File::new(&["set = \"team-b\"\n", PLANNER].concat());
    other_set.apply(&server, &[]).await.good();
    let file = File::new(&["set = \"team\"\n", CODER].concat());
    file.apply(&server, &[]).await.good();
    // The coder gets other selectors, which makes another entry of it.
    file.write(&["set = \"team\"\n", &CODER.replace("1001", "1002")].concat());
    let kept = file.apply(&server, &[]).await.good();
    assert!(
        kept.contains("1 entry of the set \"team\" not in the file; -prune deletes"),
        "{kept}"
    );
    assert_eq!(shown(&server).await.len(), 3);
    let dry = file.apply(&server, &["-prune", "-dryRun"]).await.good();
    assert!(
        dry.contains("- delete spiffe://example.org/coder (team."),
        "{dry}"
    );
    assert_eq!(shown(&server).await.len(), 3);
    let pruned = file.apply(&server, &["-prune"]).await.good();
    assert!(
        pruned.ends_with("Done: 0 created, 0 updated, 1 deleted, 0 failed\n"),
        "{pruned}"
    );
    let left = shown(&server).await;
    assert_eq!(left.len(), 2);
    assert!(
        left.iter()
            .any(|e| e["selectors"][0]["value"] == "uid:1002")
    );
    server.stop().await;
}

#[tokio::test]
async fn a_file_without_a_set_prunes_nothing() {
    let server = Server::start().await;
    let message = File::new(PLANNER).apply(&server, &["-prune"]).await;
    assert_eq!(message.exit, ExitCode::FAILURE);
    assert!(
        message.err().contains("add `set = \"name\"` to it"),
        "{}",
        message.err()
    );
    assert_eq!(shown(&server).await.len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_deleted_after_something_failed() {
    let server = Server::start().await;
    let file = File::new(&["set = \"team\"\n", PLANNER].concat());
    file.apply(&server, &[]).await.good();
    // This trust domain's bundle is not there, so the server refuses the entry.
    let coder = CODER.replace("x509_svid_ttl = 60", "federates_with = [\"nobody.org\"]");
    file.write(&["set = \"team\"\n", &coder].concat());
    let message = file.apply(&server, &["-prune"]).await;
    assert_eq!(message.exit, ExitCode::FAILURE);
    let err = message.err();
    assert!(
        err.contains("Failed to create spiffe://example.org/coder (team."),
        "{err}"
    );
    assert!(err.contains("unable to find federated bundle"), "{err}");
    assert!(err.contains("1 entry was not deleted"), "{err}");
    assert_eq!(shown(&server).await.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn conflicting_ids_are_reported_before_anything_is_changed() {
    let server = Server::start().await;
    File::new(PLANNER).apply(&server, &[]).await.good();
    let named = PLANNER.replace("entry {", "entry {\n    id = \"mine\"");
    let message = File::new(&[CODER, &named].concat())
        .apply(&server, &[])
        .await;
    assert_eq!(message.exit, ExitCode::FAILURE);
    assert!(
        message
            .err()
            .contains("spiffe://example.org/planner (ID mine): the server has an entry"),
        "{}",
        message.err()
    );
    assert_eq!(shown(&server).await.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn programs_read_the_difference_as_json() {
    let server = Server::start().await;
    let file = File::new(&["set = \"team\"\n", PLANNER].concat());
    file.apply(&server, &[]).await.good();
    file.write(
        &[
            "set = \"team\"\n",
            &PLANNER.replace("}\n", "    admin = true\n}\n"),
            CODER,
        ]
        .concat(),
    );
    let json = file.apply(&server, &["-output", "json"]).await.good();
    let json: Value = serde_json::from_str(&json).unwrap();
    let difference = &json["difference"];
    assert_eq!(
        difference["create"][0]["spiffe_id"],
        "spiffe://example.org/coder"
    );
    let change = serde_json::json!({ "from": false, "to": true });
    assert_eq!(difference["update"][0]["changes"]["admin"], change);
    assert_eq!(json["done"]["created"], 1);
    assert_eq!(json["done"]["updated"], 1);
    server.stop().await;
}
