//! What the file says about how callers are told apart.

use countersign_config::{Document, Section};

use crate::selectors::{Configured, Digest, Discover};

const KIND: &str = "WorkloadAttestor";

/// At least one, and none twice.
pub(super) fn workload_attestors(document: &Document) -> Option<Vec<Configured>> {
    let plugins = document.plugins(KIND);
    if plugins.is_empty() {
        // Says that there is none.
        document.required_plugin(KIND)?;
    }
    let mut names: Vec<&str> = Vec::new();
    let mut configured = Vec::new();
    for plugin in plugins {
        if names.contains(&plugin.name) {
            document.wrong(
                plugin.at,
                format!(
                    "{KIND} {:?} stands here a second time: remove one of the two",
                    plugin.name
                ),
            );
            continue;
        }
        names.push(plugin.name);
        configured.extend(match plugin.name {
            "confinement" => Some(Configured::Confinement),
            _ => Some(Configured::Unix(discover(&plugin.data))),
        });
    }
    Some(configured)
}

fn discover(unix: &Section<'_>) -> Discover {
    let path = unix.bool("discover_workload_path").unwrap_or(false);
    let limit = unix
        .integer("workload_size_limit", i64::MIN..=i64::MAX)
        .unwrap_or(0);
    if !path {
        return Discover::UsersOnly;
    }
    Discover::Executable(match u64::try_from(limit) {
        Ok(0) => Digest::AnySize,
        Ok(bytes) => Digest::UpTo(bytes),
        Err(_) => Digest::Off,
    })
}
