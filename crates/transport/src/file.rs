//! Atomic replacement of files.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The mode of files with secrets: only this user reads and writes.
pub const PRIVATE: u32 = 0o600;
/// The mode of files that anyone may read.
pub const PUBLIC: u32 = 0o644;

/// A file could not be written; its previous content is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {step} failed", path.display())]
pub struct WriteError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What failed: `creating`, `writing`, `syncing`, `renaming`.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Writes a file atomically: after a crash or a power loss it has either the old or the new content.
///
/// A temporary file in the same folder, created with 0600 and only then set to `mode`, is synced and renamed over the
/// file, and the folder is synced. One writer per path at a time. It blocks: in async code call it from a blocking
/// task.
///
/// # Errors
/// [`WriteError`]; what was there before is unchanged, and no temporary file is left.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
    let fail = |step| {
        move |source| WriteError {
            path: path.to_owned(),
            step,
            source,
        }
    };
    let name = path
        .file_name()
        .ok_or_else(|| fail("naming")(io::ErrorKind::InvalidInput.into()))?;
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".new");
    let temporary = folder.join(temporary_name);

    let written = write_temporary(&temporary, bytes, mode).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(|e| ("renaming", e))?;
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(|e| ("syncing the folder", e))
    });
    written.map_err(|(step, source)| {
        // Report the first error, not that of the clean-up: the temporary file may not exist any more.
        drop(std::fs::remove_file(&temporary));
        fail(step)(source)
    })
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> Result<(), (&'static str, io::Error)> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(("removing an older temporary file", error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)
        .map_err(|e| ("creating", e))?;
    file.write_all(bytes).map_err(|e| ("writing", e))?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(|e| ("setting the mode", e))?;
    file.sync_all().map_err(|e| ("syncing", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_whole_with_the_exact_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.der");
        // An older temporary file with a wider mode, as a crash might leave it.
        std::fs::write(folder.path().join(".key.der.new"), "half").unwrap();
        write_atomically(&path, b"one", 0o644).unwrap();
        assert_eq!(mode_of(&path), 0o644);
        write_atomically(&path, b"two", PRIVATE).unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap().as_slice(), mode_of(&path)),
            (b"two".as_slice(), 0o600)
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busy");
        std::fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"x", PRIVATE).unwrap_err();
        assert!(
            error.to_string().contains("busy") && error.step == "renaming",
            "{error}"
        );
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        let missing = write_atomically(&folder.path().join("no/file"), b"x", PRIVATE).unwrap_err();
        assert_eq!(
            (missing.step, missing.source.kind()),
            ("creating", io::ErrorKind::NotFound)
        );
    }
}
