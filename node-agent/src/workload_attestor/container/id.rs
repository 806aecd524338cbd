//! The ID of a container in the paths of a process's cgroups, as `/proc/<pid>/cgroup` has them.

use std::collections::BTreeMap;

use super::super::AttestorError;
use crate::limits;

/// The container that a process seems to be in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Membership {
    id: String,
    /// By hierarchy, the path up to the part that has the ID. Two processes in one container have the same.
    places: BTreeMap<String, String>,
}

impl Membership {
    /// Parses the lines of `/proc/<pid>/cgroup`; `None` if none names a container.
    pub(super) fn find(
        cgroups: &str,
        matchers: Option<&Matchers>,
    ) -> Result<Option<Self>, AttestorError> {
        let mut found: Option<Self> = None;
        for line in cgroups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(hierarchy), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let hit = match matchers {
                Some(matchers) => matchers.find(path),
                None => find_usual(path),
            };
            let Some((id, place)) = hit else { continue };
            if !is_id(id) {
                return Err(AttestorError::NoContainerId);
            }
            let membership = found.get_or_insert_with(|| Self {
                id: id.to_owned(),
                places: BTreeMap::new(),
            });
            if membership.id != id {
                return Err(AttestorError::SeveralContainers);
            }
            membership.places.insert(hierarchy.to_owned(), place);
        }
        Ok(found)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Podman's cgroups are named after its library.
    pub(super) fn is_podmans(&self) -> bool {
        self.places
            .values()
            .any(|place| place.contains("libpod-") || place.contains("/libpod/"))
    }

    /// The UID of the container's user, if its cgroup is in that user's systemd slice (rootless engines).
    pub(super) fn user(&self) -> Option<u32> {
        self.places.values().find_map(|place| {
            place.split('/').find_map(|part| {
                part.strip_prefix("user-")?
                    .strip_suffix(".slice")?
                    .parse()
                    .ok()
            })
        })
    }
}

/// What may stand in a request's path as it is.
fn is_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    !text.is_empty()
        && text.len() <= limits::CONTAINER_ID_BYTES
        && !text.starts_with('.')
        && text.bytes().all(allowed)
}

/// 64 hexadecimal digits that are a word, in the last part of the path that has such.
fn find_usual(path: &str) -> Option<(&str, String)> {
    let parts: Vec<&str> = path.split('/').collect();
    let last = parts.iter().rposition(|part| hex_word(part).is_some())?;
    let id = hex_word(parts.get(last)?)?;
    Some((id, parts.get(..=last)?.join("/")))
}

fn hex_word(part: &str) -> Option<&str> {
    part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .find(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Patterns for paths of cgroups: parts between slashes, of which `*` is any, and `<id>` the container's ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matchers(Vec<Vec<String>>);

const ANY: &str = "*";
const ID: &str = "<id>";

/// Why patterns can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidMatchers {
    /// The container's ID stands nowhere, or twice.
    #[error("{0:?} must have {ID} in exactly one place between slashes")]
    Id(String),
    /// One path could mean two containers.
    #[error(
        "{0:?} and {1:?} could match the same path: make them differ in a part that is neither * nor {ID}"
    )]
    Ambiguous(String, String),
}

impl Matchers {
    /// From the patterns' texts.
    ///
    /// # Errors
    /// [`InvalidMatchers`].
    pub(crate) fn new(patterns: &[String]) -> Result<Self, InvalidMatchers> {
        let mut all: Vec<Vec<String>> = Vec::new();
        for pattern in patterns {
            let parts: Vec<String> = pattern.split('/').map(str::to_owned).collect();
            if parts.iter().filter(|part| *part == ID).count() != 1 {
                return Err(InvalidMatchers::Id(pattern.clone()));
            }
            if let Some(like) = all.iter().find(|other| may_match_the_same(other, &parts)) {
                return Err(InvalidMatchers::Ambiguous(like.join("/"), pattern.clone()));
            }
            all.push(parts);
        }
        Ok(Self(all))
    }

    fn find<'a>(&self, path: &'a str) -> Option<(&'a str, String)> {
        let parts: Vec<&str> = path.split('/').collect();
        self.0.iter().find_map(|pattern| {
            let same = pattern.len() == parts.len()
                && pattern
                    .iter()
                    .zip(&parts)
                    .all(|(wanted, part)| wanted == ANY || wanted == ID || wanted == part);
            let at = pattern
                .iter()
                .position(|part| part == ID)
                .filter(|_| same)?;
            Some((*parts.get(at)?, parts.get(..=at)?.join("/")))
        })
    }
}

