//! Bounds on what callers may take up, so that no caller keeps the others out.
//!
//! | module | bounds | over the bound |
//! |---|---|---|
//! | [`gcra`] | how often something happens | refuses, or says how long to wait |
//! | [`keyed_buckets`] | how often something happens, per key; remembers a bounded number of keys | the same |
//! | [`keyed_counter`] | how many things a key has at once | refuses |
//! | `keyed_semaphore` (feature `tokio`) | how many things a key does at once | waits in order, or refuses |
//!
//! Nothing here reads a clock: the time is an argument. What happens beyond a bound, and what is logged about it, is up to
//! the caller.

pub mod gcra;
pub mod keyed_buckets;
pub mod keyed_counter;
#[cfg(feature = "tokio")]
pub mod keyed_semaphore;

pub use keyed_buckets::KeyedBuckets;
pub use keyed_counter::{KeyedCounter, Lease};
#[cfg(feature = "tokio")]
pub use keyed_semaphore::{KeyedSemaphore, Permit};

/// Locks, also after a panic elsewhere: no operation here leaves a map half changed.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
