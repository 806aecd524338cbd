//! Every bound of this crate by name, and the counters that enforce those of the mesh.
