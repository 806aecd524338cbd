//! Configuration files as people write them, and what is said about the broken ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_ca::upstream::{DiskFiles, SpireSettings};
use countersign_identity::issue::Subject;
use countersign_identity::key::KeyType;

use super::*;

const MINIMAL: &str = r#"
server {
  trust_domain = "example.org"
  data_dir = "/var/lib/countersign"
}
plugins {
  KeyManager "memory" { plugin_data { } }
}
"#;

fn parse(text: &str) -> ServerConfig {
    ServerConfig::parse("server.conf", text, &Overrides::default())
        .unwrap()
        .0
}

fn refusals(text: &str) -> String {
    ServerConfig::parse("server.conf", text, &Overrides::default())
        .unwrap_err()
        .to_string()
}

/// A file in which the server section ends with `line`, which is then line 5.
fn with_line(line: &str) -> String {
    MINIMAL.replacen("countersign\"\n", &format!("countersign\"\n{line}\n"), 1)
}

#[test]
fn defaults_are_those_of_spire() {
    let config = parse(MINIMAL);
    assert_eq!(
        (config.bind_address.as_str(), config.bind_port),
        ("0.0.0.0", 8081)
    );
    assert_eq!(
        config.socket_path,
        Path::new("/tmp/spire-server/private/api.sock")
    );
    assert_eq!(config.authority.ca_ttl, Duration::from_secs(86_400));
    assert_eq!(config.authority.x509_svid_ttl, Duration::from_secs(3_600));
    assert_eq!(config.authority.agent_ttl, Duration::from_secs(3_600));
    assert_eq!(config.authority.ca_key_type, KeyType::EcP256);
    assert_eq!(config.authority.ca_subject, Subject::authority());
    let jwt = config.authority.jwt.unwrap();
    assert_eq!(jwt.svid_ttl, Duration::from_secs(300));
    assert_eq!((jwt.key_type, jwt.issuer), (KeyType::EcP256, None));
    assert_eq!(
        config.rate_limits,
        RateLimits {
            attestation: true,
            signing: true
        }
    );
    assert_eq!(
        config.store,
        StoreChoice::Sled(PathBuf::from("/var/lib/countersign"))
    );
    assert!(config.node_attestors.is_empty());
}

#[test]
fn a_widely_read_guide_starts_the_server_as_it_stands() {
    let text = r#"
server {
  bind_address = "0.0.0.0"
  bind_port = "8081"
  trust_domain = "ai-agents.org"
}
plugins {
  NodeAttestor "join_token" {
    plugin_data {
    }
  }
  KeyManager "disk" {
    plugin_data {
      directory = "/opt/spire/data"
    }
  }
}
"#;
    let (config, warnings) =
        ServerConfig::parse("server.conf", text, &Overrides::default()).unwrap();
    assert_eq!(config.authority.trust_domain.as_str(), "ai-agents.org");
    assert_eq!(
        config.store,
        StoreChoice::Sled(PathBuf::from("/opt/spire/data"))
    );
    assert_eq!(
        config.key_manager,
        KeyManagerChoice::Disk(PathBuf::from("/opt/spire/data/keys"))
    );
    assert_eq!(config.node_attestors, [NodeAttestorChoice::JoinToken]);
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("data_dir is not set: the store goes to /opt/spire/data")),
        "{warnings:?}"
    );
}

#[test]
fn keys_of_the_file_are_taken() {
    let text = r#"
server {
  bind_address = "127.0.0.1"
  bind_port = 0
  trust_domain = "spiffe://example.org"
  data_dir = "./data"
  socket_path = "/run/s.sock"
  ca_ttl = "60s"
  ca_key_type = "rsa-4096"
  ca_subject {
    country = ["DE"]
    organization = ["Acme"]
    common_name = "Acme CA"
  }
  default_x509_svid_ttl = "20s"
  agent_ttl = "5m"
  ratelimit { attestation = false }
  log_level = "DEBUG"
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "./data/datastore.sqlite3"
    }
  }
  KeyManager "disk" { plugin_data { keys_path = "./data/keys.json" } }
}
"#;
    let (config, warnings) =
        ServerConfig::parse("server.conf", text, &Overrides::default()).unwrap();
    assert_eq!(config.authority.trust_domain.as_str(), "example.org");
    assert_eq!(config.authority.ca_key_type, KeyType::Rsa4096);
    assert_eq!(config.authority.ca_subject.common_name, "Acme CA");
    assert_eq!(config.authority.agent_ttl, Duration::from_secs(300));
    assert_eq!(
        config.rate_limits,
        RateLimits {
            attestation: false,
            signing: true
        }
    );
    assert_eq!(
        config.key_manager,
        KeyManagerChoice::Disk(PathBuf::from("./data/keys"))
    );
    assert_eq!(config.store, StoreChoice::Sled(PathBuf::from("./data")));
    assert_eq!(config.logs.level, Level::Debug);
    let told = |part: &str| warnings.iter().any(|w| w.to_string().contains(part));
    assert!(told("there is no SQLite here"), "{warnings:?}");
    assert!(told("set ca_ttl to 120s or more"), "{warnings:?}");
}

