//! How many files this process may have open: every connection is one, or two with the caller's process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Of the open files that the system allows, one in so many may be a connection of one listener.
const SHARE: u64 = 4;

/// Raises this process's limit as far as it may do so itself, as Go programs do at their start. The usual limit of 1,024
/// dates from select(2), and any caller could use it up.
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

/// How many connections one listener may have, so that files are left for everything else.
pub(crate) fn connections() -> usize {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => usize::try_from(soft / SHARE).unwrap_or(usize::MAX).max(1),
        Err(_) => usize::MAX,
    }
}
