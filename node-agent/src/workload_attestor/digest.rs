//! SHA-256 of executables, remembered by file identity.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;

use aws_lc_rs::digest::{Context, SHA256};

use super::Deadline;
use crate::limits;

/// An executable is larger than `workload_size_limit`.
#[derive(Debug, thiserror::Error)]
#[error(
    "executable has {size} bytes, more than workload_size_limit ({limit}): raise it, or set it to -1 to do without unix:sha256"
)]
pub(crate) struct TooLarge {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The limit in bytes.
    pub(crate) limit: u64,
}

/// What identifies the content of a file as far as the kernel goes: any write moves the change time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileKey {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileKey {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A bounded memory of digests. Shared by all attestations.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    digests: HashMap<FileKey, [u8; 32]>,
    oldest_first: VecDeque<FileKey>,
}

impl Digests {
    /// The SHA-256 of the file, in lower-case hex. `limit` is in bytes; `None` is no limit. Fails at the deadline,
    /// since any user can make a file that takes hours to read.
    ///
    /// # Errors
    /// [`DigestError::TooLarge`], [`DigestError::TooSlow`], or the file could not be read.
    pub(crate) fn hex(
        &self,
        file: &mut File,
        limit: Option<u64>,
        deadline: &Deadline,
    ) -> Result<String, DigestError> {
        // A new hard link or mode also changes ctime, and is no reason to refuse the caller: read it again.
        for _ in 1..limits::DIGEST_READINGS {
            match self.read(file, limit, deadline) {
                Err(DigestError::Changed) => file.rewind()?,
                read => return read,
            }
        }
        self.read(file, limit, deadline)
    }

    fn read(
        &self,
        file: &mut File,
        limit: Option<u64>,
        deadline: &Deadline,
    ) -> Result<String, DigestError> {
        let before = file.metadata()?;
        if let Some(limit) = limit.filter(|limit| before.size() > *limit) {
            return Err(TooLarge {
                size: before.size(),
                limit,
            }
            .into());
        }
        let key = FileKey::of(&before);
        if let Some(digest) = self.recall(&key) {
            return Ok(hex(&digest));
        }
        // One byte beyond the size shows a file that grew meanwhile.
        let mut content = file.by_ref().take(before.size().saturating_add(1));
        let (digest, read) = sha256(&mut content, deadline)?;
        if read != before.size() || FileKey::of(&file.metadata()?) != key {
            return Err(DigestError::Changed);
        }
        self.remember(key, digest);
        Ok(hex(&digest))
    }

    fn recall(&self, key: &FileKey) -> Option<[u8; 32]> {
        self.0.lock().ok()?.digests.get(key).copied()
    }

    fn remember(&self, key: FileKey, digest: [u8; 32]) {
        let Ok(mut known) = self.0.lock() else { return };
        if known.digests.insert(key, digest).is_none() {
            known.oldest_first.push_back(key);
        }
        if known.oldest_first.len() > limits::DIGEST_CACHE_ENTRIES
            && let Some(oldest) = known.oldest_first.pop_front()
        {
            known.digests.remove(&oldest);
        }
    }
}

/// Why a file has no digest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DigestError {
    /// Larger than the limit.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// It was written to while it was read.
    #[error("the executable changed while it was read")]
    Changed,
    /// Reading it took too long.
    #[error(
        "the executable has so many bytes that they can't be read in time: set workload_size_limit, or -1 to do without \
         unix:sha256"
    )]
    TooSlow,
    /// It could not be read.
    #[error("could not read the executable: {0}")]
    Io(#[from] io::Error),
}

fn sha256(reader: &mut impl io::Read, deadline: &Deadline) -> Result<([u8; 32], u64), DigestError> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0_u8; 128 * 1024];
    let mut total = 0_u64;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        if deadline.has_passed() {
            return Err(DigestError::TooSlow);
        }
        context.update(buffer.get(..read).unwrap_or_default());
        total = total.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    let digest = context
        .finish()
        .as_ref()
        .try_into()
        .map_err(io::Error::other)?;
    Ok((digest, total))
}

