//! Listening on Unix sockets: exact modes, one daemon per socket, stale sockets replaced, callers identified.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::connection::UnixCaller;
use crate::error::Chain;
use crate::limits;
use crate::process::PeerProcess;

/// Who may connect, by the modes of the socket and of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Mode of the socket.
    pub socket: u32,
    /// Mode of its folder, if the folder has to be made; one that is there already is left alone.
    pub folder: u32,
}

impl Access {
    /// Anyone on this machine: the Workload API.
    pub const PUBLIC: Self = Self {
        socket: 0o777,
        folder: 0o755,
    };
    /// This user and this group: admin APIs.
    pub const ADMIN: Self = Self {
        socket: 0o770,
        folder: 0o750,
    };
}

/// Why a Unix socket could not be opened. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The path does not fit into a socket address.
    #[error(
        "socket path {} is {} bytes long, and the system allows {}: choose a shorter one",
        path.display(), path.as_os_str().len(), limits::SOCKET_PATH
    )]
    TooLong {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// Another process has the lock of this socket, or answers on it.
    #[error(
        "another process already serves the socket {}: stop it, or configure another socket path",
        path.display()
    )]
    InUse {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A file that is not a socket is at the path. It is left alone.
    #[error("{} exists and is not a socket: remove it, or configure another socket path", path.display())]
    NotASocket {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// Another user made an ancestor of the socket in a folder where every user may make folders, and could put another
    /// socket there.
    #[error(
        "{} belongs to user {owner}, who could replace the socket {}: remove that folder, or configure a \
         socket path outside of world-writable folders",
        folder.display(), path.display()
    )]
    Squatted {
        /// The path that was asked for.
        path: PathBuf,
        /// The ancestor.
        folder: PathBuf,
        /// Its owner's user ID.
        owner: u32,
    },
    /// The system refused a step.
    #[error("cannot open the socket {}: {step} failed; check the permissions of its folder", path.display())]
    Io {
        /// The path that was asked for.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening Unix socket, whose file is removed when it is dropped. [`crate::serve_unix`] watches the file.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    access: Access,
    // Dropped before the listener: while that is open, the kernel does not reuse the inode number, so the file that is
    // removed is this socket's own.
    file: Mutex<SocketFile>,
    listener: watch::Sender<Arc<UnixListener>>,
    reachability: watch::Sender<Reachability>,
}

/// Whether callers reach a socket by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// It is where it was bound.
    Reachable,
    /// Its file was removed or replaced, and could not be recreated, for this reason.
    Unreachable(String),
}

/// The socket's file, and its lock file. The lock file is never deleted: a second daemon could hold a lock on the
/// deleted file while a third locks a new one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: Inode,
    lock: Flock<File>,
}

/// Device and inode number: unique as long as the file is open.
type Inode = (u64, u64);

impl SocketFile {
    fn is_ours(&self) -> bool {
        inode(&self.path).is_ok_and(|found| found == self.inode)
    }

    /// Whether the lock file is still where other daemons look for it.
    fn is_locked(&self) -> bool {
        let held = self.lock.metadata().map(|m| (m.dev(), m.ino()));
        let found = inode(&lock_path(&self.path));
        matches!((held, found), (Ok(held), Ok(found)) if held == found)
    }
}

fn inode(path: &Path) -> io::Result<Inode> {
    std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "Socket not removed");
        }
    }
}

impl Socket {
    /// Opens a listening socket at `path`. Makes its folder if that is missing, and replaces a stale socket, on which
    /// no process listens. A lock on `<path>.lock` keeps a second daemon from the socket until this is dropped.
    ///
    /// # Errors
    /// [`BindError`]. Files of other processes are left alone.
    pub async fn bind(path: &Path, access: Access) -> Result<Self, BindError> {
        if path.as_os_str().len() > limits::SOCKET_PATH {
            return Err(BindError::TooLong {
                path: path.to_owned(),
            });
        }
        make_folder(path, access.folder).map_err(io_error(path, "making its folder"))?;
        check_ancestors(path)?;
        let lock = take_lock(path)?;
        let (listener, inode) = open(path, access).await?;
        Ok(Self {
            path: path.to_owned(),
            access,
            file: Mutex::new(SocketFile {
                path: path.to_owned(),
                inode,
                lock,
            }),
            listener: watch::Sender::new(Arc::new(listener)),
            reachability: watch::Sender::new(Reachability::Reachable),
        })
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A watch on whether callers reach it. Closes when the socket is dropped.
    #[must_use]
    pub fn reachability(&self) -> watch::Receiver<Reachability> {
        self.reachability.subscribe()
    }

    /// Accepts the next caller.
    ///
    /// # Errors
    /// The error of `accept(2)`.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        let mut listeners = self.listener.subscribe();
        loop {
            let listener = Arc::clone(&listeners.borrow_and_update());
            tokio::select! {
                accepted = listener.accept() => return accepted.map(|(stream, _)| stream),
                _ = listeners.changed() => {}
            }
        }
    }