#[test]
fn flags_go_before_the_file() {
    let overrides = Overrides {
        bind_address: Some("::1".into()),
        bind_port: Some(0),
        socket_path: Some("/run/other.sock".into()),
        trust_domain: Some(TrustDomain::new("other.org").unwrap()),
        data_dir: Some("/elsewhere".into()),
        log_level: Some(Level::Warn),
        log_format: None,
        log_file: None,
    };
    let text = MINIMAL.replace(
        "trust_domain = \"example.org\"\n",
        "log_format = \"json\"\n",
    );
    let (config, _) = ServerConfig::parse("server.conf", &text, &overrides).unwrap();
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("::1", 0));
    assert_eq!(config.authority.trust_domain.as_str(), "other.org");
    assert_eq!(config.store, StoreChoice::Sled(PathBuf::from("/elsewhere")));
    let logs = LogOptions {
        level: Level::Warn,
        format: Format::Json,
        file: None,
    };
    assert_eq!(config.logs, logs);
}

#[test]
fn a_store_and_keys_in_memory_need_no_directory() {
    let text = r#"
server { trust_domain = "example.org" }
plugins {
  DataStore "memory" { plugin_data { } }
  KeyManager "memory" { plugin_data { } }
}
"#;
    let config = parse(text);
    assert_eq!(
        (config.store, config.key_manager),
        (StoreChoice::Memory, KeyManagerChoice::Memory)
    );
}

#[test]
fn each_fault_is_reported_with_its_line_and_key() {
    for (line, place, told) in [
        ("  bind_port = 65536", "server.conf:5:15", "bind_port"),
        ("  ca_ttl = \"1s\"", "server.conf:5:12", "ca_ttl"),
        ("  ca_ttl = \"yesterday\"", "server.conf:5:12", "ca_ttl"),
        (
            "  ca_key_type = \"ed25519\"",
            "server.conf:5:17",
            "is none of ec-p256, ec-p384, rsa-2048, rsa-4096",
        ),
        (
            "  default_x509_svid_ttl = \"1s\"",
            "server.conf:5:27",
            "default_x509_svid_ttl",
        ),
        (
            "  ratelimit { attestation = \"maybe\" }",
            "server.conf:5:29",
            "attestation",
        ),
        (
            "  ca_subject { country = [\"Germany\"] }",
            "server.conf:5:26",
            "two letters",
        ),
        (
            "  ca_subject { organization = [\"Acme\", \"Apex\"] }",
            "server.conf:5:31",
            "only one",
        ),
        ("  trust_domian = \"x\"", "server.conf:5:3", "trust_domain"),
        (
            "  admin_ids = [\"spiffe://example.org/admin\", \"admin\"]",
            "server.conf:5:15",
            "\"admin\" is not a SPIFFE ID",
        ),
    ] {
        let text = refusals(&with_line(line));
        assert!(
            text.contains(place) && text.contains(told),
            "{line}: {text}"
        );
    }
}

#[test]
fn missing_keys_are_reported() {
    let no_trust_domain = refusals(&MINIMAL.replace("trust_domain = \"example.org\"\n", ""));
    assert!(
        no_trust_domain.contains("server.conf:2:1: server.trust_domain is required"),
        "{no_trust_domain}"
    );
    let no_data_dir = refusals(&MINIMAL.replace("data_dir = \"/var/lib/countersign\"\n", ""));
    assert!(
        no_data_dir.contains("server.data_dir: it is required"),
        "{no_data_dir}"
    );
    let no_keys = refusals(&MINIMAL.replace("KeyManager \"memory\" { plugin_data { } }", ""));
    assert!(no_keys.contains("plugins needs a KeyManager"), "{no_keys}");
    let no_path = refusals(&MINIMAL.replace("\"memory\"", "\"disk\""));
    assert!(no_path.contains("keys_path is required"), "{no_path}");
}

