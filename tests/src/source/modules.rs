//! A crate's modules as a tree: where a path leads, who knows whom, and which siblings form a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Facts, Reference};

/// A module's path from the root of its crate.
pub type ModulePath = Vec<String>;

/// How many re-exports are followed from one path.
const MAX_HOPS: usize = 16;

/// The modules of one crate.
#[derive(Debug, Default)]
pub struct Modules {
    all: BTreeSet<ModulePath>,
    imports: BTreeMap<ModulePath, BTreeMap<String, Vec<String>>>,
}

/// Siblings each of which reaches all others through what they name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Circle {
    /// The module that they stand in.
    pub parent: ModulePath,
    /// Their names, sorted.
    pub members: Vec<String>,
}

impl Modules {
    /// The tree of the files of one crate.
    pub fn of<'a>(files: impl Iterator<Item = &'a Facts>) -> Self {
        let mut modules = Self::default();
        modules.all.insert(Vec::new());
        for facts in files {
            modules.all.extend(facts.modules.iter().cloned());
            for import in &facts.imports {
                let names = modules.imports.entry(import.module.clone()).or_default();
                names.insert(import.name.clone(), import.path.clone());
            }
        }
        modules
    }

    /// The module of this crate that a path in the module `from` leads to. A re-export is followed where `from` stands
    /// inside the module that has it; elsewhere the module that re-exports is the one that is known.
    #[must_use]
    pub fn resolve(&self, from: &[String], path: &[String]) -> Option<ModulePath> {
        self.follow(from, from, path, MAX_HOPS)
    }

    fn follow(
        &self,
        origin: &[String],
        from: &[String],
        path: &[String],
        hops: usize,
    ) -> Option<ModulePath> {
        let hops = hops.checked_sub(1)?;
        let (first, rest) = path.split_first()?;
        let (mut at, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), rest),
            "self" => (from.to_vec(), rest),
            "super" => (parent(from), rest),
            name if self.names(from, name) => (from.to_vec(), path),
            _ => return None,
        };
        while let Some((name, after)) = rest.split_first() {
            match name.as_str() {
                "super" => {
                    at.pop();
                }
                "self" => {}
                name => {
                    at.push(name.to_owned());
                    if !self.all.contains(&at) {
                        at.pop();
                        if !origin.starts_with(&at) {
                            return Some(at);
                        }
                        let import = self.imports.get(&at).and_then(|names| names.get(name));
                        let Some(import) = import else {
                            return Some(at);
                        };
                        let path: Vec<_> = import.iter().chain(after).cloned().collect();
                        return self.follow(origin, &at, &path, hops).or(Some(at));
                    }
                }
            }
            rest = after;
        }
        Some(at)
    }

    fn names(&self, module: &[String], name: &str) -> bool {
        let child: Vec<_> = module.iter().map(String::as_str).chain([name]).collect();
        let imported = self
            .imports
            .get(module)
            .is_some_and(|n| n.contains_key(name));
        imported || self.all.iter().any(|known| *known == child)
    }

    /// Which child of `parent` knows which other one: the names of both, for a path in the first that leads to the
    /// second.
    #[must_use]
    pub fn siblings(&self, parent: &[String], reference: &Reference) -> Option<(String, String)> {
        let from = reference.module.strip_prefix(parent)?.first()?;
        let to = self.resolve(&reference.module, &reference.path)?;
        let to = to.strip_prefix(parent)?.first()?;
        (from != to).then(|| (from.clone(), to.clone()))
    }

    /// All circles, at the top level and below.
    #[must_use]
    pub fn circles(&self, references: &[&Reference]) -> Vec<Circle> {
        let inner = self.all.iter().filter(|module| !module.is_empty());
        let parents: BTreeSet<_> = inner.map(|module| parent(module)).collect();
        let circles = parents.into_iter().flat_map(|parent| {
            let groups = groups(&self.edges(&parent, references));
            groups.into_iter().map(move |members| Circle {
                parent: parent.clone(),
                members,
            })
        });
        circles.collect()
    }

    /// The modules of the top level in rows, so that each knows modules of later rows only; those of a circle share a row.
    #[must_use]
    pub fn layers(&self, references: &[&Reference]) -> Vec<Vec<String>> {
        let edges = self.edges(&[], references);
        let groups = groups(&edges);
        let together =
            |a: &String, b: &String| groups.iter().any(|g| g.contains(a) && g.contains(b));
        let top = self.all.iter().filter(|module| module.len() == 1).flatten();
        let mut heights: BTreeMap<&String, usize> = top.map(|name| (name, 0)).collect();
        for _ in 0..heights.len() {
            for (from, to) in &edges {
                let below = heights.get(to).copied().unwrap_or_default();
                let least = below + usize::from(!together(from, to));
                if let Some(height) = heights.get_mut(from) {
                    *height = least.max(*height);
                }
            }
        }
        let highest = heights.values().copied().max().unwrap_or_default();
        let row = |height| {
            let at_height = heights.iter().filter(|(_, at)| **at == height);
            at_height.map(|(name, _)| (*name).clone()).collect()
        };
        (0..=highest).rev().map(row).collect()
    }

    fn edges(&self, parent: &[String], references: &[&Reference]) -> BTreeSet<(String, String)> {
        references
            .iter()
            .filter_map(|reference| self.siblings(parent, reference))
            .collect()
    }
}

