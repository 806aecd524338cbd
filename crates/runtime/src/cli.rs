//! What the command lines of the daemons share.
