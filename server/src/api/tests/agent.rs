//! The administration of node agents.

use super::*;

fn list(filter: Option<agents::list_agents_request::Filter>) -> agents::ListAgentsRequest {
    agents::ListAgentsRequest {
        filter,
        ..Default::default()
    }
}

#[tokio::test]
async fn agents_are_listed_in_pages_and_counted() {
    let fixture = Fixture::new().await;
    for name in ["a", "b", "c"] {
        fixture.agent(name, &["x:1"]).await;
    }
    let mut client = fixture.local().agents();
    let mut request = agents::ListAgentsRequest {
        page_size: 2,
        output_mask: Some(types::AgentMask::default()),
        ..Default::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = client
            .list_agents(request.clone())
            .await
            .unwrap()
            .into_inner();
        pages.push(page.agents.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [2, 1, 0]);
    let all = client.list_agents(list(None)).await.unwrap().into_inner();
    assert_eq!((all.agents.len(), all.next_page_token.as_str()), (3, ""));
    assert_eq!(all.agents[0].x509svid_serial_number, "1");
    let filter = agents::count_agents_request::Filter {
        by_banned: Some(true),
        ..Default::default()
    };
    let count = client
        .count_agents(agents::CountAgentsRequest {
            filter: Some(filter),
        })
        .await;
    assert_eq!(count.unwrap().into_inner().count, 0);
    let count = client
        .count_agents(agents::CountAgentsRequest { filter: None })
        .await;
    assert_eq!(count.unwrap().into_inner().count, 3);
    let bad = agents::ListAgentsRequest {
        page_size: 1,
        page_token: "x".into(),
        ..Default::default()
    };
    let status = client.list_agents(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(
        status.message(),
        "failed to list agents: could not parse token 'x'"
    );
}

#[tokio::test]
async fn an_agent_is_shown_banned_and_deleted() {
    let fixture = Fixture::new().await;
    fixture.agent("a", &[]).await;
    let mut client = fixture.local().agents();
    let name = Some(wire_id("/spire/agent/x509pop/a"));
    let get = agents::GetAgentRequest {
        id: name.clone(),
        output_mask: None,
    };
    assert!(
        !client
            .get_agent(get.clone())
            .await
            .unwrap()
            .into_inner()
            .banned
    );
    client
        .ban_agent(agents::BanAgentRequest { id: name.clone() })
        .await
        .unwrap();
    let shown = client.get_agent(get.clone()).await.unwrap().into_inner();
    assert!(shown.banned && shown.x509svid_serial_number.is_empty());
    client
        .delete_agent(agents::DeleteAgentRequest { id: name.clone() })
        .await
        .unwrap();
    let told = [
        client.get_agent(get).await.unwrap_err(),
        client
            .ban_agent(agents::BanAgentRequest { id: name.clone() })
            .await
            .unwrap_err(),
        client
            .delete_agent(agents::DeleteAgentRequest { id: name })
            .await
            .unwrap_err(),
    ];
    for status in told {
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "agent not found")
        );
    }
}

#[tokio::test]
async fn an_id_that_is_no_agents_is_refused() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().agents();
    let other = types::Spiffeid {
        trust_domain: "other".into(),
        path: "/spire/agent/a".into(),
    };
    for bad in [
        None,
        Some(wire_id("/workload")),
        Some(wire_id("")),
        Some(wire_id("x")),
        Some(other),
    ] {
        let request = agents::GetAgentRequest {
            id: bad,
            output_mask: None,
        };
        let status = client.get_agent(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with("invalid agent ID: "),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_join_token_comes_with_its_entry_and_takes_it_along() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().agents();
    let request = agents::CreateJoinTokenRequest {
        ttl: 600,
        token: "tok".into(),
        agent_id: Some(wire_id("/data-scrubber")),
    };
    let token = client
        .create_join_token(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (token.value.as_str(), token.expires_at),
        ("tok", 1_800_000_600)
    );
    let entries = fixture
        .index
        .entries(&Default::default(), crate::index::Page::All);
    let alias = &entries[0].value;
    assert_eq!(alias.spiffe_id, id("/data-scrubber"));
    assert_eq!(alias.parent_id, id("/spire/agent/join_token/tok"));
    let selector = "spiffe_id:spiffe://example.org/spire/agent/join_token/tok";
    assert_eq!(
        alias
            .selectors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [selector]
    );
    let again = client.create_join_token(request).await.unwrap_err();
    assert_eq!(again.code(), Code::Internal);
    assert!(
        again.message().starts_with("failed to create token: "),
        "{again}"
    );

    // Deleting the node takes the entry along; entries that somebody else made stay.
    create(
        &fixture.local(),
        vec![entry("/other", "/spire/agent/join_token/tok")],
    )
    .await;
    let node = Node {
        id: id("/spire/agent/join_token/tok"),
        attestation_type: "join_token".into(),
        ..node("x", &[])
    };
    let written = fixture.store.node_attested(&node).await.unwrap();
    fixture.index.visible(written).await.unwrap();
    let name = Some(wire_id("/spire/agent/join_token/tok"));
    client
        .delete_agent(agents::DeleteAgentRequest { id: name })
        .await
        .unwrap();
    let left = fixture
        .index
        .entries(&Default::default(), crate::index::Page::All);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].value.spiffe_id, id("/other"));
}

#[tokio::test]
async fn a_join_token_is_checked_before_it_is_made() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().agents();
    let good = agents::CreateJoinTokenRequest {
        ttl: 1,
        ..Default::default()
    };
    let made = client
        .create_join_token(good.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(uuid::Uuid::parse_str(&made.value).is_ok());
    let no_ttl = agents::CreateJoinTokenRequest {
        ttl: 0,
        ..good.clone()
    };
    let status = client.create_join_token(no_ttl).await.unwrap_err();
    assert_eq!(status.message(), "ttl is required, you must provide one");
    let reserved = agents::CreateJoinTokenRequest {
        agent_id: Some(wire_id("/spire/x")),
        ..good.clone()
    };
    let status = client.create_join_token(reserved).await.unwrap_err();
    assert!(status.message().starts_with("invalid agent ID"), "{status}");
    for token in ["a/b", "a b", "..", &"a".repeat(256)] {
        let bad = agents::CreateJoinTokenRequest {
            token: token.into(),
            ..good.clone()
        };
        let status = client.create_join_token(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{token}");
    }
}

#[tokio::test]
async fn an_agent_reports_its_version() {
    let fixture = Fixture::new().await;
    let mut client = fixture.agent("a", &[]).await.agents();
    let post = |version: &str| agents::PostStatusRequest {
        current_bundle_serial: 3,
        agent_version: version.into(),
    };
    let version = || {
        let node = fixture.index.node(&id("/spire/agent/x509pop/a")).unwrap();
        node.value.agent_version.clone()
    };
    client.post_status(post("1.2.3")).await.unwrap();
    assert_eq!(version(), "1.2.3");
    client.post_status(post("")).await.unwrap();
    assert_eq!(version(), "1.2.3");
    for bad in ["v".repeat(256), "1\nSPIFFE ID: x".into(), "\x1b[2J".into()] {
        let status = client.post_status(post(&bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad:?}");
    }
    assert_eq!(version(), "1.2.3");
}
