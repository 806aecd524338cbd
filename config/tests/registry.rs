//! What becomes of known, unknown, ignored and not yet supported keys.

use countersign_config::{AGENT_KEYS, Document, Key, SERVER_KEYS};

/// All warnings, or all that is wrong, one a line.
fn verdict(text: &str, keys: &'static [Key]) -> Result<String, String> {
    let document = Document::parse("f", text, keys).map_err(|error| error.to_string())?;
    let ((), warnings) = document
        .read(|_| Some(()))
        .map_err(|error| error.to_string())?;
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    Ok(lines.join("\n"))
}

fn server(text: &str) -> Result<String, String> {
    verdict(text, SERVER_KEYS)
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_a_near_one() {
    assert_eq!(
        server("server {\n  bind_prot = 8081\n}").unwrap_err(),
        "f:2:3: unknown key \"bind_prot\" in server; did you mean \"bind_port\"?"
    );
    assert_eq!(
        server("server {\n  ratelimit { colour = 1 }\n}").unwrap_err(),
        "f:2:15: unknown key \"colour\" in server.ratelimit"
    );
    assert_eq!(
        server("sever { }").unwrap_err(),
        "f:1:1: unknown key \"sever\"; did you mean \"server\"?"
    );
    assert_eq!(
        verdict("server { }", AGENT_KEYS).unwrap_err(),
        "f:1:1: unknown key \"server\""
    );
}

#[test]
fn a_long_or_strange_key_is_shown_short_and_escaped() {
    let error = server(&format!("server {{ \"\\n{}\" = 1 }}", "x".repeat(500))).unwrap_err();
    assert!(
        error.contains(r#"unknown key "\nxxx"#) && error.len() < 200,
        "{error}"
    );
}

#[test]
fn a_key_may_be_set_once_in_whatever_case() {
    assert_eq!(
        server("server {\n  bind_port = 1\n  Bind_Port = 2\n}\nserver { }").unwrap_err(),
        "f:3:3: server.Bind_Port is defined twice, first on line 2\n\
         f:5:1: server is defined twice, first on line 1"
    );
}

#[test]
fn everything_that_is_wrong_is_reported_together_in_order() {
    let error = server(
        "server {\n  nonsense = 1\n  bind_port { }\n  ratelimit = 5\n  proxy_protocol_trusted_cidrs = [\"10.0.0.0/8\"]\n}\nplugins {\n  \
         KeyManager \"dsik\" { }\n}",
    )
    .unwrap_err();
    assert_eq!(
        error,
        "f:2:3: unknown key \"nonsense\" in server\n\
         f:3:3: server.bind_port takes a value (`bind_port = ...`), not a section\n\
         f:4:15: server.ratelimit is a section (`ratelimit { ... }`), not a number\n\
         f:5:3: server.proxy_protocol_trusted_cidrs is not supported yet: remove it\n\
         f:8:14: unknown KeyManager \"dsik\" in plugins; did you mean \"disk\"?"
    );
}

#[test]
fn an_unsupported_key_is_refused_unless_it_is_empty() {
    for refused in [
        "federation { bundle_endpoint { profile \"https_web\" { acme { email = \"x\" } } } }",
        "proxy_protocol_trusted_cidrs = [\"10.0.0.0/8\"]",
    ] {
        let error = server(&format!("server {{ {refused} }}")).unwrap_err();
        assert!(error.contains("is not supported yet"), "{refused}: {error}");
    }
    for taken in ["federation { }", "proxy_protocol_trusted_cidrs = []"] {
        assert_eq!(
            server(&format!("server {{ {taken} }}")).as_deref(),
            Ok(""),
            "{taken}"
        );
    }
}

#[test]
fn sections_under_names_of_the_users_are_checked_like_any_other() {
    let block = |inner: &str| format!("federates_with \"a.org\" {{ {inner} }}");
    let error =
        |inner: &str| server(&format!("server {{ federation {{ {inner} }} }}")).unwrap_err();
    let unknown = error(&block("bundle_endpoint_uri = \"x\""));
    let hint =
        "in server.federation.federates_with \"a.org\"; did you mean \"bundle_endpoint_url\"?";
    assert!(unknown.contains(hint), "{unknown}");
    let twice = error(&format!("{}\n{}", block(""), block("")));
    assert!(
        twice.contains("is defined twice, first on line 1"),
        "{twice}"
    );
    let value = error("federates_with = \"a.org\"");
    assert!(value.contains("is a section"), "{value}");
}

#[test]
fn an_ignored_key_is_a_warning_whatever_it_holds() {
    assert_eq!(
        server("telemetry {\n  Statsd { port = 9988 anything = [{}] }\n}\nserver {\n  profiling_port = 1\n}").unwrap(),
        "f:2:3: telemetry.Statsd has no effect: metrics are exported for Prometheus and by OTLP only\n\
         f:5:3: server.profiling_port has no effect: there is no built-in profiler"
    );
}

#[test]
fn plugins_that_are_programs_are_refused() {
    for kind in [
        "KeyManager \"disk\"",
        "NodeAttestor \"ours\"",
        "KeyManager \"aws_kms\"",
    ] {
        let error = server(&format!(
            "plugins {{ {kind} {{ plugin_cmd = \"/bin/x\" }} }}"
        ))
        .unwrap_err();
        assert!(
            error.contains("plugin_cmd: plugins are built in"),
            "{kind}: {error}"
        );
    }
}

#[test]
fn unusable_plugins_are_refused_unless_they_are_turned_off() {
    for (plugin, wanted) in [
        (
            "NodeAttestor \"aws_iid\" { plugin_data { a = 1 } }",
            "f:1:24: NodeAttestor \"aws_iid\" is not supported yet",
        ),
        (
            "UpstreamAuthority \"vault\" { }",
            "f:1:29: UpstreamAuthority \"vault\" is not supported yet",
        ),
        (
            "KeyManger \"disk\" { }",
            "f:1:11: unknown kind of plugin \"KeyManger\" in plugins; did you mean \"KeyManager\"?",
        ),
        (
            "NodeAttestor \"ours\" { }",
            "f:1:24: unknown NodeAttestor \"ours\" in plugins",
        ),
        (
            "KeyManager \"disk\" { plugin_data { key_path = 1 } }",
            "f:1:45: unknown key \"key_path\" in KeyManager \"disk\"; did you mean \"keys_path\"?",
        ),
        (
            "KeyManager \"disk\" { plugin_dat { } }",
            "f:1:31: unknown key \"plugin_dat\" in KeyManager \"disk\"; did you mean \"plugin_data\"?",
        ),
        (
            "KeyManager \"disk\" { plugin_data_file = \"x\" }",
            "f:1:31: KeyManager \"disk\".plugin_data_file is not supported yet: remove it",
        ),
        (
            "KeyManager \"disk\" { } KeyManager \"disk\" { }",
            "f:1:44: KeyManager \"disk\" is defined twice, first on line 1",
        ),
    ] {
        assert_eq!(
            server(&format!("plugins {{ {plugin} }}")).unwrap_err(),
            wanted,
            "{plugin}"
        );
    }
    for off in [
        "NodeAttestor \"aws_iid\"",
        "UpstreamAuthority \"disk\"",
        "Notifier \"ours\"",
    ] {
        assert_eq!(
            server(&format!("plugins {{ {off} {{ enabled = false }} }}")).as_deref(),
            Ok("")
        );
    }
}

#[test]
fn labels_nested_sections_and_json_describe_the_same_plugins() {
    for text in [
        "plugins { KeyManager \"disk\" { plugin_data { directory = \"d\" } } KeyManager \"memory\" { enabled = false } }",
        "plugins { KeyManager { disk { plugin_data = { directory = \"d\" } } } }",
        "{\"plugins\": {\"KeyManager\": {\"disk\": {\"plugin_data\": {\"directory\": \"d\"}}}}}",
        "{\"plugins\": {\"KeyManager\": [{\"disk\": {\"plugin_data\": {\"directory\": \"d\"}}}]}}",
        "{\"plugins\": [{\"KeyManager\": [{\"disk\": [{\"plugin_data\": [{\"directory\": \"d\"}]}]}]}]}",
    ] {
        let document = Document::parse("f", text, SERVER_KEYS).unwrap();
        let (found, _) = document
            .read(|document| {
                let plugin = document.required_plugin("KeyManager")?;
                Some((plugin.name, plugin.data.string("directory")?))
            })
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(found, ("disk", "d".to_owned()), "{text}");
    }
}

#[test]
fn a_single_plugin_is_required_and_refused_twice() {
    let needed = |text: &str| {
        let document = Document::parse("f", text, SERVER_KEYS).unwrap();
        let read = document.read(|document| {
            document
                .required_plugin("KeyManager")
                .map(|plugin| plugin.name)
        });
        read.map(|(name, _)| name)
            .map_err(|error| error.to_string())
    };
    assert_eq!(needed("plugins { KeyManager \"memory\" {} }"), Ok("memory"));
    assert_eq!(
        needed("server { }\nplugins { }").unwrap_err(),
        "f:2:1: plugins needs a KeyManager: `KeyManager \"name\" { plugin_data { } }`"
    );
    assert_eq!(
        needed("plugins {\n  KeyManager \"disk\" {}\n  KeyManager \"memory\" {}\n}").unwrap_err(),
        "f:3:14: there can be only one KeyManager: remove \"memory\" or the one before it"
    );
    assert_eq!(
        needed("plugins { KeyManager \"aws_kms\" {} }").unwrap_err(),
        "f:1:22: KeyManager \"aws_kms\" is not supported yet"
    );
}

/// Keys that SPIRE's references list and a file may hold: none is unknown here.
#[test]
fn every_documented_key_of_spire_is_known() {
    let known = |keys: &'static [Key], section: &str, names: &str| {
        for name in names.split_whitespace() {
            let error = verdict(&format!("{section} {{ {name} = [[]] }}"), keys)
                .err()
                .unwrap_or_default();
            assert!(!error.contains("unknown"), "{section}.{name}: {error}");
        }
    };
    known(
        SERVER_KEYS,
        "server",
        "admin_ids agent_ttl audit_log_enabled bind_address bind_port ca_key_type ca_subject ca_ttl data_dir \
         default_x509_svid_ttl default_jwt_svid_ttl experimental federation disable_jwt_svids jwt_key_type jwt_issuer \
         log_file log_level log_format log_source_location profiling_enabled proxy_protocol_trusted_cidrs \
         profiling_freq profiling_names profiling_port prune_attested_nodes_expired_for \
         prune_attested_nodes_batch_size prune_tofu_nodes ratelimit socket_path trust_domain \
         max_attested_node_info_staleness",
    );
    known(
        AGENT_KEYS,
        "agent",
        "admin_socket_path allow_unauthenticated_verifiers allowed_foreign_jwt_claims authorized_delegates data_dir \
         disable_sds_api disable_workload_api experimental insecure_bootstrap rebootstrap_mode rebootstrap_delay \
         join_token join_token_file log_file log_level log_format log_selectors log_source_location \
         profiling_enabled profiling_freq profiling_names profiling_port server_address server_port socket_path sds \
         trust_bundle_path trust_bundle_url trust_bundle_unix_socket trust_bundle_spiffe_workload_api \
         trust_bundle_format trust_domain workload_x509_svid_key_type availability_target x509_svid_cache_max_size \
         jwt_svid_cache_max_size",
    );
}
