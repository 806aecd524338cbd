//! The resource limits of a process by its cgroups, versions 1 and 2.
//!
//! A limit counts if the process can neither change it nor leave the cgroup that sets it. The result is the tightest of
//! these, from the process's own cgroup up to the root of the hierarchy as mounted for the node agent.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::kernel_file::read;
use super::task::Facts;

/// The limits that a process can't exceed; `None` if no effective limit is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// In bytes, without swap.
    pub(super) memory: Option<u64>,
    /// Threads of all processes in the cgroup together.
    pub(super) pids: Option<u64>,
    /// In thousandths of one processor.
    pub(super) cpu_millis: Option<u64>,
}

/// The cgroup hierarchies and their mount points, as the node agent sees them.
#[derive(Debug, Default)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Empty for version 2.
    controllers: Vec<String>,
    /// The path of the mounted cgroup within its hierarchy.
    root: String,
    point: PathBuf,
}

impl Hierarchies {
    /// Empty if they can't be read.
    pub(super) fn of_this_process() -> Self {
        read(Path::new("/proc/self/mountinfo"))
            .map_or_else(Self::default, |text| Self::parse(&text))
    }

    fn parse(mounts: &str) -> Self {
        Self(mounts.lines().filter_map(Hierarchy::parse).collect())
    }

    /// Where they are mounted.
    #[cfg(test)]
    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|hierarchy| hierarchy.point.as_path())
    }

    /// The limits of a process with these facts, in these cgroups.
    pub(super) fn limits(&self, cgroups: &str, facts: &Facts) -> Limits {
        let mut found = Limits::default();
        for (hierarchy, path) in self.with_paths(cgroups) {
            for folder in hierarchy.ancestors_of(&path) {
                if can_leave(&folder, hierarchy, facts) {
                    continue;
                }
                let look = CgroupView {
                    folder: &folder,
                    facts,
                };
                let here = if hierarchy.controllers.is_empty() {
                    look.version_2()
                } else {
                    look.version_1()
                };
                found = found.and(here);
            }
        }
        found
    }

    /// The innermost cgroup that the process can't leave; `None` if that is the root.
    pub(super) fn place(&self, cgroups: &str, facts: &Facts) -> Option<PathBuf> {
        self.with_paths(cgroups)
            .filter_map(|(hierarchy, path)| {
                let way = hierarchy.ancestors_of(&path);
                // The last is the root, where every process is that was not put into a cgroup: it groups nothing.
                let (_, below) = way.split_last()?;
                let kept = below.iter().find(|at| !can_leave(at, hierarchy, facts))?;
                Some((hierarchy.rank(), kept.clone()))
            })
            .min()
            .map(|(_, folder)| folder)
    }

    /// The hierarchies in which the process's cgroup is visible here, with the folder of that cgroup.
    fn with_paths<'a>(
        &'a self,
        cgroups: &'a str,
    ) -> impl Iterator<Item = (&'a Hierarchy, PathBuf)> {
        cgroups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            // Outside the node agent's cgroup namespace (cgroup_namespaces(7)).
            if path.split('/').any(|part| part == "..") {
                return None;
            }
            self.0.iter().find_map(|hierarchy| {
                let below = hierarchy.below(controllers, path)?;
                Some((hierarchy, below))
            })
        })
    }
}

impl Limits {
    fn and(self, other: Self) -> Self {
        let tighter = |one: Option<u64>, two: Option<u64>| one.into_iter().chain(two).min();
        Self {
            memory: tighter(self.memory, other.memory),
            pids: tighter(self.pids, other.pids),
            cpu_millis: tighter(self.cpu_millis, other.cpu_millis),
        }
    }
}

impl Hierarchy {
    /// Parses a line of `mountinfo`; `None` if it is not a cgroup file system.
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut filesystem = filesystem.split(' ');
        let controllers = match filesystem.next()? {
            "cgroup2" => Vec::new(),
            "cgroup" => filesystem.nth(1)?.split(',').map(str::to_owned).collect(),
            _ => return None,
        };
        // The kernel escapes spaces in paths with a backslash. Such mounts are ignored.
        let is_plain = !root.contains('\\') && !point.contains('\\');
        (is_plain && !root.contains("..")).then(|| Self {
            controllers,
            root: root.trim_end_matches('/').to_owned(),
            point: point.into(),
        })
    }

    /// The folder of a cgroup, if it is in this hierarchy and within the mounted part of it.
    fn below(&self, controllers: &str, path: &str) -> Option<PathBuf> {
        let is_own = match controllers {
            "" => self.controllers.is_empty(),
            some => some
                .split(',')
                .all(|one| self.controllers.iter().any(|own| own == one)),
        };
        let rest = path.strip_prefix(&self.root).filter(|_| is_own)?;
        (rest.is_empty() || rest.starts_with('/'))
            .then(|| self.point.join(rest.trim_start_matches('/')))
    }

    /// This folder and its ancestors up to the mount point.
    fn ancestors_of(&self, folder: &Path) -> Vec<PathBuf> {
        folder
            .ancestors()
            .take_while(|at| at.starts_with(&self.point))
            .map(Path::to_owned)
            .collect()
    }

    /// Preference among hierarchies, lowest first: version 2, then version 1 with `pids`, with `memory`, and the
    /// others.
    fn rank(&self) -> usize {
        let has = |name: &str| self.controllers.iter().any(|own| own == name);
        match () {
            () if self.controllers.is_empty() => 0,
            () if has("pids") => 1,
            () if has("memory") => 2,
            () => 3,
        }
    }
}