#[test]
fn all_faults_are_reported_at_once() {
    let text = refusals(
        &with_line("  ca_ttl = \"1s\"\n  bind_port = \"x\"").replace("example.org", "EXAMPLE"),
    );
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn the_file_that_ships_is_right() {
    let text = include_str!("../../../config/server.conf");
    let (config, warnings) =
        ServerConfig::parse("server.conf", text, &Overrides::default()).unwrap();
    assert!(matches!(config.key_manager, KeyManagerChoice::Disk(_)));
    assert_eq!(warnings, []);
}

#[test]
fn jwt_svids_are_configured_apart_and_can_be_turned_off() {
    let jwt = |lines: &str| parse(&with_line(lines)).authority.jwt;
    let told = "ca_key_type = \"ec-p384\"\njwt_issuer = \"https://i.example\"\ndefault_jwt_svid_ttl = \"1m\"";
    let settings = jwt(told).unwrap();
    assert_eq!(settings.key_type, KeyType::EcP384);
    assert_eq!(settings.issuer.as_deref(), Some("https://i.example"));
    assert_eq!(settings.svid_ttl, Duration::from_secs(60));
    let rsa = jwt("ca_key_type = \"ec-p384\"\njwt_key_type = \"rsa-2048\"").unwrap();
    assert_eq!(rsa.key_type, KeyType::Rsa2048);
    assert!(jwt("disable_jwt_svids = true").is_none());
    assert!(jwt("disable_jwt_svids = false\njwt_issuer = \"\"").is_some());
    let wrong = refusals(&with_line(
        "disable_jwt_svids = true\njwt_key_type = \"none\"",
    ));
    assert!(wrong.contains("jwt_key_type"), "{wrong}");
    let long = refusals(&with_line(&format!(
        "jwt_issuer = \"{}\"",
        "i".repeat(2049)
    )));
    assert!(long.contains("2048"), "{long}");
}

#[test]
fn what_concerns_callers_and_nodes_is_read() {
    let config = parse(MINIMAL);
    assert!(config.admin_ids.is_empty() && !config.audit_log && !config.agent_id_selector);
    assert_eq!(config.prune_nodes, None);
    let text = with_line(
        "  admin_ids = [\"spiffe://other/admin\"]\n  audit_log_enabled = true\n  \
         prune_attested_nodes_expired_for = \"720h\"\n  prune_attested_nodes_batch_size = 5\n  \
         prune_tofu_nodes = true\n  experimental {\n agent_spiffe_id_as_selector = true\n }",
    );
    let config = parse(&text);
    let ids: Vec<_> = config.admin_ids.iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["spiffe://other/admin"]);
    assert!(config.audit_log && config.agent_id_selector);
    let prune = config.prune_nodes.unwrap();
    assert_eq!(prune.expired_for, Duration::from_secs(720 * 3600));
    assert_eq!((prune.tofu, prune.batch), (true, 5));
}

/// A file with the attestor `x509pop` and these lines in its data.
fn with_x509pop(data: &str) -> String {
    let plugin = format!("  NodeAttestor \"x509pop\" {{\n plugin_data {{\n{data}\n}}\n}}\n}}\n");
    let (start, _) = MINIMAL.rsplit_once('}').unwrap();
    format!("{start}{plugin}")
}

fn x509pop(data: &str) -> super::x509pop::X509PopChoice {
    let choices = parse(&with_x509pop(data)).node_attestors;
    let [NodeAttestorChoice::X509Pop(choice)] = choices.as_slice() else {
        panic!("{choices:?}")
    };
    choice.clone()
}