fn hex(digest: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    digest
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn patient() -> Deadline {
        Deadline::after(limits::WORKLOAD_ATTESTATION)
    }

    #[test]
    fn an_executable_that_takes_too_long_to_read_is_given_up() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // As good as endless, and takes no room on the disk.
        file.as_file().set_len(1 << 42).unwrap();
        let mut opened = File::open(file.path()).unwrap();
        let soon = Deadline::after(std::time::Duration::from_millis(20));
        let cancelled = patient();
        cancelled.cancelled.cancel();
        for deadline in [soon, cancelled] {
            let error = Digests::default()
                .hex(&mut opened, None, &deadline)
                .unwrap_err();
            assert!(matches!(error, DigestError::TooSlow), "{error}");
        }
    }

    #[test]
    fn the_digest_is_the_one_of_fips_180() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        let digests = Digests::default();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for _ in 0..2 {
            let mut opened = File::open(file.path()).unwrap();
            assert_eq!(digests.hex(&mut opened, Some(3), &patient()).unwrap(), want);
        }
    }

    #[test]
    fn two_gigabytes_are_hashed_if_there_is_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 << 30).unwrap();
        let mut opened = File::open(file.path()).unwrap();
        let deadline = Deadline::after(std::time::Duration::from_secs(3600));
        let digest = Digests::default().hex(&mut opened, None, &deadline);
        // As sha256sum says it of as many zeros.
        let want = "a7c744c13cc101ed66c29f672f92455547889cc586ce6d44fe76ae824958ea51";
        assert_eq!(digest.unwrap(), want);
    }

    #[test]
    fn a_file_over_the_limit_is_refused_with_both_numbers() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abcd").unwrap();
        let error = Digests::default()
            .hex(&mut File::open(file.path()).unwrap(), Some(3), &patient())
            .unwrap_err();
        assert!(
            matches!(error, DigestError::TooLarge(TooLarge { size: 4, limit: 3 })),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_linked_while_it_is_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let file = File::create_new(&path).unwrap();
        // It takes no room on the disk, and some time to read.
        file.set_len(1 << 28).unwrap();
        let mut opened = File::open(&path).unwrap();
        let expected = Digests::default()
            .hex(&mut opened, None, &patient())
            .unwrap();

        for number in 0.. {
            let mut opened = File::open(&path).unwrap();
            let before = FileKey::of(&opened.metadata().unwrap());
            // A clone of an open file shows how far that one was read.
            let mut reading = opened.try_clone().unwrap();
            let (from, to) = (path.clone(), folder.path().join(format!("link{number}")));
            let linked = std::thread::spawn(move || {
                while reading.stream_position().unwrap() == 0 {
                    std::thread::yield_now();
                }
                std::fs::hard_link(from, to).unwrap();
            });
            let digests = Digests::default();
            let hex = digests.hex(&mut opened, None, &patient());
            assert_eq!(hex.unwrap(), expected);
            linked.join().unwrap();
            // Otherwise the link came when all was read.
            if digests.recall(&before).is_none() {
                let after = FileKey::of(&opened.metadata().unwrap());
                assert!(digests.recall(&after).is_some());
                break;
            }
        }
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let digests = Digests::default();
        let key = |inode| FileKey {
            device: 1,
            inode,
            size: 1,
            changed: (0, 0),
        };
        let entries = u64::try_from(limits::DIGEST_CACHE_ENTRIES).unwrap();
        for inode in 0..=entries {
            digests.remember(key(inode), [0; 32]);
        }
        assert_eq!(digests.recall(&key(0)), None);
        assert!(digests.recall(&key(1)).is_some());
        assert_eq!(
            digests.0.lock().unwrap().digests.len(),
            limits::DIGEST_CACHE_ENTRIES
        );
    }
}