/// Whether the process could move itself out of this cgroup: that takes write access to the parent's `cgroup.procs`
/// (cgroups(7)).
fn can_leave(folder: &Path, hierarchy: &Hierarchy, facts: &Facts) -> bool {
    if folder == hierarchy.point {
        return false;
    }
    ["cgroup.procs", "tasks"].into_iter().any(|file| {
        let above = folder.parent().map(|above| above.join(file));
        match above.map(std::fs::metadata) {
            Some(Ok(file)) => may_change(&file, facts),
            Some(Err(error)) => error.kind() != std::io::ErrorKind::NotFound,
            None => true,
        }
    })
}

fn may_change(file: &Metadata, facts: &Facts) -> bool {
    const OTHERS_MAY_WRITE: u32 = 0o022;
    file.mode() & OTHERS_MAY_WRITE != 0 || facts.may_change_cgroup_of(file.uid())
}

/// One cgroup, from the view of a process that may be able to change it.
struct CgroupView<'a> {
    folder: &'a Path,
    facts: &'a Facts,
}

impl CgroupView<'_> {
    fn version_2(&self) -> Limits {
        Limits {
            memory: self.read("memory.max").and_then(|text| text.parse().ok()),
            pids: self.read("pids.max").and_then(|text| text.parse().ok()),
            cpu_millis: self.read("cpu.max").and_then(|text| {
                let (quota, period) = text.split_once(' ')?;
                millis(quota, period)
            }),
        }
    }

    fn version_1(&self) -> Limits {
        // "No limit" is a number near 2^63 that depends on the page size.
        const NO_LIMIT: u64 = 1 << 62;
        // With use_hierarchy off, as old kernels allow, a memory limit does not apply to descendants: ignore it.
        let inherits = read(&self.folder.join("memory.use_hierarchy"));
        let memory = self
            .read("memory.limit_in_bytes")
            .filter(|_| inherits.is_none_or(|text| text.trim() == "1"))
            .and_then(|text| text.parse().ok())
            .filter(|bytes| *bytes < NO_LIMIT);
        let cpu = self
            .read("cpu.cfs_quota_us")
            .zip(self.read("cpu.cfs_period_us"));
        Limits {
            memory,
            pids: self.read("pids.max").and_then(|text| text.parse().ok()),
            cpu_millis: cpu.and_then(|(quota, period)| millis(&quota, &period)),
        }
    }

    /// A limit that the process can't change.
    fn read(&self, name: &str) -> Option<String> {
        let path = self.folder.join(name);
        let metadata = std::fs::metadata(&path).ok()?;
        let text = read(&path).filter(|_| !may_change(&metadata, self.facts))?;
        Some(text.trim().to_owned())
    }
}

/// Thousandths of a CPU, rounded up. A quota that is not a number (`max`, -1) is no limit.
fn millis(quota: &str, period: &str) -> Option<u64> {
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota.saturating_mul(1000).div_ceil(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
        29 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 /inner /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n";

    #[test]
    fn a_cgroup_is_found_where_its_hierarchy_is_mounted() {
        let hierarchies = Hierarchies::parse(MOUNTS);
        let found = |cgroups: &str| -> Vec<String> {
            hierarchies
                .with_paths(cgroups)
                .map(|(_, path)| path.display().to_string())
                .collect()
        };
        assert_eq!(found("0::/a/b"), ["/sys/fs/cgroup/unified/a/b"]);
        assert_eq!(found("1:cpu,cpuacct:/a"), ["/sys/fs/cgroup/cpu,cpuacct/a"]);
        assert_eq!(found("4:memory:/inner/c"), ["/sys/fs/cgroup/memory/c"]);
        // Not below what is mounted, of no mounted hierarchy, or out of this process's sight.
        for unseen in [
            "4:memory:/inner2",
            "4:memory:/",
            "5:pids:/a",
            "0::/../a",
            "strange",
        ] {
            assert_eq!(found(unseen), Vec::<String>::new(), "{unseen}");
        }
    }

    #[test]
    fn the_way_up_ends_where_the_hierarchy_is_mounted() {
        let hierarchies = Hierarchies::parse(MOUNTS);
        let (hierarchy, path) = hierarchies.with_paths("0::/a/b").next().unwrap();
        let way = hierarchy.ancestors_of(&path);
        assert_eq!(way.len(), 3);
        assert_eq!(way.last().unwrap(), Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_share_of_processors_is_rounded_up() {
        assert_eq!(millis("50000", "100000"), Some(500));
        assert_eq!(millis("1", "1000000"), Some(1));
        for none in [("max", "100000"), ("-1", "100000"), ("1", "0")] {
            assert_eq!(millis(none.0, none.1), None);
        }
    }

    #[test]
    fn the_tightest_counts() {
        let one = Limits {
            memory: Some(5),
            pids: None,
            cpu_millis: Some(7),
        };
        let two = Limits {
            memory: Some(9),
            pids: Some(3),
            cpu_millis: Some(6),
        };
        let both = Limits {
            memory: Some(5),
            pids: Some(3),
            cpu_millis: Some(6),
        };
        assert_eq!(one.and(two), both);
    }
}
