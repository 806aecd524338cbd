//! Who may know whom: one row for each crate. A crate may name the crates in its row. A module of its top level may name
//! modules in later lines of its layers, and nothing else. Code of tests is free.
//!
//! A path counts where it leads: a name that the crate's root re-exports belongs to the module that it comes from.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of the tests fail as tests do"
)]

use std::sync::LazyLock;

use countersign_tests::source::{Crate, SourceFile, Workspace};

/// What a crate may know, and how its modules stand above each other.
struct Wall {
    name: &'static str,
    /// The crates that it may name; it may depend on no others either.
    knows: &'static [&'static str],
    /// Its top-level modules, the highest first.
    layers: &'static [&'static str],
}

const WALLS: &[Wall] = &[
    Wall {
        name: "countersign",
        knows: &[
            "countersign-identity",
            "countersign-mesh",
            "countersign-transport",
        ],
        layers: &[
            "test",
            "inbound outbound",
            "exchange",
            "builder context",
            "mesh",
            "policy source",
            "event",
            "error",
            "limits rpc_status svid",
        ],
    },
    Wall {
        name: "countersign-agent",
        knows: &[
            "countersign-config",
            "countersign-daemon",
            "countersign-identity",
            "countersign-limits",
            "countersign-proto",
            "countersign-transport",
        ],
        layers: &[
            "cli",
            "daemon fuzzing",
            "api",
            "config jwt",
            "sync",
            "node",
            "node_attestor",
            "client signatures storage workload_attestor workload_client",
            "entry limits metrics pem rotation skew svid",
        ],
    },
    Wall {
        name: "countersign-ca",
        knows: &[
            "countersign-daemon",
            "countersign-identity",
            "countersign-proto",
            "countersign-store",
            "countersign-transport",
        ],
        layers: &["authority", "upstream", "keymanager limits metrics"],
    },
    Wall {
        name: "countersign-config",
        knows: &[],
        layers: &[
            "operator_endpoints",
            "document",
            "section",
            "check parse",
            "agent entries findings scan server tree",
            "duration error expand key suggest",
        ],
    },
    Wall {
        name: "countersign-daemon",
        knows: &["countersign-config", "countersign-transport"],
        layers: &[
            "config",
            "cli operator_endpoints",
            "logs recorder",
            "otlp",
            "metrics",
            "address_file health signals systemd trace",
        ],
    },
    Wall {
        name: "countersign-demo",
        knows: &[
            "countersign",
            "countersign-agent",
            "countersign-attacker",
            "countersign-daemon",
            "countersign-identity",
            "countersign-mesh",
            "countersign-server",
            "countersign-transport",
        ],
        layers: &[
            "show",
            "scenes",
            "render",
            "checks workload workloads",
            "cluster protocol",
            "script",
        ],
    },
    Wall {
        name: "countersign-identity",
        knows: &[],
        layers: &[
            "issued_ca tls",
            "certificate issue svid",
            "csr jwt verify",
            "bundle entry federation node public_key signed_svid",
            "key selector spiffe_id subject time",
        ],
    },
    Wall {
        name: "countersign-limits",
        knows: &[],
        layers: &["keyed_buckets", "gcra keyed_counter keyed_semaphore"],
    },
    Wall {
        name: "countersign-mesh",
        knows: &["countersign-identity", "countersign-limits"],
        layers: &[
            "decide outbound",
            "check context",
            "policy verify",
            "limits refusal",
            "chain",
        ],
    },
    Wall {
        name: "countersign-proto",
        knows: &["countersign-identity"],
        layers: &["convert secret", "envoy google grpc spiffe spire store"],
    },
    Wall {
        name: "countersign-server",
        knows: &[
            "countersign-ca",
            "countersign-config",
            "countersign-daemon",
            "countersign-identity",
            "countersign-limits",
            "countersign-proto",
            "countersign-server-cli",
            "countersign-store",
            "countersign-transport",
        ],
        layers: &[
            "cli embed",
            "daemon",
            "api",
            "config",
            "jobs",
            "federation node_attestor",
            "index",
            "limits metrics",
        ],
    },
    Wall {
        name: "countersign-server-cli",
        knows: &[
            "countersign-config",
            "countersign-daemon",
            "countersign-identity",
            "countersign-proto",
            "countersign-transport",
        ],
        layers: &[
            "agent authority bundle debug entry federation health logger mint token upstream_authority",
            "batch client page",
            "error",
            "relationship",
            "bundle_data",
            "flag input json pem",
        ],
    },
    Wall {
        name: "countersign-store",
        knows: &[
            "countersign-identity",
            "countersign-proto",
            "countersign-transport",
        ],
        layers: &[
            "federation node token",
            "entry",
            "bundle txn",
            "pending record",
            "backend",
            "limits metrics",
        ],
    },
    Wall {
        name: "countersign-transport",
        knows: &["countersign-identity", "countersign-limits"],
        layers: &[
            "serve",
            "accept",
            "dial tls",
            "io unix",
            "connection",
            "process task",
            "backoff clock drain error file grpc limits log_limiter open_files presented",
        ],
    },
];

