//! What files and flags become.

use super::*;
use crate::node_attestor::{BundleUrl, Rebootstrap, TrustSource};
use crate::workload_attestor::{Digest, Discover};

const PLUGINS: &str = r#"
plugins {
  KeyManager "disk" { plugin_data { directory = "/keys" } }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
"#;

fn file(agent: &str) -> String {
    format!("agent {{\n{agent}\n}}\n{PLUGINS}")
}

const LEAST: &str = r#"
server_address = "server"
trust_domain = "example.org"
trust_bundle_path = "bundle.pem""#;

fn parsed(text: &str) -> AgentConfig {
    AgentConfig::parse("agent.conf", text, &Overrides::default())
        .unwrap()
        .0
}

fn refused(text: &str) -> String {
    AgentConfig::parse("agent.conf", text, &Overrides::default())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_least_file_has_spires_defaults() {
    let config = parsed(&file(LEAST));
    assert_eq!(config.server, "server:8081");
    assert_eq!(config.socket_path, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.trust.source, TrustSource::File("bundle.pem".into()));
    assert_eq!(config.trust.rebootstrap, Rebootstrap::Never);
    assert_eq!(config.key_store, KeyStore::Disk("/keys".into()));
    let unix = AttestorConfig::Unix(Discover::UsersOnly);
    assert_eq!(config.workload_attestors, [unix]);
    assert_eq!(config.workload_key_type, KeyType::EcP256);
    assert_eq!(config.sync_interval, Duration::from_secs(5));
    assert_eq!(config.node_attestor.kind(), "join_token");
    assert!(config.node_attestor.prove().is_err());
    assert_eq!(config.cache.max_svids, 1000);
    assert!(config.svids_on_disk);
    assert_eq!(config.operators, OperatorEndpoints::default());
}

#[test]
fn the_file_that_ships_is_read() {
    let text = include_str!("../../../config/agent.conf");
    let (config, warnings) = AgentConfig::parse("agent.conf", text, &Overrides::default()).unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    let unix = AttestorConfig::Unix(Discover::Executable(Digest::AnySize));
    assert_eq!(config.workload_attestors, [unix]);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn flags_go_before_the_file() {
    let overrides = Overrides {
        server_address: Some("::1".into()),
        server_port: Some(9),
        trust: Some(TrustOverride::Insecure),
        data_dir: Some("/flag".into()),
        socket_path: Some("/flag.sock".into()),
        ..Overrides::default()
    };
    let text = file(LEAST).replace("directory = \"/keys\"", "");
    let (config, _) = AgentConfig::parse("agent.conf", &text, &overrides).unwrap();
    assert_eq!(config.server, "[::1]:9");
    assert_eq!(config.trust.source, TrustSource::Insecure);
    assert_eq!(config.key_store, KeyStore::Disk("/flag".into()));
    assert_eq!(config.socket_path, Path::new("/flag.sock"));
}

#[test]
fn flags_can_stand_in_for_what_the_file_must_have() {
    let overrides = Overrides {
        server_address: Some("server".into()),
        trust_domain: Some(TrustDomain::new("example.org").unwrap()),
        trust: Some(TrustOverride::Insecure),
        ..Overrides::default()
    };
    assert!(AgentConfig::parse("agent.conf", PLUGINS, &overrides).is_ok());
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_line() {
    let text =
        file("server_port = 0\nserver_adress = \"x\"\nlog_level = \"LOUD\"\nsocket_path = \"x\"");
    let told = refused(&text);
    for part in [
        "agent.conf:2:",
        "agent.conf:3:",
        "agent.conf:4:",
        "server_address is required",
        "trust_domain is required",
        "trust_bundle_path is required",
    ] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
}

#[test]
fn contradictions_and_what_is_not_supported_are_refused() {
    assert!(
        refused(&file(&format!("{LEAST}\ninsecure_bootstrap = true")))
            .contains("can't go together")
    );
    assert!(
        refused(&file(&format!("{LEAST}\ntrust_bundle_format = \"x509\"")))
            .contains("trust_bundle_format")
    );
    assert!(
        refused(&file(&format!(
            "{LEAST}\njoin_token = \"a\"\njoin_token_file = \"b\""
        )))
        .contains("can't go together")
    );
    let bad_token = refused(&file(&format!("{LEAST}\njoin_token = \"not/one\"")));
    assert!(
        bad_token.contains("not a join token") && !bad_token.contains("not/one"),
        "{bad_token}"
    );
    assert!(refused(&file(LEAST).replace("KeyManager", "KeyManagr")).contains("KeyManager"));
}

#[test]
fn trust_comes_from_one_source_which_a_flag_may_name() {
    let trust_of = |source: &str| {
        let file = file(LEAST).replace("trust_bundle_path = \"bundle.pem\"", source);
        AgentConfig::parse("agent.conf", &file, &Overrides::default())
            .map(|(config, _)| config.trust.source)
            .map_err(|error| error.to_string())
    };
    let workload_api = |path: &str| TrustSource::WorkloadApi(path.into());
    for (address, path) in [
        ("unix:///run/agent.sock", "/run/agent.sock"),
        ("unix:/run/agent.sock", "/run/agent.sock"),
    ] {
        let source = format!("trust_bundle_spiffe_workload_api = {address:?}");
        assert_eq!(trust_of(&source), Ok(workload_api(path)));
    }
    for address in [
        "tcp://127.0.0.1:8000",
        "unix://agent.sock",
        "/run/agent.sock",
    ] {
        let told = trust_of(&format!("trust_bundle_spiffe_workload_api = {address:?}"));
        assert!(told.unwrap_err().contains("only a Unix socket is believed"));
    }
    let both = "trust_bundle_url = \"https://example.org/b\"\ninsecure_bootstrap = true\n\
                trust_bundle_spiffe_workload_api = \"unix:///s\"";
    let told = trust_of(both).unwrap_err();
    for key in ["trust_bundle_spiffe_workload_api", "insecure_bootstrap"] {
        let wrong = format!("{key}: it can't go together with trust_bundle_url");
        assert!(told.contains(&wrong), "{told}");
    }
}

#[test]
fn trust_flags_override_the_file_and_the_rest_comes_from_it() {
    let overrides = Overrides {
        trust: Some(TrustOverride::Url("http://helper/bundle".into())),
        trust_format: Some(BundleFormat::Spiffe),
        rebootstrap_mode: Some(RebootstrapMode::Always),
        ..Overrides::default()
    };
    let text = file(&format!(
        "{LEAST}\ntrust_bundle_unix_socket = \"/run/helper.sock\"\nrebootstrap_delay = \"3m\""
    ));
    let (config, _) = AgentConfig::parse("agent.conf", &text, &overrides).unwrap();
    let url = BundleUrl::new("http://helper/bundle", Some(Path::new("/run/helper.sock"))).unwrap();
    assert_eq!(
        config.trust,
        Trust {
            source: TrustSource::Url(url),
            format: BundleFormat::Spiffe,
            rebootstrap: Rebootstrap::Always(Duration::from_secs(180)),
        }
    );
    let told = AgentConfig::parse("agent.conf", &file(LEAST), &overrides).unwrap_err();
    assert!(
        told.to_string().contains("-trustBundleUrl: only https"),
        "{told}"
    );
}

#[test]
fn rates_are_those_of_the_file_and_zero_is_none() {
    let config = parsed(&file(&format!(
        "{LEAST}\nexperimental {{ ratelimit {{\n fetch_x509_svid = 100\n fetch_secrets = 0\n }} }}"
    )));
    let rates = config.api.rates;
    assert_eq!(rates.fetch_x509_svid.map(u32::from), Some(100));
    assert_eq!((rates.fetch_secrets, rates.fetch_jwt_svid), (None, None));
    let negative = format!("{LEAST}\nexperimental {{ ratelimit {{ stream_secrets = -1 }} }}");
    assert!(refused(&file(&negative)).contains("experimental.ratelimit.stream_secrets"));
}

#[test]
fn what_is_not_offered_to_callers_is_said_by_the_file_or_a_flag() {
    let public = |text: &str, overrides: &Overrides| {
        let text = file(&format!("{LEAST}\n{text}"));
        let (config, _) = AgentConfig::parse("agent.conf", &text, overrides).unwrap();
        (config.api.workload_api, config.api.has_public_socket())
    };
    let flag = Overrides {
        disable_workload_api: true,
        ..Overrides::default()
    };
    assert_eq!(public("", &Overrides::default()), (true, true));
    assert_eq!(public("", &flag), (false, true));
    let disabled = "disable_workload_api = true\ndisable_sds_api = true";
    assert_eq!(public(disabled, &Overrides::default()), (false, false));
}

#[test]
fn the_size_limit_is_spires() {
    let with = |limit: &str| {
        let data = format!(
            "plugin_data {{ discover_workload_path = true\n workload_size_limit = {limit} }}"
        );
        let unix = format!("WorkloadAttestor \"unix\" {{ {data} }}");
        parsed(&file(LEAST).replace(UNIX, &unix)).workload_attestors
    };
    let executable = |digest| [AttestorConfig::Unix(Discover::Executable(digest))];
    assert_eq!(with("0"), executable(Digest::AnySize));
    assert_eq!(with("100"), executable(Digest::UpTo(100)));
    assert_eq!(with("-1"), executable(Digest::Off));
}

const UNIX: &str = "WorkloadAttestor \"unix\" { plugin_data {} }";

#[test]
fn several_workload_attestors_may_be_configured_and_each_once() {
    let with = |attestors: &str| file(LEAST).replace(UNIX, attestors);
    let config = parsed(&with(
        "WorkloadAttestor \"confinement\" {}\n WorkloadAttestor \"unix\" {}",
    ));
    let want = [
        AttestorConfig::Confinement,
        AttestorConfig::Unix(Discover::UsersOnly),
    ];
    assert_eq!(config.workload_attestors, want);
    let twice = refused(&with(&format!("{UNIX}\n{UNIX}")));
    assert!(twice.contains("stands here a second time"), "{twice}");
    assert!(refused(&with("")).contains("plugins needs a WorkloadAttestor"));
}

#[test]
fn callers_get_the_defaults_unless_the_file_says_otherwise() {
    let config = parsed(&file(LEAST));
    assert_eq!(config.api.verifiers, VerifierConfig::default());
    assert_eq!(config.api.sds, Some(SdsConfig::default()));
    assert!(config.api.delegates.is_empty() && config.admin_socket_path.is_none());
    assert_eq!(config.jwt_svids, 1000);

    let config = parsed(&file(&format!(
        r#"{LEAST}
admin_socket_path = "/run/private/admin.sock"
allow_unauthenticated_verifiers = true
allowed_foreign_jwt_claims = ["iss", "jti"]
authorized_delegates = ["spiffe://example.org/proxy"]
jwt_svid_cache_max_size = 7
sds {{
  default_svid_name = "svid"
  disable_spiffe_cert_validation = true
}}"#
    )));
    let verifiers = &config.api.verifiers;
    assert!(verifiers.allow_unauthenticated);
    assert_eq!(verifiers.foreign_claims.len(), 2);
    let sds = config.api.sds.unwrap();
    assert_eq!(sds.validation, Validation::Roots);
    let names = SecretNames {
        svid: "svid".into(),
        ..SecretNames::default()
    };
    assert_eq!(sds.names, names);
    assert_eq!(config.api.delegates.len(), 1);
    assert_eq!(config.jwt_svids, 7);
    let admin = Path::new("/run/private/admin.sock");
    assert_eq!(config.admin_socket_path.as_deref(), Some(admin));
    let config = parsed(&file(&format!("{LEAST}\ndisable_sds_api = true")));
    assert!(config.api.sds.is_none());
}

#[test]
fn exposed_admin_sockets_and_foreign_delegates_are_refused() {
    let public = r#"socket_path = "/run/agent/api.sock""#;
    for admin in ["/run/agent/admin.sock", "/run/agent/deeper/admin.sock"] {
        let text = format!("{LEAST}\n{public}\nadmin_socket_path = {admin:?}");
        let error = refused(&file(&text));
        assert!(error.contains("everybody's"), "{error}");
    }
    for delegate in ["proxy", "spiffe://other.org/proxy"] {
        let text = format!("{LEAST}\nauthorized_delegates = [{delegate:?}]");
        let error = refused(&file(&text));
        assert!(error.contains(delegate), "{error}");
    }
}

#[test]
fn a_collector_is_told_what_the_file_says() {
    let with = |otlp: &str| {
        let text = format!("{}\ntelemetry {{\n OTLP {{\n{otlp}\n}}\n}}", file(LEAST));
        AgentConfig::parse("agent.conf", &text, &Overrides::default())
            .map(|(config, _)| config.operators.otlp)
            .map_err(|error| error.to_string())
    };
    let options = with("endpoint = \"https://collector:4317\"")
        .unwrap()
        .unwrap();
    assert_eq!(options.endpoint.host(), Some("collector"));
    assert_eq!(options.traces, Some(1.0));
    assert_eq!(options.metrics, Some(Duration::from_secs(60)));
    let text = "endpoint = \"http://[::1]\"\ntraces = false\nmetrics_interval = \"5s\"";
    let options = with(text).unwrap().unwrap();
    assert_eq!(options.traces, None);
    assert_eq!(options.metrics, Some(Duration::from_secs(5)));
    for (wrong, told) in [
        ("", "telemetry.OTLP.endpoint is required"),
        (
            "endpoint = \"collector:4317\"",
            "telemetry.OTLP.endpoint: http://host:port",
        ),
        ("endpoint = \"http://c/v1/traces\"", "http://host:port"),
        ("endpoint = \"http://user:word@c\"", "http://host:port"),
        (
            "endpoint = \"http://c\"\nsample_ratio = \"2\"",
            "a number from 0 to 1",
        ),
        (
            "endpoint = \"http://c\"\nmetrics_interval = \"1ms\"",
            "metrics_interval",
        ),
    ] {
        let error = with(wrong).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn container_engines_are_asked_where_the_file_says() {
    use crate::workload_attestor::{DOCKER_SOCKET, Engines, PODMAN_SOCKET};

    let with = |data: &str| {
        let docker = format!("WorkloadAttestor \"docker\" {{ plugin_data {{ {data} }} }}");
        let file = file(LEAST).replace(UNIX, &docker);
        AgentConfig::parse("agent.conf", &file, &Overrides::default())
            .map(|(config, warnings)| (config.workload_attestors, warnings.len()))
            .map_err(|error| error.to_string())
    };
    let usual = Engines {
        name: "docker",
        docker: Some(DOCKER_SOCKET.into()),
        docker_version: None,
        podman: PODMAN_SOCKET.into(),
        rootless: None,
        matchers: None,
    };
    let one = |engines: Engines| vec![AttestorConfig::Containers(engines)];
    assert_eq!(with(""), Ok((one(usual.clone()), 0)));
    let settings = "docker_socket_path = \"unix:///d.sock\"\n docker_version = \"1.41\"\n \
                    podman_socket_path_template = \"unix:///run/user/%d/p.sock\"";
    let set = Engines {
        docker: Some("/d.sock".into()),
        docker_version: Some("1.41".into()),
        rootless: Some(("/run/user/".into(), "/p.sock".into())),
        ..usual
    };
    assert_eq!(with(settings), Ok((one(set), 1)), "with a warning");
    for (wrong, reason) in [
        (
            "docker_socket_path = \"tcp://1.2.3.4:80\"",
            "not the socket",
        ),
        ("docker_version = \"../x\"", "no version"),
        (
            "podman_socket_path_template = \"unix:///run/%s\"",
            "%d in one place",
        ),
        (
            "podman_socket_path_template = \"unix:///run\"",
            "%d in one place",
        ),
        (
            "container_id_cgroup_matchers = [\"/docker/<id>\"]",
            "use_new_container_locator",
        ),
        (
            "use_new_container_locator = false\n container_id_cgroup_matchers = [\"/docker\"]",
            "exactly one place",
        ),
    ] {
        let error = with(wrong).unwrap_err();
        assert!(error.contains(reason), "{wrong}: {error}");
    }
    let file = file(LEAST).replace(UNIX, "WorkloadAttestor \"podman\" {}");
    let podman = &parsed(&file).workload_attestors[0];
    assert!(
        matches!(podman, AttestorConfig::Containers(podman) if podman.name == "podman" && podman.docker.is_none())
    );
}

#[test]
fn post_quantum_key_exchange_is_preferred_and_can_be_required() {
    let with = |line: &str| {
        let text = format!("{LEAST}\nexperimental {{ {line} }}");
        parsed(&file(&text)).key_exchange
    };
    assert_eq!(with(""), KeyExchange::PreferPostQuantum);
    assert_eq!(
        with("require_pq_kem = false"),
        KeyExchange::PreferPostQuantum
    );
    assert_eq!(
        with("require_pq_kem = true"),
        KeyExchange::RequirePostQuantum
    );
}

#[test]
fn the_systemd_attestor_is_there_or_refused_with_a_sentence() {
    let systemd = file(LEAST).replace(UNIX, "WorkloadAttestor \"systemd\" {}");
    let config = AgentConfig::parse("agent.conf", &systemd, &Overrides::default());
    #[cfg(feature = "systemd-attestor")]
    assert_eq!(
        config.unwrap().0.workload_attestors,
        [AttestorConfig::Systemd]
    );
    #[cfg(not(feature = "systemd-attestor"))]
    {
        let error = config.unwrap_err().to_string();
        assert!(
            error.contains("built without the systemd attestor"),
            "{error}"
        );
    }
}
