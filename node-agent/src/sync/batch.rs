//! How many CSRs go into one signing request (wire contract, D.4).

use crate::limits;

/// Halved after each failure, doubled after each success, between one and [`limits::CSRS_PER_BATCH`].
#[derive(Debug)]
pub(crate) struct BatchSize(usize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(limits::CSRS_PER_BATCH)
    }
}

impl BatchSize {
    /// The size of the next batch, at most.
    #[must_use]
    pub(crate) const fn get(&self) -> usize {
        self.0
    }

    /// The last batch was signed.
    pub(crate) fn succeeded(&mut self) {
        self.0 = (self.0 * 2).min(limits::CSRS_PER_BATCH);
    }

    /// The last batch was refused as a whole, or got no answer.
    pub(crate) fn failed(&mut self) {
        self.0 = (self.0 / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_to_one_and_grow_back() {
        let mut size = BatchSize::default();
        let shrinking: Vec<usize> = (0..10)
            .map(|_| {
                size.failed();
                size.get()
            })
            .collect();
        assert_eq!(shrinking, [250, 125, 62, 31, 15, 7, 3, 1, 1, 1]);
        for _ in 0..9 {
            size.succeeded();
        }
        assert_eq!(size.get(), 500);
    }
}
