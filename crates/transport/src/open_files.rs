//! The limit on open files: every connection uses one, or two on a Unix socket, where the caller's process is pinned
//! too.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// One listener may use this fraction (one in four) of the limit on open files for connections.
const SHARE: u64 = 4;

/// Raises this process's soft limit to the hard limit, as Go programs do at start. The usual soft limit of 1,024 exists
/// for the sake of select(2), and one caller could exhaust it.
pub fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(())
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "Could not raise the limit on open files");
    }
}

/// How many connections one listener may have, so that file descriptors are left for everything else.
pub(crate) fn connections() -> usize {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => usize::try_from(soft / SHARE).unwrap_or(usize::MAX).max(1),
        Err(_) => usize::MAX,
    }
}
