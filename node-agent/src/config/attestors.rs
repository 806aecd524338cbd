//! The workload attestors of the configuration file.

use std::path::PathBuf;

use countersign_config::{Document, Plugin, Section};

use crate::workload_attestor::{
    AttestorConfig, DOCKER_SOCKET, Digest, Discover, Engines, Matchers, PODMAN_SOCKET,
};

const KIND: &str = "WorkloadAttestor";

/// At least one, and none twice.
pub(super) fn workload_attestors(document: &Document) -> Option<Vec<AttestorConfig>> {
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
            "confinement" => Some(AttestorConfig::Confinement),
            "systemd" => systemd(document, &plugin),
            "docker" => docker(&plugin.data).map(AttestorConfig::Containers),
            "podman" => podman(&plugin.data, "podman").map(AttestorConfig::Containers),
            _ => Some(AttestorConfig::Unix(discover(&plugin.data))),
        });
    }
    Some(configured)
}

#[cfg(feature = "systemd-attestor")]
fn systemd(_: &Document, _: &Plugin<'_>) -> Option<AttestorConfig> {
    Some(AttestorConfig::Systemd)
}

/// A selector that can't be found out must not be missed in silence, so the configuration is refused.
#[cfg(not(feature = "systemd-attestor"))]
fn systemd(document: &Document, plugin: &Plugin<'_>) -> Option<AttestorConfig> {
    document.wrong(
        plugin.at,
        "this program was built without the systemd attestor (the cargo feature systemd-attestor): remove it here, or use \
         a build that has it",
    );
    None
}

fn docker(data: &Section<'_>) -> Option<Engines> {
    let patterns = data
        .list("container_id_cgroup_matchers")
        .unwrap_or_default();
    let old_way = data.bool("use_new_container_locator") == Some(false);
    if !patterns.is_empty() && !old_way {
        data.wrong(
            "container_id_cgroup_matchers",
            "they are for use_new_container_locator = false: set that too, or remove them",
        );
    }
    let matchers = match Matchers::new(&patterns) {
        Ok(_) if patterns.is_empty() => None,
        Ok(matchers) => Some(matchers),
        Err(error) => {
            data.wrong("container_id_cgroup_matchers", error);
            None
        }
    };
    let docker = data.parsed("docker_socket_path", socket);
    Some(Engines {
        docker: Some(docker.unwrap_or_else(|| DOCKER_SOCKET.into())),
        docker_version: data.parsed("docker_version", api_version),
        matchers,
        ..podman(data, "docker")?
    })
}

fn podman(data: &Section<'_>, name: &'static str) -> Option<Engines> {
    let podman = data.parsed("podman_socket_path", socket);
    let rootless = data.parsed("podman_socket_path_template", template);
    if rootless.is_some() {
        data.warn(
            "podman_socket_path_template",
            "users answer for their own containers: whatever a label or an image is worth there, each user can say of \
             theirs, so let entries name the user too (unix:uid)",
        );
    }
    Some(Engines {
        name,
        docker: None,
        docker_version: None,
        podman: podman.unwrap_or_else(|| PODMAN_SOCKET.into()),
        rootless,
        matchers: None,
    })
}

/// Why a value of a container engine's attestor can't be used.
#[derive(Debug, thiserror::Error)]
enum InvalidSetting {
    #[error("{0:?} is not the socket of an engine on this machine: write unix:///…")]
    Socket(String),
    #[error("{0:?} must have %d in one place, for the user's number, and no other %")]
    Template(String),
    #[error("{0:?} is no version of Docker's API, such as \"1.41\"")]
    ApiVersion(String),
}

/// As SPIRE writes it, with or without `unix://` before it.
fn socket(text: &str) -> Result<PathBuf, InvalidSetting> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.starts_with('/') {
        Ok(path.into())
    } else {
        Err(InvalidSetting::Socket(text.to_owned()))
    }
}

/// What stands before and after the one `%d`; `%%` is a `%`.
fn template(text: &str) -> Result<(String, String), InvalidSetting> {
    let wrong = || InvalidSetting::Template(text.to_owned());
    let mut parts = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, parts.last_mut()) {
            ('%', Some(part)) => match letters.next() {
                Some('%') => part.push('%'),
                Some('d') => parts.push(String::new()),
                _ => return Err(wrong()),
            },
            (letter, Some(part)) => part.push(letter),
            (_, None) => return Err(wrong()),
        }
    }
    let [before, after] = <[String; 2]>::try_from(parts).map_err(|_| wrong())?;
    let before = socket(&before)?.display().to_string();
    Ok((before, after))
}

fn api_version(text: &str) -> Result<String, InvalidSetting> {
    let number = text.trim_start_matches('v');
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_number
        .then(|| number.to_owned())
        .ok_or_else(|| InvalidSetting::ApiVersion(text.to_owned()))
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