    /// Never returns. Recreates the socket's file if it was removed, and replaces a file that another process put
    /// there, unless that process listens on it: then this socket is unreachable, which is logged (decision 0027).
    pub(crate) async fn watch_file(&self) {
        let mut looks = tokio::time::interval(limits::SOCKET_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if self.lock().is_ours() {
                self.set_reachability(Reachability::Reachable);
                continue;
            }
            match self.open_again().await {
                Ok(()) => {
                    tracing::warn!(
                        path = %self.path.display(),
                        "The socket's file was removed or replaced, and has been made again"
                    );
                    self.set_reachability(Reachability::Reachable);
                }
                Err(error) => {
                    self.set_reachability(Reachability::Unreachable(Chain(&error).to_string()));
                }
            }
        }
    }

    async fn open_again(&self) -> Result<(), BindError> {
        let path = self.path.as_path();
        make_folder(path, self.access.folder).map_err(io_error(path, "making its folder"))?;
        check_ancestors(path)?;
        // If the lock file was removed with the folder, another daemon could have locked a new one.
        let lock = if self.lock().is_locked() {
            None
        } else {
            Some(take_lock(path)?)
        };
        let (listener, inode) = open(path, self.access).await?;
        let mut file = self.lock();
        file.inode = inode;
        if let Some(lock) = lock {
            file.lock = lock;
        }
        drop(file);
        // Callers in the old listener's backlog are disconnected and have to reconnect.
        self.listener.send_replace(Arc::new(listener));
        Ok(())
    }

    fn set_reachability(&self, now: Reachability) {
        self.reachability.send_if_modified(|reachability| {
            if *reachability == now {
                return false;
            }
            if let Reachability::Unreachable(reason) = &now {
                tracing::error!(path = %self.path.display(), reason, "Callers can't reach the socket");
            }
            *reachability = now;
            true
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SocketFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener at `path`, provided that no other process listens there, and the inode of its file.
async fn open(path: &Path, access: Access) -> Result<(UnixListener, Inode), BindError> {
    clear(path).await?;
    let listener = listen(path, access.socket).map_err(io_error(path, "binding"))?;
    let inode = inode(path).map_err(io_error(path, "looking at it"))?;
    Ok((listener, inode))
}

fn io_error(path: &Path, step: &'static str) -> impl FnOnce(io::Error) -> BindError {
    move |source| BindError::Io {
        path: path.to_owned(),
        step,
        source,
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    let Some(folder) = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty() && !p.exists())
    else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)?;
    // `mkdir` applied the umask.
    std::fs::set_permissions(folder, Permissions::from_mode(mode))
}

/// Refuses a path with an ancestor that another user could have made before this daemon, as any user can in `/tmp`.
fn check_ancestors(path: &Path) -> Result<(), BindError> {
    let look = io_error(path, "looking at its folders");
    let absolute = std::path::absolute(path).map_err(look)?;
    let mut folders: Vec<&Path> = absolute.ancestors().skip(1).collect();
    folders.reverse();
    let steps = folders
        .iter()
        .map(|folder| std::fs::symlink_metadata(folder).map(|m| (m.mode(), m.uid())))
        .collect::<io::Result<Vec<_>>>()
        .map_err(io_error(path, "looking at its folders"))?;
    let Some((number, owner)) = squatter(&steps, nix::unistd::geteuid().as_raw()) else {
        return Ok(());
    };
    Err(BindError::Squatted {
        path: path.to_owned(),
        folder: folders
            .get(number)
            .map_or_else(PathBuf::new, |f| f.to_path_buf()),
        owner,
    })
}

/// The first of these folders, given by mode and owner from the root on, that a user other than root and `me` made in a
/// folder where every user may make folders.
fn squatter(steps: &[(u32, u32)], me: u32) -> Option<(usize, u32)> {
    const WORLD_WRITABLE_AND_STICKY: u32 = 0o1002;
    let pairs = steps.iter().zip(steps.iter().skip(1)).enumerate();
    pairs
        .filter(|(_, ((mode, _), _))| mode & WORLD_WRITABLE_AND_STICKY == WORLD_WRITABLE_AND_STICKY)
        .map(|(number, (_, (_, owner)))| (number + 1, *owner))
        .find(|(_, owner)| *owner != 0 && *owner != me)
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    name.into()
}

fn take_lock(path: &Path) -> Result<Flock<File>, BindError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(lock_path(path))
        .map_err(io_error(path, "opening the lock file beside it"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => BindError::InUse {
            path: path.to_owned(),
        },
        errno => io_error(path, "locking the lock file beside it")(errno.into()),
    })
}

/// Timeout of the probe for a live listener. The kernel connects at once unless the listener's backlog is full.
const ANSWER: Duration = Duration::from_secs(2);

/// Removes a stale socket at `path`: one on which no process listens.
async fn clear(path: &Path) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(path, "looking at what is there")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io_error(path, "removing the stale socket there"))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full backlog (EAGAIN), or no permission: a process may be listening.
        Ok(Ok(_) | Err(_)) | Err(_) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
    }
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // On Linux the mode of the unbound socket limits the mode that bind gives the file, so the file is never more
    // permissive than requested. Elsewhere fchmod may fail, and until chmod below only the folder's mode protects it.
    let narrow = nix::sys::stat::fchmod(
        &socket,
        nix::sys::stat::Mode::from_bits_truncate(mode_bits(mode)),
    );
    if cfg!(target_os = "linux") {
        narrow?;
    }
    socket.bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(limits::BACKLOG)
}

