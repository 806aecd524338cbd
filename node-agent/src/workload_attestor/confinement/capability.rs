//! Capabilities by their numbers in `linux/capability.h`.

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capability(usize);

/// The names by number, as in capabilities(7).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

impl Capability {
    pub(super) const CHOWN: Self = Self(0);
    pub(super) const DAC_OVERRIDE: Self = Self(1);
    const DAC_READ_SEARCH: Self = Self(2);
    pub(super) const FOWNER: Self = Self(3);
    pub(super) const SETUID: Self = Self(7);
    const SYS_MODULE: Self = Self(16);
    const SYS_RAWIO: Self = Self(17);
    const SYS_PTRACE: Self = Self(19);
    const SYS_ADMIN: Self = Self(21);

    /// The capabilities from which a process can gain all others: by mounting, by opening files outside its mounts, by
    /// controlling other processes, or by changing the kernel.
    pub(super) const ESCAPES: [Self; 5] = [
        Self::DAC_READ_SEARCH,
        Self::SYS_ADMIN,
        Self::SYS_MODULE,
        Self::SYS_PTRACE,
        Self::SYS_RAWIO,
    ];

    /// The capabilities with a name here; a newer kernel may have more.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..NAMES.len()).map(Self)
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.get(self.0).copied().unwrap_or_default()
    }

    /// Whether it is in this set (bit mask as in `/proc/<pid>/status`).
    pub(super) const fn is_in(self, set: u64) -> bool {
        set >> self.0 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_names() {
        for (capability, name) in [
            (Capability::CHOWN, "CAP_CHOWN"),
            (Capability::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
            (Capability::FOWNER, "CAP_FOWNER"),
            (Capability::SETUID, "CAP_SETUID"),
            (Capability::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
            (Capability::SYS_MODULE, "CAP_SYS_MODULE"),
            (Capability::SYS_RAWIO, "CAP_SYS_RAWIO"),
            (Capability::SYS_PTRACE, "CAP_SYS_PTRACE"),
            (Capability::SYS_ADMIN, "CAP_SYS_ADMIN"),
        ] {
            assert_eq!(capability.name(), name);
        }
        assert_eq!(
            Capability::all().last().unwrap().name(),
            "CAP_CHECKPOINT_RESTORE"
        );
        assert!(Capability::SYS_ADMIN.is_in(1 << 21) && !Capability::SYS_ADMIN.is_in(!(1 << 21)));
    }
}
