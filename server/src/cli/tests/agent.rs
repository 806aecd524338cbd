//! Node agents listed, shown, banned, evicted and purged.

use super::*;

#[tokio::test]
async fn only_agents_that_expired_and_can_attest_again_are_purged() {
    let server = Server::start().await;
    let none = server.run(&["agent", "purge", "-expiredFor", "0s"]).await;
    assert_eq!(none.good(), "No agents to purge.\n");
    // It has a token's SVID, and could not come back.
    let token = server.run(&["token", "generate"]).await.good();
    let token = token.lines().next().unwrap().strip_prefix("Token: ");
    server.attest(token.unwrap()).await;
    let json = server.run(&["agent", "purge", "-output", "json"]).await;
    assert_eq!(json.good(), "{\"expired_agents\":[]}\n");
    server.stop().await;
}

#[tokio::test]
async fn an_empty_list_of_agents_says_so() {
    let server = Server::start().await;
    assert_eq!(
        server.run(&["agent", "list"]).await.good(),
        "No attested agents found\n"
    );
    assert_eq!(
        server.run(&["agent", "count"]).await.good(),
        "0 attested agents\n"
    );
    let json = server
        .run(&["agent", "list", "-output", "json"])
        .await
        .json();
    assert_eq!(
        json,
        serde_json::json!({ "agents": [], "next_page_token": "" })
    );
    let id = "spiffe://example.org/spire/agent/join_token/t";
    for verb in ["show", "evict", "ban"] {
        let message = server.run(&["agent", verb, "-spiffeID", id]).await.failed();
        assert_eq!(
            message,
            "Error: rpc error: code = NotFound desc = agent not found\n"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn an_attested_agent_is_listed_shown_banned_and_evicted() {
    let server = Server::start().await;
    let token = server
        .run(&["token", "generate", "-output", "json"])
        .await
        .json();
    let token = token["value"].as_str().unwrap();
    let id = server.attest(token).await;
    assert_eq!(
        id,
        format!("spiffe://example.org/spire/agent/join_token/{token}")
    );

    let listed = server.run(&["agent", "list"]).await.good();
    let lines: Vec<_> = listed.lines().collect();
    let [
        found,
        "",
        spiffe_id,
        "Attestation type  : join_token",
        expires,
        serial,
        reattest,
        "",
    ] = lines[..]
    else {
        panic!("{listed}")
    };
    assert_eq!(found, "Found 1 attested agent:");
    assert_eq!(spiffe_id, format!("SPIFFE ID         : {id}"));
    assert!(
        expires.starts_with("Expiration time   : 2") && expires.ends_with(" +0000 UTC"),
        "{expires}"
    );
    assert!(serial.starts_with("Serial number     : "), "{serial}");
    assert_eq!(reattest, "Can re-attest     : false");
    assert_eq!(
        server.run(&["agent", "count"]).await.good(),
        "1 attested agent\n"
    );
    let shown = server
        .run(&["agent", "show", "-spiffeID", &id])
        .await
        .good();
    assert!(
        shown.starts_with("Found an attested agent given its SPIFFE ID\n\nSPIFFE ID         : "),
        "{shown}"
    );
    let json = server
        .run(&["agent", "show", "-spiffeID", &id, "-output", "json"])
        .await
        .json();
    assert_eq!(
        (&json["attestation_type"], &json["banned"]),
        (&"join_token".into(), &false.into())
    );

    let banned = server.run(&["agent", "ban", "-spiffeID", &id]).await.good();
    assert_eq!(banned, "Agent banned successfully\n");
    let shown = server
        .run(&["agent", "list", "-banned", "true"])
        .await
        .good();
    assert!(shown.contains("\nBanned            : true\n"), "{shown}");
    assert_eq!(
        server
            .run(&["agent", "count", "-banned", "false"])
            .await
            .good(),
        "0 attested agents\n"
    );

    let evicted = server
        .run(&["agent", "evict", "-spiffeID", &id])
        .await
        .good();
    assert_eq!(evicted, "Agent evicted successfully\n");
    assert_eq!(
        server.run(&["agent", "count"]).await.good(),
        "0 attested agents\n"
    );
    server.stop().await;
}