#[expect(
    clippy::allow_attributes,
    reason = "the cast is one only where mode_t is narrower than 32 bits"
)]
fn mode_bits(mode: u32) -> nix::sys::stat::mode_t {
    #[allow(
        clippy::useless_conversion,
        reason = "mode_t is u32 on Linux, u16 on others"
    )]
    nix::sys::stat::mode_t::try_from(mode & 0o777).unwrap_or(0)
}

/// The caller's credentials at the time it connected, as the kernel reports them.
///
/// # Errors
/// The kernel does not report them; do not serve such a caller.
pub fn caller(stream: &UnixStream) -> io::Result<UnixCaller> {
    let credentials = stream.peer_cred()?;
    // 0 stands for a process that is not visible in this PID namespace.
    let pid = credentials.pid().filter(|pid| *pid > 0);
    Ok(UnixCaller {
        pid,
        uid: credentials.uid(),
        gid: credentials.gid(),
        process: pid.and_then(|pid| process(stream, pid)).map(Arc::new),
    })
}

#[cfg(target_os = "linux")]
fn process(stream: &UnixStream, pid: i32) -> Option<PeerProcess> {
    use nix::errno::Errno;
    use nix::sys::socket::{getsockopt, sockopt};
    match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(pidfd) => PeerProcess::held(pid, pidfd).ok(),
        // A kernel before 6.5 without SO_PEERPIDFD. Any other error means that the process has exited.
        Err(Errno::ENOPROTOOPT) => PeerProcess::numbered(pid).ok(),
        Err(_) => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn process(_: &UnixStream, _: i32) -> Option<PeerProcess> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ancestor_made_by_another_user_in_tmp_is_found() {
        let (root, tmp) = ((0o755, 0), (0o1777, 0));
        let made_by = |uid| (0o755, uid);
        assert_eq!(squatter(&[root, tmp, made_by(7)], 7), None, "ours");
        assert_eq!(squatter(&[root, tmp, made_by(0)], 7), None, "root's");
        assert_eq!(
            squatter(&[root, tmp, made_by(8), made_by(7)], 7),
            Some((2, 8))
        );
        assert_eq!(squatter(&[root, tmp, made_by(8)], 0), Some((2, 8)));
        assert_eq!(
            squatter(&[root, made_by(8), made_by(8)], 0),
            None,
            "given by root"
        );
    }
}