/// Circles of modules that are still there, by crate and parent. Only ever shorten this list.
const CIRCLES: &[(&str, &str)] = &[];

static WORKSPACE: LazyLock<Workspace> = LazyLock::new(|| Workspace::of_this_crate().unwrap());

/// Every crate outside of `tests/`, with its row.
fn walls() -> impl Iterator<Item = (&'static Crate, &'static Wall)> {
    let crates = WORKSPACE.crates.iter();
    crates
        .filter(|known| !known.folder.starts_with("tests"))
        .map(|known| {
            let wall = WALLS.iter().find(|wall| wall.name == known.name);
            (
                known,
                wall.unwrap_or_else(|| panic!("{} has no row", known.name)),
            )
        })
}

/// Fails with everything that was found.
#[track_caller]
fn hold(crossed: &[String]) {
    assert!(
        crossed.is_empty(),
        "walls are crossed:\n{}",
        crossed.join("\n")
    );
}

#[test]
fn every_row_is_that_of_a_crate() {
    for wall in WALLS {
        let known = WORKSPACE.crates.iter().any(|known| known.name == wall.name);
        assert!(known, "there is no crate {}", wall.name);
    }
}

#[test]
fn a_crate_names_only_crates_of_its_row() {
    let mut crossed = Vec::new();
    for (known, wall) in walls() {
        let allowed = |name: &str| name == known.name || wall.knows.contains(&name);
        let dependencies = known.dependencies.iter().filter(|name| !allowed(name));
        crossed.extend(
            dependencies.map(|name| format!("{}/Cargo.toml: {name}", known.folder.display())),
        );
        each_reference(known, |file, line, path| {
            let first = path
                .first()
                .map(|first| first.replace('_', "-"))
                .unwrap_or_default();
            let is_crate = WORKSPACE.crates.iter().any(|other| other.name == first);
            if is_crate && !allowed(&first) {
                crossed.push(format!(
                    "{}:{line}: {}",
                    file.path.display(),
                    path.join("::")
                ));
            }
        });
    }
    hold(&crossed);
}

/// Calls `take` with each path in production code.
fn each_reference(known: &Crate, mut take: impl FnMut(&SourceFile, usize, &[String])) {
    for file in &known.files {
        for reference in file
            .facts
            .references
            .iter()
            .filter(|reference| !reference.test)
        {
            take(file, reference.line, &reference.path);
        }
    }
}

#[test]
fn a_module_names_only_modules_of_lower_layers() {
    let mut crossed = Vec::new();
    for (known, wall) in walls() {
        let modules = known.modules();
        let height = |name: &str| {
            let mut layers = wall.layers.iter();
            layers.position(|layer| layer.split(' ').any(|module| module == name))
        };
        let is_circle = |a: &str, b: &str| {
            let in_one = |members: &str| [a, b].iter().all(|n| members.split(' ').any(|m| m == *n));
            CIRCLES
                .iter()
                .any(|(parent, members)| *parent == known.ident() && in_one(members))
        };
        let before = crossed.len();
        for file in known.main_files() {
            for reference in file
                .facts
                .references
                .iter()
                .filter(|reference| !reference.test)
            {
                let Some((from, to)) = modules.siblings(&[], reference) else {
                    continue;
                };
                let allowed = match (height(&from), height(&to)) {
                    (Some(from), Some(to)) if from < to => true,
                    (Some(_), Some(_)) => is_circle(&from, &to),
                    _ => false,
                };
                if !allowed {
                    let (path, line) = (file.path.display(), reference.line);
                    crossed.push(format!("{path}:{line}: {from} may not know {to}"));
                }
            }
        }
        if crossed.len() > before {
            let layers = modules.layers(&known.references());
            let layers: Vec<_> = layers
                .iter()
                .map(|row| format!("    {:?},", row.join(" ")))
                .collect();
            crossed.push(format!(
                "the layers of {} as they are:\n{}",
                known.name,
                layers.join("\n")
            ));
        }
    }
    hold(&crossed);
}

#[test]
fn modules_form_no_circles() {
    let mut found = Vec::new();
    for known in &WORKSPACE.crates {
        for circle in known.modules().circles(&known.references()) {
            let parent: Vec<_> = std::iter::once(known.ident())
                .chain(circle.parent)
                .collect();
            found.push((parent.join("::"), circle.members.join(" ")));
        }
    }
    let listed = |(parent, members): &&(String, String)| CIRCLES.contains(&(parent, members));
    let new: Vec<_> = found.iter().filter(|circle| !listed(circle)).collect();
    assert!(new.is_empty(), "new circles: {new:#?}");
    let found = |(parent, members): &&(&str, &str)| {
        found.contains(&((*parent).to_owned(), (*members).to_owned()))
    };
    let gone: Vec<_> = CIRCLES.iter().filter(|circle| !found(circle)).collect();
    assert!(
        gone.is_empty(),
        "these are gone and leave the list: {gone:#?}"
    );
}
