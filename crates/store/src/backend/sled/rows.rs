//! Rows with versions in one tree of sled.
//!
//! ```text
//! 'f'                                   the format, 1
//! 'h'                                   the last commit, 8 bytes
//! 'o' table name                        the row: version, 8 bytes; then 0 and the value, or 1 and the number of pieces
//! 'p' table length name piece           a piece of a value that is too long for one page
//! ```
//! Numbers are big-endian; the length and the piece have 4 bytes.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Bound;

use ::sled::transaction::{
    ConflictableTransactionError, TransactionError, TransactionalTree, UnabortableTransactionError,
};
use ::sled::{Db, IVec, Tree};
use bytes::Bytes;

use crate::backend::{BackendError, Commit, Key, Row, Seq, Table};
use crate::limits::MAX_CHUNK_BYTES;

const FORMAT_KEY: &[u8] = b"f";
const FORMAT: &[u8] = &[1];
const HEAD_KEY: &[u8] = b"h";
const INLINE: u8 = 0;
const PIECES: u8 = 1;

/// The rows in the database.
pub(super) struct Rows {
    db: Db,
    tree: Tree,
    file: File,
    head: Seq,
}

impl Rows {
    /// The rows of this database, whose file is synced after each batch.
    pub(super) fn open(db: Db, file: File) -> Result<Self, BackendError> {
        let tree = db.open_tree("rows").map_err(io("open its tree"))?;
        match tree.get(FORMAT_KEY).map_err(io("read its format"))? {
            Some(format) if format.as_ref() == FORMAT => {}
            Some(format) => {
                return Err(BackendError::Damaged {
                    what: format!(
                        "its format is {format:?}, and this version knows {FORMAT:?} only"
                    ),
                });
            }
            None => {
                tree.insert(FORMAT_KEY, FORMAT)
                    .map_err(io("write its format"))?;
            }
        }
        let head = match tree.get(HEAD_KEY).map_err(io("read its head"))? {
            Some(bytes) => number(&bytes)
                .map(Seq::new)
                .ok_or_else(|| damaged("its head"))?,
            None => Seq::ZERO,
        };
        let rows = Self {
            db,
            tree,
            file,
            head,
        };
        rows.sync()?;
        Ok(rows)
    }

    /// The last commit.
    pub(super) const fn head(&self) -> Seq {
        self.head
    }

    /// Makes one commit, not durable before the next [`Rows::sync`]; or says which row was not as expected.
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<Result<Seq, Key>, BackendError> {
        let seq = self.head.next();
        let made = self.tree.transaction(|tree| {
            for (key, expect) in &commit.expect {
                let found = tree.get(row_key(key))?;
                let version = match &found {
                    // A row that can't be read must not count as absent: it would be overwritten.
                    Some(bytes) => match version(bytes) {
                        Some(version) => Some(version),
                        None => return Err(abort(Refusal::Damaged(key.clone()))),
                    },
                    None => None,
                };
                if !expect.holds(version) {
                    return Err(abort(Refusal::Conflict(key.clone())));
                }
            }
            for key in &commit.delete {
                remove(tree, key)?;
            }
            for (key, value) in &commit.put {
                // The old value may have more pieces than the new one.
                remove(tree, key)?;
                insert(tree, key, seq, value)?;
            }
            tree.insert(HEAD_KEY, &seq.get().to_be_bytes())?;
            Ok(())
        });
        match made {
            Ok(()) => {
                self.head = seq;
                Ok(Ok(seq))
            }
            Err(TransactionError::Abort(Refusal::Conflict(key))) => Ok(Err(key)),
            Err(TransactionError::Abort(Refusal::Damaged(key))) => Err(damaged(&key.to_string())),
            Err(TransactionError::Storage(e)) => Err(io("write")(e)),
        }
    }

    /// Syncs every commit made so far. sled's flush hands the data to the system, but does not sync it.
    pub(super) fn sync(&self) -> Result<(), BackendError> {
        self.db.flush().map_err(io("flush"))?;
        self.file.sync_all().map_err(|e| BackendError::Io {
            doing: "sync its file",
            why: describe_io(&e),
        })
    }

