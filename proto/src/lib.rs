//! Generated protobuf and gRPC code (SPIFFE, SPIRE, Countersign) and its conversion to domain types.
//!
//! The generated modules follow the packages of the .proto files. [`convert`] turns each message of SPIFFE and SPIRE into
//! the type of `countersign-identity` that proves it sound, whole or not at all, and back; no other crate takes these
//! messages apart. The messages of package `store` are the store's own: `countersign-store` converts them.

pub mod convert;
mod secret;

/// The descriptors of everything here, an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));

/// Declares the module of one generated file. The code is not ours, so our lints don't apply.
macro_rules! generated {
    ($(#[$doc:meta])* $module:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            clippy::all,
            clippy::allow_attributes,
            clippy::allow_attributes_without_reason,
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            clippy::cast_sign_loss,
            clippy::large_futures,
            clippy::needless_pass_by_value,
            clippy::semicolon_if_nothing_returned,
            clippy::struct_excessive_bools,
            clippy::uninlined_format_args,
            clippy::wildcard_imports,
            missing_docs,
            rustdoc::all,
            unreachable_pub,
            reason = "generated code"
        )]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $file));
        }
    };
}

/// SPIRE's APIs.
pub mod spire {
    /// Package `spire.agent`, which is the only one without `api`.
    pub mod agent {
        /// What a node agent knows of itself.
        pub mod debug {
            generated! {
                /// Package `spire.agent.debug.v1`.
                v1, "spire.agent.debug.v1.rs"
            }
        }
    }

    /// Package `spire.api`.
    pub mod api {
        generated! {
            /// Package `spire.api.types`: the messages that the services share.
            types, "spire.api.types.rs"
        }

        /// Package `spire.api.agent`.
        pub mod agent {
            /// Identities of others, for authorised delegates.
            pub mod delegatedidentity {
                generated! {
                    /// Package `spire.api.agent.delegatedidentity.v1`.
                    v1, "spire.api.agent.delegatedidentity.v1.rs"
                }
            }
            /// The node agent's log level.
            pub mod logger {
                generated! {
                    /// Package `spire.api.agent.logger.v1`.
                    v1, "spire.api.agent.logger.v1.rs"
                }
            }
        }

        /// Package `spire.api.server`.
        pub mod server {
            /// Node agents.
            pub mod agent {
                generated! {
                    /// Package `spire.api.server.agent.v1`.
                    v1, "spire.api.server.agent.v1.rs"
                }
            }
            /// Bundles.
            pub mod bundle {
                generated! {
                    /// Package `spire.api.server.bundle.v1`.
                    v1, "spire.api.server.bundle.v1.rs"
                }
            }
            /// What the server knows of itself.
            pub mod debug {
                generated! {
                    /// Package `spire.api.server.debug.v1`.
                    v1, "spire.api.server.debug.v1.rs"
                }
            }
            /// The server's own authorities.
            pub mod localauthority {
                generated! {
                    /// Package `spire.api.server.localauthority.v1`.
                    v1, "spire.api.server.localauthority.v1.rs"
                }
            }
            /// The server's log level.
            pub mod logger {
                generated! {
                    /// Package `spire.api.server.logger.v1`.
                    v1, "spire.api.server.logger.v1.rs"
                }
            }
            /// Relationships with foreign trust domains.
            pub mod trustdomain {
                generated! {
                    /// Package `spire.api.server.trustdomain.v1`.
                    v1, "spire.api.server.trustdomain.v1.rs"
                }
            }
            /// Registration entries.
            pub mod entry {
                generated! {
                    /// Package `spire.api.server.entry.v1`.
                    v1, "spire.api.server.entry.v1.rs"
                }
            }
            /// Signing.
            pub mod svid {
                generated! {
                    /// Package `spire.api.server.svid.v1`.
                    v1, "spire.api.server.svid.v1.rs"
                }
            }
        }
    }
}

/// Envoy's APIs, as far as secret discovery needs them.
pub mod envoy {
    /// Package `envoy.config`.
    pub mod config {
        /// Package `envoy.config.core`.
        pub mod core {
            generated! {
                /// Package `envoy.config.core.v3`.
                v3, "envoy.config.core.v3.rs"
            }
        }
    }
    /// Package `envoy.extensions`.
    pub mod extensions {
        /// Package `envoy.extensions.transport_sockets`.
        pub mod transport_sockets {
            /// Package `envoy.extensions.transport_sockets.tls`.
            pub mod tls {
                generated! {
                    /// Package `envoy.extensions.transport_sockets.tls.v3`.
                    v3, "envoy.extensions.transport_sockets.tls.v3.rs"
                }
            }
        }
    }
    /// Package `envoy.service`.
    pub mod service {
        /// Package `envoy.service.discovery`.
        pub mod discovery {
            generated! {
                /// Package `envoy.service.discovery.v3`.
                v3, "envoy.service.discovery.v3.rs"
            }
        }
        /// Package `envoy.service.secret`.
        pub mod secret {
            generated! {
                /// Package `envoy.service.secret.v3`.
                v3, "envoy.service.secret.v3.rs"
            }
        }
    }
    /// Package `envoy.type`.
    pub mod r#type {
        generated! {
            /// Package `envoy.type.v3`.
            v3, "envoy.r#type.v3.rs"
        }
    }
}

/// Google's APIs.
pub mod google {
    generated! {
        /// Package `google.rpc`.
        rpc, "google.rpc.rs"
    }
}

/// SPIFFE's APIs.
pub mod spiffe {
    generated! {
        /// The Workload API, which has no package.
        workload, "_.rs"
    }
}

/// gRPC's own protocols.
pub mod grpc {
    /// The health protocol.
    pub mod health {
        generated! {
            /// Package `grpc.health.v1`.
            v1, "grpc.health.v1.rs"
        }
    }
}

/// The values in the server's store.
pub mod store {
    generated! {
        /// Package `countersign.store.v1`.
        v1, "countersign.store.v1.rs"
    }
}
