//! Real cgroups for tests.

use std::path::PathBuf;

use super::cgroup::Hierarchies;
use crate::test_note::not_tried;

pub(super) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        not_tried("it takes root to make cgroups and mounts");
    }
    root
}

/// A cgroup of the test's own that limits the number of processes.
pub(in super::super) struct Cgroup(pub(super) PathBuf);

impl Cgroup {
    pub(in super::super) fn new(name: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let hierarchies = Hierarchies::of_this_process();
        let Some(folder) = hierarchies.roots().find_map(|root| {
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+pids");
            let folder = root.join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir(&folder).ok()?;
            if std::fs::write(folder.join("pids.max"), "50").is_ok() {
                return Some(folder);
            }
            let _ = std::fs::remove_dir(&folder);
            None
        }) else {
            not_tried("no cgroup can be made that limits processes");
            return None;
        };
        Some(Self(folder))
    }

    pub(in super::super) fn below(&self, name: &str) -> Self {
        let folder = self.0.join(name);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub(in super::super) fn add(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    pub(in super::super) fn give_to(&self, uid: u32) {
        std::os::unix::fs::chown(&self.0, Some(uid), None).unwrap();
        for file in std::fs::read_dir(&self.0).unwrap() {
            std::os::unix::fs::chown(file.unwrap().path(), Some(uid), None).unwrap();
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