fn parent(module: &[String]) -> ModulePath {
    module
        .split_last()
        .map_or_else(Vec::new, |(_, parent)| parent.to_vec())
}

/// The strongly connected groups of two and more.
fn groups(edges: &BTreeSet<(String, String)>) -> Vec<Vec<String>> {
    let nodes: BTreeSet<&str> = edges.iter().map(|(from, _)| from.as_str()).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> = nodes
        .iter()
        .map(|node| (*node, reachable(node, edges)))
        .collect();
    let mutual = |a: &str, b: &str| {
        let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|r| r.contains(to));
        reaches(a, b) && reaches(b, a)
    };
    let groups: BTreeSet<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let members = nodes.iter().filter(|other| mutual(node, other));
            members.map(|name| (*name).to_owned()).collect()
        })
        .collect();
    groups
        .into_iter()
        .filter(|members: &Vec<String>| members.len() > 1)
        .collect()
}

fn reachable<'a>(start: &str, edges: &'a BTreeSet<(String, String)>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        for (_, to) in edges.iter().filter(|(from, _)| from == node) {
            if reached.insert(to.as_str()) {
                open.push(to);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(files: &[(&[&str], &str)]) -> (Modules, Vec<Facts>) {
        let path = |module: &[&str]| module.iter().map(ToString::to_string).collect::<Vec<_>>();
        let facts: Vec<_> = files
            .iter()
            .map(|(module, text)| Facts::gather(text, &path(module), false).unwrap())
            .collect();
        (Modules::of(facts.iter()), facts)
    }

    fn circles(files: &[(&[&str], &str)]) -> Vec<Vec<String>> {
        let (modules, facts) = crate_of(files);
        let references = facts.iter().flat_map(|f| &f.references).filter(|r| !r.test);
        let circles = modules.circles(&references.collect::<Vec<_>>());
        circles.into_iter().map(|circle| circle.members).collect()
    }

    #[test]
    fn two_modules_that_name_each_other_are_a_circle() {
        let found = circles(&[
            (&[], "mod a; mod b; mod c;"),
            (&["a"], "use crate::b::B; pub struct A;"),
            (&["b"], "pub struct B(super::a::A);"),
            (&["c"], "use crate::{a::A, b::B};"),
        ]);
        assert_eq!(found, [["a", "b"]]);
    }

    #[test]
    fn a_module_stands_above_what_it_knows() {
        let (modules, facts) = crate_of(&[
            (&[], "mod a; mod b; mod c; mod d;"),
            (&["a"], "use crate::b::B;"),
            (&["b"], "use crate::c::C;"),
            (&["c"], "use crate::b::B; use crate::d::D;"),
        ]);
        let references: Vec<_> = facts.iter().flat_map(|f| &f.references).collect();
        let layers = modules.layers(&references);
        assert_eq!(layers, [vec!["a"], vec!["b", "c"], vec!["d"]]);
    }

    #[test]
    fn a_re_export_leads_to_its_home() {
        let found = circles(&[
            (&[], "mod a; mod b; pub use a::A; pub use b::B;"),
            (&["a"], "use crate::B; pub struct A;"),
            (&["b"], "fn f() { drop(crate::A) } pub struct B;"),
        ]);
        assert_eq!(found, [["a", "b"]]);
    }

    #[test]
    fn a_macro_and_a_signature_know_what_they_name() {
        let found = circles(&[
            (&[], "mod a; mod b;"),
            (&["a"], "fn f() { println!(\"{}\", crate::b::x()); }"),
            (&["b"], "fn g(_: &crate::a::A) {}"),
        ]);
        assert_eq!(found, [["a", "b"]]);
    }

    #[test]
    fn tests_and_parents_make_no_circle() {
        let found = circles(&[
            (&[], "mod a; mod b; use a::A;"),
            (&["a"], "use crate::b::B; mod inner { use super::B; }"),
            (&["b"], "#[cfg(test)] mod tests { use crate::a::A; }"),
        ]);
        assert_eq!(found, Vec::<Vec<String>>::new());
    }
}
