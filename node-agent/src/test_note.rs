//! What tests leave out because this machine can't do it.

use std::fmt::Display;
use std::io::Write as _;

/// Says so in one line, past the capture of test output: who runs the tests shall see it.
pub(crate) fn not_tried(why: impl Display) {
    let _ = writeln!(std::io::stderr(), "not tried: {why}");
}
