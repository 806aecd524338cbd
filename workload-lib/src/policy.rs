//! The mesh policy from a file, read again when the file changes.
//!
//! A policy with any bad part is refused whole: all its errors are logged and the last good one stays.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use countersign_mesh::Policy;
use countersign_transport::error::Chain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is wrong in a policy text, from the crate that holds the policy.
pub use countersign_mesh::policy::{InvalidPolicy, PolicyError, PolicyErrorKind};

use crate::error::PolicyFileError;
use crate::event::{Event, EventLog};
use crate::limits::{MAX_POLICY, POLICY_POLL};

/// The policy in force, and why the file as it stands now is not it, if it is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) problem: Option<Arc<PolicyFileError>>,
}

/// Starts to watch a file. The task ends with `stop`.
pub(crate) fn watch_file(
    path: PathBuf,
    events: EventLog,
    stop: CancellationToken,
) -> watch::Receiver<InForce> {
    let (publish, subscribe) = watch::channel(InForce::default());
    tokio::spawn(async move {
        stop.run_until_cancelled_owned(follow(path, publish, events))
            .await;
    });
    subscribe
}

/// A policy that comes from a test, and the half that changes it.
#[cfg(feature = "test-util")]
pub(crate) fn given(policy: Policy) -> watch::Sender<InForce> {
    watch::Sender::new(InForce {
        policy: Some(Arc::new(policy)),
        problem: None,
    })
}

async fn follow(path: PathBuf, publish: watch::Sender<InForce>, events: EventLog) {
    let mut last = Seen::default();
    loop {
        let (file, seen) = (path.clone(), std::mem::take(&mut last));
        let settle = publish.borrow().policy.is_some();
        match tokio::task::spawn_blocking(move || look(&file, seen, settle)).await {
            Ok((seen, change)) => {
                last = seen;
                apply(&path, change, &publish, &events);
            }
            Err(failed) => tracing::error!(error = %failed, "Looking at the policy file failed"),
        }
        tokio::time::sleep(POLICY_POLL).await;
    }
}

fn apply(path: &Path, change: Change, publish: &watch::Sender<InForce>, events: &EventLog) {
    match change {
        Change::None => {}
        Change::Good(policy) => {
            tracing::info!(path = %path.display(), "Policy in force");
            publish.send_replace(InForce {
                policy: Some(policy),
                problem: None,
            });
            events.write(Event::PolicyInForce { path: path.into() });
        }
        Change::Bad(problem) => {
            // The same problem is said once, not every second.
            let text = Chain(&problem).to_string();
            let told = publish
                .borrow()
                .problem
                .as_ref()
                .is_some_and(|last| Chain(&**last).to_string() == text);
            if told {
                return;
            }
            let has_last_good = publish.borrow().policy.is_some();
            tracing::error!(
                error = text,
                has_last_good,
                "Policy refused; the last good one, if any, stays in force"
            );
            let problem = Arc::new(problem);
            publish.send_modify(|now| now.problem = Some(Arc::clone(&problem)));
            events.write(Event::PolicyRefused(problem));
        }
    }
}

enum Change {
    None,
    Good(Arc<Policy>),
    Bad(PolicyFileError),
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

/// What was seen of the file so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// When it was last read.
    read: Option<Stamp>,
    /// When it was last looked at.
    looked: Option<Stamp>,
}

/// Looks at the file. With `settle`, one that has changed is read only once it is the same at two looks: the first half
/// of a policy may be a policy too, only without the rules that deny.
fn look(path: &Path, seen: Seen, settle: bool) -> (Seen, Change) {
    match read(path, seen, settle) {
        Ok(Found::AsItWas) => (seen, Change::None),
        Ok(Found::Unsettled(now)) => (
            Seen {
                looked: Some(now),
                ..seen
            },
            Change::None,
        ),
        Ok(Found::Text(read, text)) => {
            let seen = Seen { read, looked: read };
            match Policy::parse(&text) {
                Ok(policy) => (seen, Change::Good(Arc::new(policy))),
                Err(source) => (
                    seen,
                    Change::Bad(PolicyFileError::Invalid {
                        path: path.into(),
                        source,
                    }),
                ),
            }
        }
        Err(problem) => (Seen::default(), Change::Bad(problem)),
    }
}

enum Found {
    /// Nothing new since it was read.
    AsItWas,
    /// It may still be being written.
    Unsettled(Stamp),
    /// Its text; the stamp is missing if the file changed while it was read.
    Text(Option<Stamp>, String),
}

fn read(path: &Path, seen: Seen, settle: bool) -> Result<Found, PolicyFileError> {
    let failed = |source| PolicyFileError::Read {
        path: path.into(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let before = Stamp::of(&file.metadata().map_err(failed)?);
    if seen.read == Some(before) {
        return Ok(Found::AsItWas);
    }
    if settle && seen.looked != Some(before) {
        return Ok(Found::Unsettled(before));
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
        return Err(PolicyFileError::TooLarge { path: path.into() });
    }
    let after = Stamp::of(&file.metadata().map_err(failed)?);
    if settle && before != after {
        return Ok(Found::Unsettled(after));
    }
    Ok(Found::Text((before == after).then_some(before), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: &str = r#"
allow "all" {
  from    = ["spiffe://td/**"]
  to      = ["spiffe://td/**"]
  actions = ["POST /tasks"]
}
"#;
    const DENY: &str = r#"
deny "not payments" {
  to = ["spiffe://td/payments"]
}
"#;

    #[test]
    fn a_policy_that_is_still_being_written_is_not_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.hcl");
        let whole = format!("{ALLOW}{DENY}");
        std::fs::write(&path, &whole).unwrap();
        let (seen, change) = look(&path, Seen::default(), false);
        assert!(
            matches!(change, Change::Good(_)),
            "the first one waits for nobody"
        );
        // Its first half is a policy without the rule that denies.
        std::fs::write(&path, ALLOW).unwrap();
        let (seen, change) = look(&path, seen, true);
        assert!(matches!(change, Change::None));
        std::fs::write(&path, format!("{whole}\n")).unwrap();
        let (seen, change) = look(&path, seen, true);
        assert!(matches!(change, Change::None));
        let (seen, change) = look(&path, seen, true);
        match change {
            Change::Good(policy) => assert_eq!(policy.deny_rules().len(), 1),
            _ => panic!("it has been the same twice"),
        }
        assert!(matches!(look(&path, seen, true).1, Change::None));
        // Gone for a moment, as some editors do it: that changes nothing.
        std::fs::remove_file(&path).unwrap();
        let (seen, change) = look(&path, seen, true);
        assert!(matches!(change, Change::Bad(PolicyFileError::Read { .. })));
        std::fs::write(&path, ALLOW).unwrap();
        assert!(matches!(look(&path, seen, true).1, Change::None));
    }
}
