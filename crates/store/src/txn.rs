//! Optimistic transactions: a commit fails if a row that was read has changed, and the transaction is retried.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::backend::{Commit, Expect, Key, Row, Seq};
use crate::pending::Pending;
use crate::record::Stored;
use crate::{Record, Store, StoreError};

/// How often a write is retried after conflicts.
pub(crate) const MAX_RETRIES: usize = 8;

/// One attempt at a write. Reads go to the store, writes wait for the commit.
pub(crate) struct Txn<'s> {
    store: &'s Store,
    commit: Commit,
    skip_commit: bool,
}

impl Txn<'_> {
    /// The object in this row. The commit fails if the row has changed by then, or exists where there was none.
    pub(crate) async fn read<T: Stored>(
        &mut self,
        key: &Key,
    ) -> Result<Option<Record<T>>, StoreError> {
        let row = self.row(key).await?;
        row.as_ref().map(T::read).transpose()
    }

    /// As [`Txn::read`], for a row that is not an object of its own.
    pub(crate) async fn row(&mut self, key: &Key) -> Result<Option<Row>, StoreError> {
        let row = self.store.row(key).await?;
        let expect = match &row {
            Some(row) => Expect::Version(row.version),
            None => Expect::Absent,
        };
        self.commit.expect.push((key.clone(), expect));
        Ok(row)
    }

    /// Writes an object; `created` is that of the record that it replaces, [`Seq::ZERO`] for a new one.
    pub(crate) fn put<T: Stored>(&mut self, value: &T, created: Seq) {
        self.put_row(value.key(), value.value(created));
    }

    pub(crate) fn put_row(&mut self, key: Key, value: Bytes) {
        self.commit.put.push((key, value));
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.commit.delete.push(key);
    }

    /// For expectations and rows that are planned for several objects together, as those of entries are.
    pub(crate) const fn commit(&mut self) -> &mut Commit {
        &mut self.commit
    }

    /// Ends the attempt without a commit, because there is nothing to change.
    pub(crate) const fn skip_commit(&mut self) {
        self.skip_commit = true;
    }
}

impl Store {
    /// Runs an attempt and commits what it wrote; retries from the start if a row that it read has changed meanwhile.
    /// An attempt that returns an error is not retried.
    ///
    /// The attempt returns a boxed future because the compiler can't tell yet that those of `async` closures are `Send`
    /// for every lifetime of their argument.
    pub(crate) async fn retry<'s, T, E: From<StoreError>>(
        &'s self,
        doing: &'static str,
        attempt: impl for<'t> Fn(&'t mut Txn<'s>) -> BoxFuture<'t, Result<T, E>> + Send,
    ) -> Result<Pending<T>, E> {
        for _ in 0..=MAX_RETRIES {
            let mut txn = Txn {
                store: self,
                commit: Commit::default(),
                skip_commit: false,
            };
            let value = attempt(&mut txn).await?;
            if txn.skip_commit {
                return Ok(Pending::new(value, Seq::ZERO));
            }
            if let Ok(seq) = self.commit(txn.commit).await? {
                return Ok(Pending::new(value, seq));
            }
        }
        Err(StoreError::Busy { doing }.into())
    }

    /// Runs rounds over the items of a batch until each has its result, and returns those that have none after the last
    /// round. A round gets the items that are left.
    ///
    /// Of items that touch the same row only one succeeds in each round, so a batch gets as many more rounds.
    pub(crate) async fn retry_each<'s, I, T, E>(
        &'s self,
        items: Vec<(usize, I)>,
        results: &mut Results<T, E>,
        round: impl Fn(Vec<(usize, I)>) -> BoxFuture<'s, Result<Round<I, T, E>, StoreError>> + Send,
    ) -> Result<Vec<(usize, I)>, StoreError> {
        let mut left = items;
        for _ in 0..=MAX_RETRIES + left.len() {
            if left.is_empty() {
                break;
            }
            let outcomes = round(std::mem::take(&mut left)).await?;
            for (i, outcome) in outcomes {
                match outcome {
                    Outcome::Done(value, seq) => results.done(i, value, seq),
                    Outcome::Failed(error) => results.failed(i, error),
                    Outcome::Again(item) => left.push((i, item)),
                }
            }
        }
        Ok(left)
    }
}

/// The outcome of one round for the items of a batch, each with its number.
pub(crate) type Round<I, T, E> = Vec<(usize, Outcome<I, T, E>)>;

/// The outcome of one round for one item.
pub(crate) enum Outcome<I, T, E> {
    /// It was written by this commit.
    Done(T, Seq),
    /// It can't be written.
    Failed(E),
    /// A row that it touches was changed meanwhile.
    Again(I),
}

/// The results of a batch as they come in, and its last commit.
pub(crate) struct Results<T, E> {
    results: Vec<Result<T, E>>,
    last: Seq,
}

impl<T, E> Results<T, E> {
    /// As many results as there are items; `open` is that of an item that gets no other.
    pub(crate) fn new(items: usize, open: impl Fn() -> E) -> Self {
        Self {
            results: (0..items).map(|_| Err(open())).collect(),
            last: Seq::ZERO,
        }
    }

    fn done(&mut self, i: usize, value: T, seq: Seq) {
        self.last = self.last.max(seq);
        self.set(i, Ok(value));
    }

    fn failed(&mut self, i: usize, error: E) {
        self.set(i, Err(error));
    }

    fn set(&mut self, i: usize, result: Result<T, E>) {
        if let Some(slot) = self.results.get_mut(i) {
            *slot = result;
        }
    }

    /// The results in order, visible with the last of their commits.
    pub(crate) fn into_pending(self) -> Pending<Vec<Result<T, E>>> {
        Pending::new(self.results, self.last)
    }
}
