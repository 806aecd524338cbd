//! What a node agent does when something is wrong: a message that says what to do, and an end.

use super::*;

#[tokio::test]
async fn a_banned_or_refused_node_forgets_its_svid_and_says_why() {
    let rig = Rig::new().await;
    for (reason, says) in [
        (Reason::AgentBanned, "banned this node"),
        (Reason::AgentExpired, "expired by the server's clock"),
        (Reason::AgentNotAttested, "evicted"),
        (Reason::AgentNotActive, "a newer SVID"),
        (Reason::AgentMustReattest, "attest again"),
    ] {
        rig.server.state().failing.clear();
        rig.server.state().tokens.insert("next".into());
        let agent = rig.running(Some("next")).await;
        rig.server
            .state()
            .failing
            .insert("SyncAuthorizedEntries", denied(reason));
        rig.clock.advance(INTERVAL).await;
        let error = agent.task.await.unwrap().unwrap_err();
        gone(&agent.socket, &agent.lock).await;
        assert!(error.to_string().contains(says), "{reason:?}: {error}");
        assert!(error.to_string().contains("join token"), "{error}");
        assert!(rig.agent_state()["svid"].is_null(), "{reason:?}");
    }
}

#[tokio::test]
async fn a_refusal_without_a_reason_is_a_passing_fault() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", Status::permission_denied("policy"));
    rig.clock.advance(INTERVAL).await;
    rig.until(|| rig.calls("SyncAuthorizedEntries") == 2).await;
    rig.server.state().failing.clear();
    rig.register("another", &own());
    // When the next try comes depends on the jitter.
    while rig.calls("BatchNewX509SVID") < 2 {
        rig.clock.advance(Duration::from_secs(1)).await;
        pause().await;
    }
    assert_eq!(agent.ids().await.len(), 2);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_node_refused_at_the_start_forgets_its_svid_and_ends() {
    let rig = Rig::new().await;
    rig.running(Some("token")).await.end().await.unwrap();
    rig.server.state().node = None;
    let error = rig.refused(rig.config(None)).await;
    assert!(
        error.contains("evicted") && error.contains("join token"),
        "{error}"
    );
    assert!(rig.agent_state()["svid"].is_null());
    let error = rig.refused(rig.config(None)).await;
    assert!(error.contains("no join token"), "{error}");
    rig.server.state().tokens.insert("second".into());
    rig.running(Some("second")).await.end().await.unwrap();
}

#[tokio::test]
async fn used_expired_or_missing_tokens_end_the_start_with_advice() {
    let rig = Rig::new().await;
    for token in [Some("unknown"), Some("expired"), None] {
        let error = rig.refused(rig.config(token)).await;
        assert!(
            error.contains("countersign-server token generate"),
            "{token:?}: {error}"
        );
        assert!(
            !error.contains("unknown"),
            "the token itself is not told: {error}"
        );
    }
    let file = AgentConfig {
        node_attestor: Arc::new(JoinTokenAttestor {
            source: Some(JoinTokenSource::File(rig.path("no-token"))),
        }),
        ..rig.config(None)
    };
    assert!(rig.refused(file).await.contains("no-token"));
}

#[tokio::test]
async fn a_wrong_trust_bundle_ends_the_start_and_spends_no_token() {
    let rig = Rig::new().await;
    let wrong = pem::certificates([TestCa::new(NOW).authority().der()]);
    std::fs::write(rig.path("bundle.pem"), wrong).unwrap();
    let error = rig.refused(rig.config(Some("token"))).await;
    assert!(
        error.contains("trust bundle") && error.contains("countersign-server bundle show"),
        "{error}"
    );
    assert_eq!(rig.calls("AttestAgent"), 0);
    assert!(rig.server.state().tokens.contains("token"));
}

#[tokio::test]
async fn a_wrong_clock_is_reported_and_costs_no_second_token() {
    let rig = Rig::new().await;
    rig.server.state().ahead = Duration::from_secs(100);
    let error = rig.refused(rig.config(Some("token"))).await;
    assert!(
        error.contains("this machine's clock is 100 s behind the server's"),
        "{error}"
    );
    // The clock was set right: the SVID that was issued then is used.
    rig.server.state().ahead = Duration::ZERO;
    rig.clock.set(NOW.after(Duration::from_secs(100)));
    rig.running(None).await.end().await.unwrap();
}

