//! Signing for workloads.

use countersign_proto::spire::api::server::svid::v1 as wire;

use super::*;

fn params(entry_id: &str, csr: bytes::Bytes) -> wire::NewX509svidParams {
    wire::NewX509svidParams {
        entry_id: entry_id.into(),
        csr,
    }
}

#[tokio::test]
async fn each_item_is_answered_in_its_place() {
    let fixture = Fixture::new().await;
    let caller = fixture.agent("a", &[]).await;
    let mine = types::Entry {
        x509_svid_ttl: 60,
        dns_names: vec!["coder.example.org".into()],
        ..entry("/coder", "/spire/agent/x509pop/a")
    };
    let made = create(
        &fixture.local(),
        vec![mine, entry("/other", "/spire/agent/x509pop/b")],
    )
    .await;
    let (mine, other) = (made[0].id.as_str(), made[1].id.as_str());
    let mut broken = csr().to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let request = wire::BatchNewX509svidRequest {
        params: vec![
            params(other, csr()),
            params(mine, csr()),
            params("unknown", csr()),
            params("", csr()),
            params(mine, bytes::Bytes::new()),
            params(mine, "no".into()),
            params(mine, broken.into()),
            params(mine, csr()),
        ],
    };
    let results = caller
        .svids()
        .batch_new_x509svid(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let statuses: Vec<types::Status> = results.iter().map(|r| r.status.clone().unwrap()).collect();
    let codes: Vec<Code> = statuses.iter().map(code).collect();
    let (ok, invalid) = (Code::Ok, Code::InvalidArgument);
    let want = [
        Code::NotFound,
        ok,
        Code::NotFound,
        invalid,
        invalid,
        invalid,
        invalid,
        ok,
    ];
    assert_eq!(codes, want, "{statuses:?}");
    assert_eq!(statuses[0].message, "entry not found or not authorized");
    assert_eq!(statuses[1].message, "OK");
    for i in [1, 7] {
        let svid = results[i].svid.clone().unwrap();
        let leaf = fixture.verified(&svid);
        assert_eq!(leaf.id, id("/coder"));
        assert_eq!(leaf.not_after.as_secs(), START + 60);
        assert_eq!(
            (svid.expires_at, svid.hint.as_str()),
            (leaf.not_after.as_i64(), "")
        );
    }
}

#[tokio::test]
async fn a_batch_is_neither_empty_nor_endless() {
    let fixture = Fixture::new().await;
    let mut client = fixture.agent("a", &[]).await.svids();
    let empty = client
        .batch_new_x509svid(wire::BatchNewX509svidRequest::default())
        .await;
    let empty = empty.unwrap_err();
    assert_eq!(
        (empty.code(), empty.message()),
        (Code::InvalidArgument, "missing parameters")
    );
    let long = wire::BatchNewX509svidRequest {
        params: vec![params("x", "y".into()); 501],
    };
    let long = client.batch_new_x509svid(long).await.unwrap_err();
    assert_eq!(long.code(), Code::ResourceExhausted);
    assert_eq!(long.message(), "rate (501) exceeds burst size (500)");
}
