//! Between wire messages and domain types: one module per domain type.
