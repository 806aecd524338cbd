//! The mesh policy from a file, read again when the file changes.
//!
//! A policy with any bad part is refused whole: all its errors are logged and the last good one stays.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use countersign_mesh::Policy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::limits::{MAX_POLICY, POLICY_POLL};

/// Why there is no policy in a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyProblem {
    /// The file could not be read.
    #[error("could not read the policy file {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_POLICY`].
    #[error("the policy file {path} is larger than {MAX_POLICY} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The text is not a policy.
    #[error("the policy file {path} was refused: {errors}", path = path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Every error in it, each with its line and column.
        errors: String,
    },
}

/// The policy in force, and why the file as it stands now is not it, if it is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) problem: Option<Arc<PolicyProblem>>,
}

/// Starts to watch a file. The task ends with `stop`.
pub(crate) fn watch_file(path: PathBuf, stop: CancellationToken) -> watch::Receiver<InForce> {
    let (publish, subscribe) = watch::channel(InForce::default());
    tokio::spawn(async move {
        stop.run_until_cancelled_owned(follow(path, publish)).await;
    });
    subscribe
}

/// A policy that never changes.
#[cfg(feature = "test-util")]
pub(crate) fn fixed(policy: Policy) -> watch::Receiver<InForce> {
    watch::channel(InForce {
        policy: Some(Arc::new(policy)),
        problem: None,
    })
    .1
}

async fn follow(path: PathBuf, publish: watch::Sender<InForce>) {
    let mut last: Option<Stamp> = None;
    loop {
        let (file, seen) = (path.clone(), last.take());
        match tokio::task::spawn_blocking(move || look(&file, seen)).await {
            Ok((stamp, change)) => {
                last = stamp;
                apply(&path, change, &publish);
            }
            Err(failed) => tracing::error!(error = %failed, "looking at the policy file failed"),
        }
        tokio::time::sleep(POLICY_POLL).await;
    }
}

fn apply(path: &Path, change: Change, publish: &watch::Sender<InForce>) {
    match change {
        Change::None => {}
        Change::Good(policy) => {
            tracing::info!(path = %path.display(), "policy in force");
            publish.send_replace(InForce {
                policy: Some(policy),
                problem: None,
            });
        }
        Change::Bad(problem) => {
            // The same problem is said once, not every second.
            let text = problem.to_string();
            if publish
                .borrow()
                .problem
                .as_ref()
                .is_some_and(|last| last.to_string() == text)
            {
                return;
            }
            let kept = publish.borrow().policy.is_some();
            tracing::error!(error = %text, kept, "policy refused; the last good one, if any, stays in force");
            publish.send_modify(|now| now.problem = Some(Arc::new(problem)));
        }
    }
}

enum Change {
    None,
    Good(Arc<Policy>),
    Bad(PolicyProblem),
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            modified: metadata.modified().ok(),
            size: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

fn look(path: &Path, seen: Option<Stamp>) -> (Option<Stamp>, Change) {
    match read(path, seen) {
        Ok(None) => (seen, Change::None),
        Ok(Some((stamp, text))) => match Policy::parse(&text) {
            Ok(policy) => (stamp, Change::Good(Arc::new(policy))),
            Err(errors) => (
                stamp,
                Change::Bad(PolicyProblem::Refused {
                    path: path.into(),
                    errors: errors.to_string(),
                }),
            ),
        },
        Err(problem) => (None, Change::Bad(problem)),
    }
}

/// The text, if the file is not as it was; its stamp is missing if the file changed while it was read.
fn read(
    path: &Path,
    seen: Option<Stamp>,
) -> Result<Option<(Option<Stamp>, String)>, PolicyProblem> {
    let failed = |source| PolicyProblem::Read {
        path: path.into(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let before = Stamp::of(&file.metadata().map_err(failed)?);
    if seen == Some(before) {
        return Ok(None);
    }
    let mut text = String::new();
    let limit = u64::try_from(MAX_POLICY)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.by_ref()
        .take(limit)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() > MAX_POLICY {
        return Err(PolicyProblem::TooLarge { path: path.into() });
    }
    let after = Stamp::of(&file.metadata().map_err(failed)?);
    Ok(Some(((before == after).then_some(before), text)))
}
