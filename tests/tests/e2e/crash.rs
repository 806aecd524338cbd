//! kill -9 of the server while entries are created: it opens again every time, with every entry that was acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, ListEntriesRequest,
};
use countersign_proto::spire::api::types;
use countersign_tests::deployment::{Deployment, Settings, TRUST_DOMAIN};
use countersign_transport::dial::UnixConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{NODE, rounds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_entry_survives_kill_9() -> anyhow::Result<()> {
    let mut deployment = Deployment::new(NODE, Settings::default())?;
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds(8) {
        deployment
            .start_server()
            .await
            .with_context(|| format!("round {round}"))?;
        let mut client = connect(&deployment).await?;
        let missing = missing(&mut client, &acknowledged).await?;
        assert!(missing.is_empty(), "round {round}: lost {missing:?}");
        let creating = tokio::spawn(create_until_cut(client, round));
        // Not waiting for anything: the moment is meant to be arbitrary.
        tokio::time::sleep(Duration::from_millis(rand::random_range(1..150))).await;
        deployment
            .server
            .as_mut()
            .context("no server")?
            .kill()
            .await?;
        acknowledged.extend(creating.await?);
    }
    deployment.start_server().await?;
    let missing = missing(&mut connect(&deployment).await?, &acknowledged).await?;
    assert!(missing.is_empty(), "lost {missing:?}");
    assert!(!acknowledged.is_empty());
    println!(
        "{} entries acknowledged in {} rounds, none lost",
        acknowledged.len(),
        rounds(8)
    );
    Ok(())
}

async fn connect(deployment: &Deployment) -> anyhow::Result<EntryClient<Channel>> {
    let connector = UnixConnector::new(deployment.server_socket());
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await?;
    Ok(EntryClient::new(channel))
}

/// Creates entries, four at a time, until the server is gone; returns the paths of those that it acknowledged.
async fn create_until_cut(client: EntryClient<Channel>, round: usize) -> Vec<String> {
    let lanes = (0..4).map(|lane| {
        let mut client = client.clone();
        async move {
            let mut acknowledged = Vec::new();
            for i in 0.. {
                let path = format!("/r{round}/l{lane}/e{i}");
                let request = BatchCreateEntryRequest {
                    entries: vec![entry(&path)],
                    output_mask: None,
                };
                let Ok(response) = client.batch_create_entry(request).await else {
                    break;
                };
                let results = response.into_inner().results;
                if results
                    .iter()
                    .all(|r| r.status.as_ref().is_some_and(|s| s.code == 0))
                {
                    acknowledged.push(path);
                }
            }
            acknowledged
        }
    });
    let lanes: Vec<_> = lanes.map(tokio::spawn).collect();
    let mut all = Vec::new();
    for lane in lanes {
        all.extend(lane.await.unwrap_or_default());
    }
    all
}

fn entry(path: &str) -> types::Entry {
    let id = |path: &str| {
        Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: path.into(),
        })
    };
    types::Entry {
        spiffe_id: id(path),
        parent_id: id("/spire/agent/join_token/none"),
        selectors: vec![types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        }],
        ..Default::default()
    }
}

async fn missing(
    client: &mut EntryClient<Channel>,
    acknowledged: &BTreeSet<String>,
) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut request = ListEntriesRequest {
        page_size: 500,
        ..Default::default()
    };
    loop {
        let page = client.list_entries(request.clone()).await?.into_inner();
        found.extend(
            page.entries
                .into_iter()
                .filter_map(|e| e.spiffe_id)
                .map(|id| id.path),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    Ok(acknowledged.difference(&found).cloned().collect())
}