fn may_match_the_same(one: &[String], two: &[String]) -> bool {
    let open = |part: &str| part == ANY || part == ID;
    one.len() == two.len()
        && one
            .iter()
            .zip(two)
            .all(|(one, two)| one == two || open(one) || open(two))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "eb570c55d3cc835c04ee017acd78e6626ae51f2db2a3ca35ccae90dbf1d9c0a1";
    const OTHER: &str = "02dfd6773e7ff5ca14419398baee24f6d88fe809b8e5b9c39a2da20c1156e330";

    fn found(cgroups: &str) -> Membership {
        Membership::find(cgroups, None).unwrap().unwrap()
    }

    #[test]
    fn the_id_is_found_in_what_engines_make_of_it() {
        for (path, podman, user) in [
            (format!("/docker/{HEX}"), false, None),
            (format!("/system.slice/docker-{HEX}.scope"), false, None),
            (
                format!("/system.slice/docker-{HEX}.scope/init.scope"),
                false,
                None,
            ),
            (format!("/kubepods/besteffort/pod1/{HEX}"), false, None),
            (format!("/../../docker-{HEX}.scope"), false, None),
            (
                format!("/machine.slice/libpod-{HEX}.scope/container"),
                true,
                None,
            ),
            (format!("/libpod_parent/libpod-{HEX}"), true, None),
            (
                format!(
                    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{HEX}.scope"
                ),
                true,
                Some(1000),
            ),
            (format!("/docker/{OTHER}/docker/{HEX}"), false, None),
        ] {
            let membership = found(&format!("0::{path}\n"));
            assert_eq!(membership.id(), HEX, "{path}");
            assert_eq!(
                (membership.is_podmans(), membership.user()),
                (podman, user),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_container_has_no_id() {
        for path in [
            "/",
            "/user.slice/a.scope",
            &format!("/a{HEX}"),
            &format!("/{HEX}0"),
            &HEX[1..],
        ] {
            assert_eq!(
                Membership::find(&format!("0::{path}"), None).unwrap(),
                None,
                "{path}"
            );
        }
        assert_eq!(Membership::find("", None).unwrap(), None);
    }

    #[test]
    fn hierarchies_must_agree_up_to_the_containers_id() {
        let one = found(&format!(
            "9:pids:/docker/{HEX}/a\n8:memory:/docker/{HEX}\n0::/\n"
        ));
        let two = found(&format!(
            "9:pids:/docker/{HEX}\n8:memory:/docker/{HEX}/b/c\n0::/\n"
        ));
        assert_eq!(one, two);
        let elsewhere = found(&format!(
            "9:pids:/user.slice/docker/{HEX}\n8:memory:/docker/{HEX}\n"
        ));
        assert_ne!(one, elsewhere);
        let torn = Membership::find(
            &format!("9:pids:/docker/{HEX}\n8:memory:/docker/{OTHER}"),
            None,
        );
        assert!(matches!(torn, Err(AttestorError::SeveralContainers)));
    }

    #[test]
    fn patterns_say_where_the_id_stands() {
        let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let matchers = Matchers::new(&texts(&["/docker/<id>", "/my.slice/*/<id>/*"])).unwrap();
        let find = |path: &str| {
            Membership::find(&format!("0::{path}"), Some(&matchers))
                .map(|found| found.map(|found| found.id().to_owned()))
        };
        assert_eq!(find("/docker/web").unwrap().as_deref(), Some("web"));
        assert_eq!(find("/my.slice/a/web/b").unwrap().as_deref(), Some("web"));
        assert_eq!(find("/my.slice/a/web").unwrap(), None);
        for strange in ["/docker/", "/docker/..", "/docker/a%2fb", "/docker/a?b"] {
            assert!(
                matches!(find(strange), Err(AttestorError::NoContainerId)),
                "{strange}"
            );
        }
        assert!(matches!(
            Matchers::new(&texts(&["/a"])),
            Err(InvalidMatchers::Id(_))
        ));
        assert!(matches!(
            Matchers::new(&texts(&["/<id>/<id>"])),
            Err(InvalidMatchers::Id(_))
        ));
        assert!(matches!(
            Matchers::new(&texts(&["/a/b/<id>", "/*/b/<id>"])),
            Err(InvalidMatchers::Ambiguous(..))
        ));
    }
}
