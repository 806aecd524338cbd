//! The server inside of another process: what the tests, fuzz targets and demo of this repository start and read.
//!
//! Nothing else of this crate is public but its command line. None of it is a stable interface.

pub use crate::config::{Overrides, ServerConfig};
pub use crate::daemon::{Bound, ServeError, StartError, build};
pub use crate::metrics::ALL as METRICS;