    /// One row.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Row>, BackendError> {
        let bytes = self.tree.get(row_key(key)).map_err(io("read"))?;
        bytes.map(|bytes| self.row(key.clone(), &bytes)).transpose()
    }

    /// Rows of a table by name, after the one given.
    pub(super) fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Row>, BackendError> {
        let from = match after {
            Some(name) => Bound::Excluded(row_key(&Key::new(table, name))),
            None => Bound::Included(vec![b'o', table.number()]),
        };
        let to = Bound::Excluded(vec![b'o', table.number() + 1]);
        let mut rows = Vec::new();
        for pair in self.tree.range((from, to)).take(limit) {
            let (name, bytes) = pair.map_err(io("read"))?;
            let name = name
                .get(2..)
                .and_then(|name| std::str::from_utf8(name).ok())
                .ok_or_else(|| damaged("the name of a row"))?;
            rows.push(self.row(Key::new(table, name), &bytes)?);
        }
        Ok(rows)
    }

    fn row(&self, key: Key, bytes: &IVec) -> Result<Row, BackendError> {
        let (version, value) = take_row(bytes).ok_or_else(|| damaged(&key.to_string()))?;
        let value = match value {
            Value::Inline(value) => Bytes::copy_from_slice(value),
            Value::Pieces(count) => {
                let mut whole = Vec::new();
                for piece in 0..count {
                    let bytes = self.tree.get(piece_key(&key, piece)).map_err(io("read"))?;
                    let bytes = bytes.ok_or_else(|| damaged(&format!("{key}, piece {piece}")))?;
                    whole.extend_from_slice(&bytes);
                }
                whole.into()
            }
        };
        Ok(Row {
            key,
            version,
            value,
        })
    }
}

/// Why a transaction was given up.
enum Refusal {
    Conflict(Key),
    Damaged(Key),
}

type Write<T> = Result<T, UnabortableTransactionError>;

/// A value, or how many pieces it has.
enum Value<'a> {
    Inline(&'a [u8]),
    Pieces(u32),
}

fn insert(tree: &TransactionalTree, key: &Key, seq: Seq, value: &Bytes) -> Write<()> {
    let mut row = seq.get().to_be_bytes().to_vec();
    if value.len() <= MAX_CHUNK_BYTES {
        row.push(INLINE);
        row.extend_from_slice(value);
    } else {
        let mut count: u32 = 0;
        for piece in value.chunks(MAX_CHUNK_BYTES) {
            tree.insert(piece_key(key, count), piece)?;
            count = count.saturating_add(1);
        }
        row.push(PIECES);
        row.extend_from_slice(&count.to_be_bytes());
    }
    tree.insert(row_key(key), row)?;
    Ok(())
}

/// Removes a row, if it is there, with its pieces.
fn remove(tree: &TransactionalTree, key: &Key) -> Write<()> {
    if let Some(old) = tree.remove(row_key(key))?
        && let Some((_, Value::Pieces(count))) = take_row(&old)
    {
        for piece in 0..count {
            tree.remove(piece_key(key, piece))?;
        }
    }
    Ok(())
}

fn row_key(key: &Key) -> Vec<u8> {
    let mut bytes = vec![b'o', key.table().number()];
    bytes.extend_from_slice(key.name().as_bytes());
    bytes
}

fn piece_key(key: &Key, piece: u32) -> Vec<u8> {
    // The length keeps apart names of which one begins with the other; none comes near 4 GiB.
    let length = u32::try_from(key.name().len()).unwrap_or(u32::MAX);
    let mut bytes = vec![b'p', key.table().number()];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(key.name().as_bytes());
    bytes.extend_from_slice(&piece.to_be_bytes());
    bytes
}

fn version(row: &[u8]) -> Option<Seq> {
    number(row.get(..8)?).map(Seq::new)
}

fn take_row(row: &[u8]) -> Option<(Seq, Value<'_>)> {
    let value = match (*row.get(8)?, row.get(9..)?) {
        (INLINE, value) => Value::Inline(value),
        (PIECES, count) => Value::Pieces(u32::from_be_bytes(count.try_into().ok()?)),
        _ => return None,
    };
    Some((version(row)?, value))
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

const fn abort(refusal: Refusal) -> ConflictableTransactionError<Refusal> {
    ConflictableTransactionError::Abort(refusal)
}

fn io(doing: &'static str) -> impl FnOnce(::sled::Error) -> BackendError {
    move |e| BackendError::Io {
        doing,
        why: describe(&e),
    }
}

/// sled's error text, with advice where there is any.
pub(super) fn describe(error: &::sled::Error) -> String {
    match error {
        ::sled::Error::Io(error) => describe_io(error),
        other => other.to_string(),
    }
}

fn describe_io(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!(
            "{error}: make room there, then start the server again; nothing that was acknowledged is lost"
        ),
        _ => error.to_string(),
    }
}

fn damaged(what: &str) -> BackendError {
    BackendError::Damaged {
        what: what.to_owned(),
    }
}
