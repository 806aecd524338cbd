//! Names of users and groups, remembered for a short time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use nix::unistd::{Gid, Group, Uid, User};
use tokio::time::Instant;

use super::{AttestorError, Process, on_blocking_thread};
use crate::limits;

/// A user or a group, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    /// A UID.
    User(u32),
    /// A GID.
    Group(u32),
}

impl Account {
    /// Looks the name up by NSS (nsswitch.conf), which may ask a remote directory. An error counts as no name.
    fn look_up(self) -> Option<String> {
        match self {
            Self::User(uid) => User::from_uid(Uid::from_raw(uid))
                .ok()
                .flatten()
                .map(|user| user.name),
            Self::Group(gid) => Group::from_gid(Gid::from_raw(gid))
                .ok()
                .flatten()
                .map(|group| group.name),
        }
    }
}

/// A cache of recently looked-up names, shared by all attestations.
#[derive(Debug, Default)]
pub(super) struct AccountNames(Mutex<HashMap<Account, (String, Instant)>>);

impl AccountNames {
    /// The name of each of these, if it has one. Names that are not cached are looked up on a blocking thread. The
    /// process's permit is held meanwhile, so that its user can't occupy all threads.
    ///
    /// # Errors
    /// The lookup panicked.
    pub(super) async fn of(
        &self,
        process: &Arc<Process>,
        accounts: &[Account],
    ) -> Result<HashMap<Account, String>, AttestorError> {
        let mut names = HashMap::with_capacity(accounts.len());
        let mut unknown = Vec::new();
        for account in accounts {
            match self.recall(*account) {
                Some(name) => drop(names.insert(*account, name)),
                None => unknown.push(*account),
            }
        }
        if unknown.is_empty() {
            return Ok(names);
        }
        let asked = on_blocking_thread(process, move |_| {
            let named = |account: Account| Some((account, account.look_up()?));
            Ok(unknown.into_iter().filter_map(named).collect::<Vec<_>>())
        });
        for (account, name) in asked.await? {
            self.remember(account, &name);
            names.insert(account, name);
        }
        Ok(names)
    }

    fn recall(&self, account: Account) -> Option<String> {
        let known = self.0.lock().ok()?;
        let (name, until) = known.get(&account)?;
        (Instant::now() < *until).then(|| name.clone())
    }

    fn remember(&self, account: Account, name: &str) {
        let Ok(mut known) = self.0.lock() else { return };
        let now = Instant::now();
        if known.len() >= limits::NAMES {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < limits::NAMES {
            known.insert(account, (name.to_owned(), now + limits::NAME_REMEMBERED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: [Account; 2] = [Account::User(0), Account::Group(0)];

    fn own() -> Arc<Process> {
        let pid = i32::try_from(std::process::id()).unwrap();
        let caller = super::super::Caller::numbered(pid).unwrap();
        Arc::new(Process::open(&caller).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_remembered_for_its_time_and_then_asked_for_again() {
        let names = AccountNames::default();
        names.remember(Account::User(0), "as it was");
        let named = names.of(&own(), &ROOT).await.unwrap();
        assert_eq!(named[&Account::User(0)], "as it was");
        assert_eq!(named[&Account::Group(0)], "root");

        tokio::time::advance(limits::NAME_REMEMBERED).await;
        assert_eq!(names.recall(Account::Group(0)), None);
        let named = names.of(&own(), &ROOT).await.unwrap();
        assert_eq!(named[&Account::User(0)], "root");
    }

    #[tokio::test]
    async fn who_has_no_name_is_asked_for_each_time() {
        // Reserved for "nobody in particular": no directory has a user of this number.
        let nameless = Account::User(u32::MAX - 1);
        let names = AccountNames::default();
        assert!(names.of(&own(), &[nameless]).await.unwrap().is_empty());
        assert!(names.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_bounded_until_their_time_is_over() {
        let names = AccountNames::default();
        for number in 0.. {
            if names.0.lock().unwrap().len() == limits::NAMES {
                break;
            }
            names.remember(Account::Group(number), "g");
        }
        names.remember(Account::User(7), "u");
        assert_eq!(names.recall(Account::User(7)), None);

        tokio::time::advance(limits::NAME_REMEMBERED).await;
        names.remember(Account::User(7), "u");
        assert_eq!(names.recall(Account::User(7)).as_deref(), Some("u"));
        assert_eq!(names.0.lock().unwrap().len(), 1);
    }
}