#[tokio::test]
async fn an_svid_on_disk_that_is_from_the_future_tells_of_the_clock() {
    let rig = Rig::new().await;
    rig.running(Some("token")).await.end().await.unwrap();
    rig.clock.set(NOW.before(Duration::from_secs(120)));
    let error = rig.refused(rig.config(None)).await;
    assert!(
        error.contains("by this machine's clock: set the clock"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_certificate_not_valid_now_blames_the_clock() {
    let rig = Rig::new().await;
    rig.clock.set(NOW.before(Duration::from_secs(3600)));
    let agent = rig.start(rig.config(Some("token")));
    // Tried again for a minute, since clocks are often set just after the start.
    for _ in 0..PATIENCE {
        if agent.task.is_finished() {
            break;
        }
        rig.clock.advance(Duration::from_secs(1)).await;
        pause().await;
    }
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("valid from") && error.contains("clock"),
        "{error}"
    );
    assert!(rig.server.state().tokens.contains("token"));
}

#[tokio::test]
async fn an_absent_server_is_tried_for_a_minute_and_then_named() {
    let rig = Rig::new().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let agent = rig.start(AgentConfig {
        server: nobody.to_string(),
        ..rig.config(Some("token"))
    });
    let mut seconds = 0;
    while !agent.task.is_finished() {
        rig.clock.advance(Duration::from_secs(1)).await;
        seconds += 1;
        pause().await;
    }
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains(&nobody.to_string()), "{error}");
    assert!(seconds > 30, "gave up after {seconds} s");
}

#[tokio::test]
async fn a_second_node_agent_gets_neither_socket_nor_data_dir() {
    let rig = Rig::new().await;
    let first = rig.running(Some("token")).await;
    let same_socket = AgentConfig {
        key_store: KeyStore::Disk(rig.path("other")),
        ..rig.config(Some("x"))
    };
    let error = rig.refused(same_socket).await;
    assert!(error.contains("already serves the socket"), "{error}");
    let same_data = AgentConfig {
        socket_path: rig.path("other.sock"),
        ..rig.config(Some("x"))
    };
    let error = rig.refused(same_data).await;
    assert!(error.contains("in use by another node agent"), "{error}");
    assert_eq!(rig.calls("AttestAgent"), 1, "no token was spent on it");
    assert_eq!(first.ids().await.len(), 1, "the first one is not disturbed");
    first.end().await.unwrap();
}

#[tokio::test]
async fn a_too_long_socket_path_is_refused_before_the_token_is_spent() {
    let rig = Rig::new().await;
    let long = rig.path(&"x".repeat(120));
    let error = rig
        .refused(AgentConfig {
            socket_path: long,
            ..rig.config(Some("token"))
        })
        .await;
    assert!(error.contains("choose a shorter one"), "{error}");
    let file = rig.path("file");
    std::fs::write(&file, "").unwrap();
    let unwritable = AgentConfig {
        key_store: KeyStore::Disk(file.join("data")),
        ..rig.config(Some("token"))
    };
    assert!(rig.refused(unwritable).await.contains("data_dir"));
    assert!(rig.server.state().tokens.contains("token"));
}

#[tokio::test]
async fn an_svid_that_expired_during_an_outage_ends_the_agent() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    rig.server
        .state()
        .failing
        .insert("RenewAgent", Status::unavailable("not now"));
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", Status::unavailable("not now"));
    for _ in 0..PATIENCE {
        if agent.task.is_finished() {
            break;
        }
        rig.clock.advance(Duration::from_secs(60)).await;
        pause().await;
    }
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("expired at") && error.contains("token generate"),
        "{error}"
    );
    let late = rig.refused(rig.config(None)).await;
    assert!(
        late.contains("expired at") && late.contains("this machine's clock"),
        "{late}"
    );
}

#[tokio::test]
async fn an_entry_of_another_trust_domain_is_left_out() {
    let rig = Rig::new().await;
    rig.register("foreign", &own());
    rig.server
        .state()
        .entries
        .get_mut("foreign")
        .unwrap()
        .spiffe_id
        .as_mut()
        .unwrap()
        .trust_domain = "other.org".into();
    let agent = rig.running(Some("token")).await;
    assert_eq!(agent.ids().await, ["spiffe://example.org/workload"]);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_foreign_bundle_does_not_replace_the_own_one() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let own = rig.server.state().bundle.clone();
    rig.server.state().bundle.trust_domain = TrustDomain::new("other.org").unwrap();
    rig.server.state().bundle.x509_authorities = vec![TestCa::new(NOW).authority().clone()];
    rig.sync().await;
    // The next answer is right again, and the server is still believed.
    rig.server.state().bundle = own.clone();
    rig.register("another", &self::own());
    while rig.calls("BatchNewX509SVID") < 2 {
        rig.clock.advance(Duration::from_secs(1)).await;
        pause().await;
    }
    let answer = next(&mut agent.svids().await).await;
    assert_eq!(answer.svids.len(), 2);
    assert_eq!(answer.svids[0].bundle, own.x509_der());
    agent.end().await.unwrap();
}

#[tokio::test]
async fn renewals_near_the_end_of_an_authority_are_paced() {
    let rig = Rig::new().await;
    let lives = |secs| {
        let mut state = rig.server.state();
        state.svid_ttl = Duration::from_secs(secs);
        state.agent_ttl = Duration::from_secs(secs);
    };
    lives(20);
    let agent = rig.running(Some("token")).await;
    // As if the authority ended in 20 s: whatever is signed from now on has less and less of a life.
    let (renewed, signed) = (rig.calls("RenewAgent"), rig.calls("BatchNewX509SVID"));
    for left in (1..20).rev() {
        lives(left);
        rig.clock.advance(Duration::from_secs(1)).await;
        for _ in 0..20 {
            pause().await;
        }
    }
    let (renewals, signatures) = (
        rig.calls("RenewAgent") - renewed,
        rig.calls("BatchNewX509SVID") - signed,
    );
    assert!((1..=8).contains(&renewals), "{renewals} renewals");
    assert!((1..=8).contains(&signatures), "{signatures} signatures");
    agent.end().await.unwrap();
}
