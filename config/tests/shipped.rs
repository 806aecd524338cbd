//! The files that ship in this folder, and those that must load as they stand.

use std::path::Path;

use countersign_config::{AGENT_KEYS, Document, Expansion, Key, SERVER_KEYS};

const GUIDE: &str = r#"
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

fn shipped(name: &str, keys: &'static [Key]) -> Result<Document, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    Document::load(&path, Expansion::None, keys).map_err(|error| error.to_string())
}

/// Uncomments every line of the form `# key = value`, `# section {`, `# Plugin "name" {` and `# }`.
fn with_all_settings(text: &str) -> String {
    let setting = |line: &str| {
        let code = line.trim().strip_prefix("# ")?.trim();
        let word = code.split([' ', '=']).next()?;
        let is_word = |upper: fn(char) -> bool| {
            !word.is_empty()
                && word.chars().all(|next| {
                    next.is_ascii_lowercase() || next.is_ascii_digit() || next == '_' || upper(next)
                })
        };
        let is_setting = code.contains(" = ") && is_word(|_| false);
        // A section may be named in capitals, such as that of an exporter of metrics.
        let is_section = code.ends_with("\" {")
            || code.ends_with(" {") && is_word(|next| next.is_ascii_uppercase());
        (is_setting || is_section || code == "}").then(|| code.to_owned())
    };
    text.lines()
        .map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n")
        .collect()
}

#[test]
fn the_shipped_server_configuration_has_no_fault_and_no_warning() {
    let (port, warnings) = shipped("server.conf", SERVER_KEYS)
        .unwrap()
        .read(|document| {
            document.required_plugin("KeyManager")?;
            document.single_plugin("DataStore")?;
            assert_eq!(document.plugins("NodeAttestor").len(), 1);
            document.section("server").port("bind_port")
        })
        .unwrap();
    assert_eq!((port, warnings), (8081, Vec::new()));
}

#[test]
fn the_shipped_agent_configuration_has_no_fault_and_no_warning() {
    let (port, warnings) = shipped("agent.conf", AGENT_KEYS)
        .unwrap()
        .read(|document| {
            document.required_plugin("KeyManager")?;
            document.required_plugin("NodeAttestor")?;
            assert_eq!(document.plugins("WorkloadAttestor").len(), 1);
            document.section("agent").port("server_port")
        })
        .unwrap();
    assert_eq!((port, warnings), (8081, Vec::new()));
}

#[test]
fn the_settings_in_their_comments_are_in_the_registry_too() {
    for (text, keys, count) in [
        (include_str!("../server.conf"), SERVER_KEYS, 14),
        (include_str!("../agent.conf"), AGENT_KEYS, 10),
    ] {
        let whole = with_all_settings(text);
        let uncommented = whole
            .lines()
            .zip(text.lines())
            .filter(|(new, old)| new != old)
            .count();
        assert!(
            uncommented >= count,
            "only {uncommented} settings were found in comments"
        );
        let error = Document::parse("whole", &whole, keys)
            .unwrap()
            .read(|_| Some(()))
            .err();
        // The keys that stand both in use and in a comment, with the default, are the only fault.
        let findings = error.iter().flat_map(|error| error.findings());
        for finding in findings {
            assert!(
                finding.message.contains("socket_path is defined twice"),
                "{finding:?}"
            );
        }
    }
}

#[test]
fn the_configuration_of_the_guide_loads_as_it_stands() {
    let ((port, domain, attestor, key_manager, directory), warnings) =
        Document::parse("server.conf", GUIDE, SERVER_KEYS)
            .unwrap()
            .read(|document| {
                let server = document.section("server");
                let key_manager = document.required_plugin("KeyManager")?;
                Some((
                    server.port("bind_port")?,
                    server.string("trust_domain")?,
                    document.plugins("NodeAttestor").first()?.name,
                    key_manager.name,
                    key_manager.data.path("directory")?,
                ))
            })
            .unwrap();
    assert_eq!((port, domain.as_str()), (8081, "ai-agents.org"));
    assert_eq!((attestor, key_manager), ("join_token", "disk"));
    assert_eq!(directory, Path::new("/opt/spire/data"));
    assert_eq!(warnings, Vec::new());
}

#[test]
fn the_shipped_mesh_policy_is_one() {
    let policy = countersign_mesh::Policy::parse(include_str!("../mesh.hcl"));
    if let Err(error) = policy {
        panic!("mesh.hcl: {error}");
    }
}
