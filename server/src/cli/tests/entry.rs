//! Registration entries by flags and from files.

use super::*;

#[tokio::test]
async fn entries_are_created_shown_updated_counted_and_deleted() {
    let server = Server::start().await;
    let planner = "\
Entry ID                : planner
SPIFFE ID               : spiffe://example.org/planner
Parent ID               : spiffe://example.org/node
Revision                : 0
X509-SVID TTL           : default
JWT-SVID TTL            : default
Selector                : unix:path:/usr/bin/planner
Selector                : unix:uid:1000

";
    let created = server.run(&CREATE).await.good();
    assert!(
        created.starts_with("Entry ID                : planner\n"),
        "{created}"
    );
    assert_eq!(
        server.run(&["entry", "show"]).await.good(),
        format!("Found 1 entry\n{planner}")
    );
    assert_eq!(
        server
            .run(&["entry", "show", "-entryID", "planner"])
            .await
            .good(),
        format!("Found 1 entry\n{planner}")
    );
    assert_eq!(
        server.run(&["entry", "count"]).await.good(),
        "1 registration entry\n"
    );
    let none = server
        .run(&["entry", "show", "-selector", "unix:uid:0"])
        .await
        .good();
    assert_eq!(none, "Found 0 entries\n");

    let update = [
        "entry",
        "update",
        "-entryID",
        "planner",
        "-parentID",
        "spiffe://example.org/node",
    ];
    let to = [
        "-spiffeID",
        "spiffe://example.org/planner",
        "-selector",
        "unix:uid:1001",
        "-x509SVIDTTL",
        "20",
    ];
    let updated = server.run(&[&update[..], &to[..]].concat()).await.good();
    assert!(
        updated.contains("Revision                : 1\n"),
        "{updated}"
    );
    assert!(
        updated.contains("X509-SVID TTL           : 20\n"),
        "{updated}"
    );

    let deleted = server
        .run(&["entry", "delete", "-entryID", "planner"])
        .await
        .good();
    assert_eq!(
        deleted,
        "Deleted entry with ID: planner\n\n\nDeleted 1 entries successfully\n"
    );
    assert_eq!(
        server.run(&["entry", "count"]).await.good(),
        "0 registration entries\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_batch_that_fails_in_part_says_which() {
    let server = Server::start().await;
    server.run(&CREATE).await.good();
    let again = server.run(&CREATE).await;
    let message = again.failed();
    assert!(
        message.starts_with(
            "Failed to create the following entry (code: AlreadyExists, msg: \"similar entry already exists\"):\n\
             Entry ID                : planner\n"
        ),
        "{message}"
    );
    assert!(
        message.ends_with("Error: failed to create one or more entries\n"),
        "{message}"
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"ids": ["planner", "nobody"]}"#).unwrap();
    let deleted = server
        .run(&["entry", "delete", "-file", file.path().to_str().unwrap()])
        .await;
    let message = deleted.failed();
    assert!(
        message.contains(
            "Failed to delete entry with ID nobody (code: NotFound, msg: \"entry not found\")\n"
        ),
        "{message}"
    );
    assert!(
        deleted
            .out()
            .contains("Deleted 1 entries successfully, but failed to delete 1 entries"),
        "{}",
        deleted.out()
    );
    server.stop().await;
}

#[tokio::test]
async fn entries_come_from_a_file_and_as_json() {
    let server = Server::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let entries = serde_json::json!({ "entries": [
        { "spiffe_id": "spiffe://example.org/b", "parent_id": "spiffe://example.org/node",
          "selectors": [{ "type": "unix", "value": "uid:2" }], "x509_svid_ttl": 30 },
        { "spiffe_id": "spiffe://example.org/a", "parent_id": "spiffe://example.org/node",
          "selectors": [{ "type": "unix", "value": "uid:1" }] },
    ]});
    std::fs::write(file.path(), entries.to_string()).unwrap();
    let created = server
        .run(&[
            "entry",
            "create",
            "-data",
            file.path().to_str().unwrap(),
            "-output",
            "json",
        ])
        .await;
    let created = created.json();
    assert_eq!(
        created["results"][0]["status"],
        serde_json::json!({ "code": 0, "message": "OK" })
    );
    assert_eq!(created["results"][0]["entry"]["x509_svid_ttl"], 30);

    let shown = server
        .run(&["entry", "show", "-output", "json"])
        .await
        .json();
    let paths: Vec<_> = shown["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["spiffe_id"]["path"])
        .collect();
    assert_eq!(paths, ["/a", "/b"]);
    assert_eq!(shown["next_page_token"], "");
    assert_eq!(
        server
            .run(&["entry", "count", "-output", "json"])
            .await
            .json(),
        serde_json::json!({ "count": 2 })
    );
    server.stop().await;
}
