//! Harness, end-to-end tests over real processes, interop, benchmarks and load.
