//! A write that is durable, but that readers may not see yet.

use crate::backend::Seq;

/// The result of a write, held back until readers see the write.
///
/// An API handler opens it with [`Pending::visible_to`] before it answers, so that its caller reads its own write.
/// There is no other way to the value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "readers may not see this write yet: open it with `visible_to` before you answer"]
pub struct Pending<T> {
    value: T,
    seq: Seq,
}

/// A reader in which commits become visible.
pub trait Visibility {
    /// Why a commit can't be waited for.
    type Error;

    /// Waits until everything up to this commit can be read here.
    fn reached(&self, seq: Seq) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl<T> Pending<T> {
    /// The result of this commit.
    pub const fn new(value: T, seq: Seq) -> Self {
        Self { value, seq }
    }

    /// The commit; [`Seq::ZERO`] if nothing was written.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        self.seq
    }

    /// Another result of the same commit.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Pending<U> {
        Pending {
            value: f(self.value),
            seq: self.seq,
        }
    }

    /// Waits until the write is visible, and opens it.
    ///
    /// # Errors
    /// Those of the reader; the write itself is durable.
    pub async fn visible_to<V: Visibility>(self, reader: &V) -> Result<T, V::Error> {
        reader.reached(self.seq).await?;
        Ok(self.value)
    }

    /// The value at once, for a step of a longer write.
    pub(crate) fn unseen(self) -> T {
        self.value
    }
}
