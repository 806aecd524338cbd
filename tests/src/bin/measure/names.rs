//! What is defined, seen from outside, and never named.

use std::collections::{BTreeMap, BTreeSet};

use countersign_tests::source::facts::{Definition, Kind, Reach};
use countersign_tests::source::{Crate, SourceFile, Target, Workspace};

/// The crate that others build on: what it exports has its callers elsewhere.
const PUBLISHED: &str = "countersign";

/// How often each name stands in production code, and how often it is defined there.
pub(crate) struct Names {
    named: BTreeMap<String, usize>,
    defined: BTreeMap<String, usize>,
    in_tests: BTreeSet<String>,
}

/// Who names something that is `pub` or `pub(crate)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callers {
    Production,
    OnlyTests,
    Nobody,
}

impl Names {
    pub(crate) fn of(workspace: &Workspace) -> Self {
        let mut names = Self {
            named: BTreeMap::new(),
            defined: BTreeMap::new(),
            in_tests: BTreeSet::new(),
        };
        for file in workspace.crates.iter().flat_map(|known| &known.files) {
            for (name, times) in &file.facts.named {
                *names.named.entry(name.clone()).or_default() += times;
            }
            for definition in file.facts.definitions.iter().filter(|d| !d.test) {
                *names.defined.entry(definition.name.clone()).or_default() += 1;
            }
            let only_here = |name: &&String| !file.facts.named.contains_key(*name);
            names
                .in_tests
                .extend(file.facts.mentioned.iter().filter(only_here).cloned());
        }
        names
    }

    /// Who names this definition of this crate.
    pub(crate) fn callers(&self, of: &Crate, definition: &Definition) -> Callers {
        let times = |names: &BTreeMap<String, usize>| names.get(&definition.name).copied();
        let named = times(&self.named).unwrap_or_default();
        let exported = of.name == PUBLISHED && definition.reach == Reach::Public;
        if exported || named > times(&self.defined).unwrap_or_default() {
            Callers::Production
        } else if self.in_tests.contains(&definition.name) {
            Callers::OnlyTests
        } else {
            Callers::Nobody
        }
    }
}

/// Definitions in production code that others see.
pub(crate) fn visible(of: &Crate) -> impl Iterator<Item = (&SourceFile, &Definition)> {
    of.files.iter().flat_map(|file| {
        let items = file.facts.definitions.iter();
        let items =
            items.filter(|d| !d.test && d.reach != Reach::Private && d.kind != Kind::Module);
        items.map(move |definition| (file, definition))
    })
}

/// What a crate exports by the word `pub`: modules, types, functions, methods and constants.
pub(crate) fn public(of: &Crate) -> Vec<&Definition> {
    let library = of
        .files
        .iter()
        .filter(|file| file.target == Target::Library);
    let definitions = library.flat_map(|file| &file.facts.definitions);
    definitions
        .filter(|d| !d.test && d.reach == Reach::Public)
        .collect()
}

/// How many of them no other crate of the workspace names, where the crate's own programs, tests and benchmarks count as
/// others. A method counts as named where its type is named too.
pub(crate) fn unused_elsewhere(workspace: &Workspace, of: &Crate) -> usize {
    let ident = of.ident();
    let mut mentioned: Vec<BTreeSet<&str>> = Vec::new();
    for other in &workspace.crates {
        let mut targets: BTreeMap<(Target, &str), BTreeSet<&str>> = BTreeMap::new();
        for file in &other.files {
            if other.name == of.name && file.target == Target::Library {
                continue;
            }
            let root = match file.target {
                // Each integration test and each program is a crate of its own.
                Target::Tests | Target::Program => file.module.first().map_or("", String::as_str),
                Target::Library | Target::BuildScript => "",
            };
            let names = targets.entry((file.target, root)).or_default();
            names.extend(file.facts.mentioned.iter().map(String::as_str));
        }
        mentioned.extend(
            targets
                .into_values()
                .filter(|names| names.contains(ident.as_str())),
        );
    }
    let named = |definition: &&Definition| {
        mentioned.iter().any(|names| {
            let owner = definition.owner.as_deref();
            names.contains(definition.name.as_str())
                && owner.is_none_or(|owner| names.contains(owner))
        })
    };
    public(of)
        .iter()
        .filter(|definition| !named(definition))
        .count()
}

/// The names that more than one type of the crate has, and where.
pub(crate) fn duplicate_types(of: &Crate) -> BTreeMap<&str, Vec<(&SourceFile, usize)>> {
    let mut types: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for file in &of.files {
        for definition in &file.facts.definitions {
            if definition.kind == Kind::Type && !definition.test {
                let places = types.entry(definition.name.as_str()).or_default();
                places.push((file, definition.line));
            }
        }
    }
    types.retain(|_, places| places.len() > 1);
    types
}

/// How many types it defines.
pub(crate) fn types(of: &Crate) -> usize {
    let definitions = of.files.iter().flat_map(|file| &file.facts.definitions);
    definitions
        .filter(|d| d.kind == Kind::Type && !d.test)
        .count()
}
