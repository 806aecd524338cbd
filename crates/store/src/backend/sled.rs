//! A store on the disk, by sled.
//!
//! One thread owns the database. It takes the commits that wait, makes each in a transaction of its own, syncs all of
//! them with one flush, and only then answers. Reads go through the same thread, so that no reader sees what a crash could
//! take back. Four faults of sled 0.34 are worked around here: an unfinished snapshot file keeps it from opening, its
//! flush does not sync the file, pages beyond a quarter of a segment are never synced, and its cache defaults to 1 GiB.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use countersign_transport::file;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use super::feed::ChangeFeed;
use super::{Backend, BackendError, Changes, Commit, Committed, Key, Row, Seq, Table};
use crate::limits;
use rows::Rows;
use writer_thread::{Request, WriterThread};

mod rows;
mod writer_thread;

/// The folder of the database within the data directory.
const FOLDER: &str = "store";
/// The file that is locked as long as a server uses the data directory.
const LOCK: &str = "server.lock";
/// The mode of the folders.
const PRIVATE_FOLDER: u32 = 0o700;

/// Why the store on the disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory can't be used.
    #[error(
        "could not {doing} {}: check that this user may write there and that the disk is not full",
        path.display()
    )]
    Directory {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another server uses it.
    #[error(
        "another server is using the data directory {}: stop it, or give this one a data_dir of its own",
        path.display()
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// sled refuses the files.
    #[error("could not open the store in {}: {why}", path.display())]
    Refused {
        /// The folder of the database.
        path: PathBuf,
        /// What sled said.
        why: String,
    },
}

/// The store in a data directory. Closed when dropped.
#[derive(Debug)]
pub struct Sled {
    requests: Option<mpsc::Sender<Request>>,
    feed: Arc<ChangeFeed>,
    broken: watch::Receiver<Option<BackendError>>,
    thread: Option<JoinHandle<()>>,
}

impl Sled {
    /// Opens the store in this data directory, or makes one. Blocks for as long as sled needs to recover.
    ///
    /// # Errors
    /// A directory that can't be used or is in use, or files that sled refuses.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let lock = lock(data_dir)?;
        let path = data_dir.join(FOLDER);
        make_private(&path)?;
        remove_unfinished_snapshots(&path)?;
        let refused = |why: &dyn std::fmt::Display| OpenError::Refused {
            path: path.clone(),
            why: why.to_string(),
        };
        let db = ::sled::Config::new()
            .path(&path)
            .segment_size(8 << 20)
            .cache_capacity(limits::CACHE_BYTES)
            .open()
            .map_err(|e| refused(&rows::describe(&e)))?;
        let file = File::open(path.join("db")).map_err(directory("open", &path))?;
        // sled syncs no folder: after a power loss a new file could be without a name.
        for folder in [&path, data_dir] {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(directory("sync", folder))?;
        }
        let rows = Rows::open(db, file).map_err(|e| refused(&e))?;

        let (requests, incoming) = mpsc::channel(limits::MAX_QUEUED_REQUESTS);
        let (failed, broken) = watch::channel(None);
        let feed = Arc::new(ChangeFeed::new(rows.head(), limits::MAX_REMEMBERED_CHANGES));
        let writer = WriterThread::new(rows, incoming, Arc::clone(&feed), failed);
        let database = path.join("db");
        let thread = thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                writer.run();
                // The lock outlasts sled's own: a server that starts now must not find sled's file locked.
                wait_until_free(&database);
                drop(lock);
            })
            .map_err(directory("start a thread for", &path))?;
        Ok(Self {
            requests: Some(requests),
            feed,
            broken,
            thread: Some(thread),
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, BackendError>>) -> Request,
    ) -> Result<T, BackendError> {
        let requests = self.requests.as_ref().ok_or(BackendError::Closed)?;
        let (reply, answer) = oneshot::channel();
        requests
            .send(request(reply))
            .await
            .map_err(|_| BackendError::Closed)?;
        answer.await.map_err(|_| BackendError::Closed)?
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, `broken` has said so.
            let _ = thread.join();
        }
    }
}

impl Backend for Sled {
    fn get(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Option<Row>>, BackendError>> {
        self.ask(move |reply| Request::Get { keys, reply }).boxed()
    }

    fn scan(
        &self,
        table: Table,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Row>, BackendError>> {
        self.ask(move |reply| Request::Scan {
            table,
            after,
            limit,
            reply,
        })
        .boxed()
    }

    fn commit(&self, commits: Vec<Commit>) -> BoxFuture<'_, Result<Committed, BackendError>> {
        self.ask(move |reply| Request::Commit { commits, reply })
            .boxed()
    }

    fn changes(&self, after: Seq, limit: usize) -> BoxFuture<'_, Result<Changes, BackendError>> {
        std::future::ready(Ok(self.feed.changes(after, limit))).boxed()
    }

    fn head(&self) -> watch::Receiver<Seq> {
        self.feed.head()
    }

    fn broken(&self) -> BoxFuture<'_, BackendError> {
        let mut broken = self.broken.clone();
        async move {
            match broken.wait_for(Option::is_some).await {
                Ok(error) => error.clone().unwrap_or(BackendError::Closed),
                // The thread ended without an error: it panicked.
                Err(_) => BackendError::Closed,
            }
        }
        .boxed()
    }
}

fn directory<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> OpenError + 'a {
    move |source| OpenError::Directory {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Locks the data directory for this process. The lock ends with the file handle, however the process ends.
fn lock(data_dir: &Path) -> Result<File, OpenError> {
    private_folders()
        .create(data_dir)
        .map_err(directory("create", data_dir))?;
    let path = data_dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(file::PRIVATE)
        .open(&path)
        .map_err(directory("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: data_dir.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(directory("lock", &path)(e)),
    }
}

/// Waits until sled has unlocked its file: its own threads keep the file for a moment after the database was dropped.
fn wait_until_free(database: &Path) {
    let Ok(file) = File::open(database) else {
        return;
    };
    let deadline = Instant::now() + limits::CLOSE_TIME;
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Creates folders that only this user may open.
fn private_folders() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(PRIVATE_FOLDER);
    builder
}

/// Creates the folder of the database, or makes it private: sled's files are readable by the group, and join tokens are in
/// them.
fn make_private(path: &Path) -> Result<(), OpenError> {
    private_folders()
        .create(path)
        .map_err(directory("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_FOLDER))
        .map_err(directory("set the mode of", path))
}

/// Removes snapshots that a crash left unfinished: sled would take one for a snapshot, and refuse to open (sled#1527).
fn remove_unfinished_snapshots(path: &Path) -> Result<(), OpenError> {
    let files = match fs::read_dir(path) {
        Ok(files) => files,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(directory("read", path)(e)),
    };
    for file in files {
        let file = file.map_err(directory("read", path))?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(file.path()).map_err(directory("remove", &file.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
