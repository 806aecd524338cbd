//! What the daemons of the show are configured with.

use std::net::SocketAddr;
use std::path::Path;

use crate::script::TRUST_DOMAIN;

/// The mesh policy.
pub(crate) const POLICY: &str = include_str!("mesh.hcl");

/// `server.conf`: a free port, and everything below `folder`.
pub(super) fn server(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"server {{
  bind_address = "127.0.0.1"
  bind_port = 0
  trust_domain = "{TRUST_DOMAIN}"
  data_dir = "{folder}/server/data"
  socket_path = "{folder}/server/api.sock"
}}

plugins {{
  DataStore "sled" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{folder}/server/data"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
}}
"#
    )
}

/// `agent.conf`: the server at `server`, and everything below `folder`.
pub(super) fn agent(folder: &Path, server: SocketAddr) -> String {
    let (folder, address, port) = (folder.display(), server.ip(), server.port());
    format!(
        r#"agent {{
  data_dir = "{folder}/agent/data"
  server_address = "{address}"
  server_port = {port}
  trust_domain = "{TRUST_DOMAIN}"
  trust_bundle_path = "{folder}/bundle.pem"
  socket_path = "{folder}/agent/api.sock"
}}

plugins {{
  KeyManager "disk" {{
    plugin_data {{
      directory = "{folder}/agent/data"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{
      discover_workload_path = true
    }}
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use countersign_mesh::Policy;
    use countersign_server::embed::{Overrides, ServerConfig};

    use super::*;
    use crate::script::{FLOOD_BURST, FLOOD_RATE};

    #[test]
    fn the_policy_is_one_and_has_the_numbers_that_the_flood_is_held_against() {
        Policy::parse(POLICY).unwrap();
        let rate = format!("rate            = \"{FLOOD_RATE}/s burst {FLOOD_BURST}\"");
        assert!(POLICY.contains(&rate), "{rate}");
    }

    #[test]
    fn the_server_takes_its_configuration_without_a_warning() {
        let (config, warnings) = ServerConfig::parse(
            "server.conf",
            &server(Path::new("/tmp/show")),
            &Overrides::default(),
        )
        .unwrap();
        assert_eq!((config.bind_port, warnings.len()), (0, 0), "{warnings:?}");
    }
}
