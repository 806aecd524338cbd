//! Join tokens: each can be used once.

use countersign_identity::{Entry, UnixTime};
use countersign_proto::store::v1;
use futures::FutureExt as _;
use prost::Message as _;

use crate::backend::{Commit, Expect, Key, Row, Table};
use crate::entry::creation;
use crate::limits;
use crate::{Pending, Store, StoreError, damaged};

/// Why a join token was not created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenExists {
    /// An unused token with this value exists.
    #[error("there is a join token with this value already")]
    Exists,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a join token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is unknown, or was used before.
    #[error("join token does not exist or has already been used")]
    Unknown,
    /// It has expired, and was removed.
    #[error("join token expired")]
    Expired,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Creates a join token, together with the entry that gives its node a second ID, if requested.
    ///
    /// # Errors
    /// The token exists, or the store failed.
    pub async fn token_create(
        &self,
        value: &str,
        expires_at: UnixTime,
        alias: Option<&Entry>,
    ) -> Result<Pending<()>, TokenExists> {
        let key = Key::new(Table::Token, value);
        let message = v1::JoinToken {
            expires_at: expires_at.as_i64(),
        };
        let token = Commit {
            expect: vec![(key.clone(), Expect::Absent)],
            put: vec![(key.clone(), message.encode_to_vec().into())],
            delete: Vec::new(),
        };
        let mut commit = token.clone();
        if let Some(alias) = alias {
            let create = creation(alias);
            commit.expect.extend(create.expect);
            commit.put.extend(create.put);
        }
        let committed = match self.commit(commit).await? {
            // An earlier token of this value left the same entry behind.
            Err(conflict) if conflict.key != key => self.commit(token).await?,
            committed => committed,
        };
        match committed {
            Ok(seq) => Ok(Pending::new((), seq)),
            Err(_) => Err(TokenExists::Exists),
        }
    }

    /// Uses a join token: of all concurrent attempts, exactly one succeeds.
    ///
    /// # Errors
    /// The token is unknown, used or expired, or the store failed.
    pub async fn token_take(&self, value: &str, now: UnixTime) -> Result<(), TokenRefused> {
        let key = &Key::new(Table::Token, value);
        let expires_at = self
            .retry("take a join token", move |txn| {
                async move {
                    let row = txn.row(key).await?.ok_or(TokenRefused::Unknown)?;
                    let expires_at = expiry(&row)?;
                    // An expired one is removed as well: it can't be used any more.
                    txn.delete(key.clone());
                    Ok::<_, TokenRefused>(expires_at)
                }
                .boxed()
            })
            .await?
            .unseen();
        if now > expires_at {
            return Err(TokenRefused::Expired);
        }
        Ok(())
    }

    /// Removes the expired unused join tokens, and returns how many there were.
    ///
    /// # Errors
    /// The store failed.
    pub async fn tokens_prune(&self, now: UnixTime) -> Result<usize, StoreError> {
        let mut after = None;
        let mut removed = 0;
        loop {
            let rows = self
                .backend
                .scan(Table::Token, after.take(), limits::PAGE_ROWS)
                .await?;
            let Some(last) = rows.last() else {
                return Ok(removed);
            };
            after = Some(last.key.name().to_owned());
            let mut commits = Vec::new();
            for row in &rows {
                if now > expiry(row)? {
                    commits.push(removal(row));
                }
            }
            if !commits.is_empty() {
                // A missing one was used meanwhile.
                removed += self
                    .commit_all(commits)
                    .await?
                    .iter()
                    .filter(|r| r.is_ok())
                    .count();
            }
        }
    }
}

fn removal(row: &Row) -> Commit {
    Commit {
        expect: vec![(row.key.clone(), Expect::Version(row.version))],
        put: Vec::new(),
        delete: vec![row.key.clone()],
    }
}

fn expiry(row: &Row) -> Result<UnixTime, StoreError> {
    let v1::JoinToken { expires_at } =
        v1::JoinToken::decode(row.value.clone()).map_err(|e| damaged(&row.key, &e))?;
    Ok(UnixTime::from_i64(expires_at))
}
