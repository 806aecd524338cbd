//! Small files that the kernel writes, such as those of a cgroup.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::limits;

/// The whole file; `None` if it can't be read, or is larger than [`limits::CGROUP_FILE_BYTES`].
pub(super) fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    let mut bounded = file.take(limits::CGROUP_FILE_BYTES + 1);
    bounded.read_to_string(&mut text).ok()?;
    let length = u64::try_from(text.len()).ok()?;
    (length <= limits::CGROUP_FILE_BYTES).then_some(text)
}