#[test]
fn the_attestor_x509pop_is_configured_as_in_spire() {
    use super::x509pop::X509PopMode;

    let external = x509pop("ca_bundle_path = \"ca.pem\"");
    assert_eq!(
        external.mode,
        X509PopMode::ExternalPki(vec!["ca.pem".into()])
    );
    let numbers = (external.max_intermediates, external.max_rsa_key_size);
    assert_eq!((numbers, external.verify_client_ip), ((4, 8_192), false));
    let two = x509pop("ca_bundle_paths = [\"a\", \"b\"]\nmax_intermediates = 2");
    assert_eq!(
        two.mode,
        X509PopMode::ExternalPki(vec!["a".into(), "b".into()])
    );
    assert_eq!(two.max_intermediates, 2);
    for (data, prefix) in [
        ("", "/spire-exchange/"),
        ("svid_prefix = \"/hosts\"", "/hosts/"),
        ("spiffe_prefix = \"/\"", "/"),
    ] {
        let spiffe = x509pop(&format!("mode = \"spiffe\"\n{data}"));
        assert_eq!(spiffe.mode, X509PopMode::Spiffe(prefix.into()), "{data}");
        assert_ne!(spiffe.path_template, external.path_template);
    }
    for (data, told) in [
        ("", "ca_bundle_path is required"),
        ("mode = \"other\"", "is none of external_pki, spiffe"),
        (
            "ca_bundle_path = \"a\"\nca_bundle_paths = [\"b\"]",
            "keep one of the two",
        ),
        (
            "mode = \"spiffe\"\nca_bundle_path = \"a\"",
            "have no place in the mode \"spiffe\"",
        ),
        (
            "ca_bundle_path = \"a\"\nmax_intermediates = 0",
            "a whole number from 1 to 32",
        ),
        (
            "ca_bundle_path = \"a\"\nagent_path_template = \"/{{ .Nmae }}\"",
            "there is no field .Nmae here, at character 5 of the template",
        ),
    ] {
        let refused = refusals(&with_x509pop(data));
        assert!(refused.contains(told), "{refused} does not say {told}");
    }
}

fn with_upstream(name: &str, data: &str) -> String {
    let plugin = format!(
        "plugins {{\n  UpstreamAuthority \"{name}\" {{\n    plugin_data {{\n{data}\n    }}\n  }}\n"
    );
    MINIMAL.replacen("plugins {\n", &plugin, 1)
}

#[test]
fn the_upstream_authority_disk_is_configured_as_in_spire() {
    assert_eq!(parse(MINIMAL).upstream, None);
    let files = "cert_file_path = \"ca.crt\"\nkey_file_path = \"ca.key\"";
    let mut wanted = DiskFiles {
        certificate: "ca.crt".into(),
        key: "ca.key".into(),
        bundle: None,
    };
    let upstream = parse(&with_upstream("disk", files)).upstream;
    assert_eq!(upstream, Some(UpstreamChoice::Disk(wanted.clone())));
    let files = format!("{files}\nbundle_file_path = \"roots.crt\"");
    wanted.bundle = Some("roots.crt".into());
    let upstream = parse(&with_upstream("disk", &files)).upstream;
    assert_eq!(upstream, Some(UpstreamChoice::Disk(wanted)));
    let told = refusals(&with_upstream("disk", "bundle_file_path = \"roots.crt\""));
    for key in ["cert_file_path is required", "key_file_path is required"] {
        assert!(told.contains(key), "{told}");
    }
}

#[test]
fn the_upstream_authority_spire_is_configured_as_in_spire() {
    let data = |address: &str, port: &str| {
        format!(
            "server_address = \"{address}\"\nserver_port = {port}\nworkload_api_socket = \"/run/a.sock\"\n\
             experimental {{ require_pq_kem = true }}"
        )
    };
    for (address, port, target) in [
        ("up.example.org", "\"8081\"", "up.example.org:8081"),
        ("10.0.0.1", "8081", "10.0.0.1:8081"),
        ("::1", "8081", "[::1]:8081"),
        ("[::1]", "8081", "[::1]:8081"),
    ] {
        let wanted = SpireSettings {
            target: target.into(),
            workload_api: "/run/a.sock".into(),
            key_exchange: KeyExchange::RequirePostQuantum,
        };
        let upstream = parse(&with_upstream("spire", &data(address, port))).upstream;
        assert_eq!(upstream, Some(UpstreamChoice::Spire(wanted)));
    }
    let told = refusals(&with_upstream("spire", &data("up", "0")));
    assert!(told.contains("no server listens on port 0"), "{told}");
    let told = refusals(&with_upstream("spire", ""));
    for key in ["server_address", "server_port", "workload_api_socket"] {
        assert!(told.contains(&format!("{key} is required")), "{told}");
    }
}

#[test]
fn post_quantum_key_exchange_is_preferred_and_can_be_required() {
    let of = |line: &str| parse(&with_line(&format!("experimental {{ {line} }}"))).key_exchange;
    assert_eq!(of(""), KeyExchange::PreferPostQuantum);
    assert_eq!(of("require_pq_kem = true"), KeyExchange::RequirePostQuantum);
}
