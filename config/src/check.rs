//! Checks a tree against the registry: unknown keys, keys that are set twice, keys that have no effect or aren't
//! supported yet, and values where a section is expected.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::error::Position;
use crate::findings::Findings;
use crate::key::{Key, PLUGIN_KEYS, Rule};
use crate::suggest::nearest;
use crate::tree::{Item, Kind, Object, Value};

/// Up to how many findings unknown keys are compared with known ones, so that a file of nothing but unknown keys is checked fast.
const MAX_HINTS: usize = 100;

/// Checks a whole file.
pub(crate) fn check(root: &Object, keys: &'static [Key]) -> Findings {
    let findings = Findings::default();
    Check(&findings).object(root, keys, "");
    findings
}

/// The key of this name. Keys match without regard to case.
pub(crate) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name.eq_ignore_ascii_case(name))
}

/// `server.ratelimit`, as messages name a key.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A walk over the tree.
struct Check<'f>(&'f Findings);

impl Check<'_> {
    fn wrong(&self, at: Position, message: String) {
        self.0.wrong(at, message);
    }

    fn object(&self, object: &Object, keys: &'static [Key], path: &str) {
        let repeats =
            |key: &str| matches!(find(keys, key).map(|key| key.rule), Some(Rule::Sections(_)));
        self.keys_once(object, path, repeats);
        for item in &object.items {
            self.item(item, keys, path);
        }
    }

    fn item(&self, item: &Item, keys: &'static [Key], path: &str) {
        let name = join(path, &item.key);
        let Some(key) = find(keys, &item.key) else {
            self.unknown(item, keys, path, "key");
            return;
        };
        match key.rule {
            Rule::Value => {
                if matches!(item.value.kind, Kind::Object(_)) {
                    self.wrong(
                        item.at,
                        format!("{name} takes a value (`{} = ...`), not a section", key.name),
                    );
                }
            }
            Rule::Section(keys) => {
                if let Some(object) = self.section_of(item, &name) {
                    self.object(object, keys, &name);
                }
            }
            Rule::Sections(keys) => match item.value.objects() {
                Some(objects) => {
                    for object in objects {
                        self.object(object, keys, &name);
                    }
                }
                None => drop(self.section_of(item, &name)),
            },
            Rule::Elements(keys) => self.elements(item, keys, &name),
            Rule::Named(keys) => self.named(item, keys, &name),
            Rule::Plugins(kinds) => self.plugins(item, kinds),
            Rule::Ignored(reason) => self
                .0
                .warn(item.at, format!("{name} has no effect: {reason}")),
            // An empty value asks for nothing.
            Rule::NotYet if is_empty(&item.value) => {}
            Rule::NotYet => {
                self.wrong(item.at, format!("{name} is not supported yet: remove it"));
            }
            Rule::Refused(reason) => self.wrong(item.at, format!("{name}: {reason}")),
        }
    }

    /// Sections under names of the user's, which match with regard to case.
    fn named(&self, item: &Item, keys: &'static [Key], name: &str) {
        let Some(objects) = item.value.objects() else {
            self.section_of(item, name);
            return;
        };
        let mut seen = HashMap::new();
        for inner in objects.iter().flat_map(|object| &object.items) {
            let path = format!("{name} {}", shown(&inner.key));
            self.once(&mut seen, &inner.key, inner, &path);
            if let Some(object) = self.section_of(inner, &path) {
                self.object(object, keys, &path);
            }
        }
    }

    fn section_of<'a>(&self, item: &'a Item, name: &str) -> Option<&'a Object> {
        let object = item.value.object();
        if object.is_none() {
            let found = item.value.kind.noun();
            self.wrong(
                item.value.at,
                format!(
                    "{name} is a section (`{} {{ ... }}`), not {found}",
                    item.key
                ),
            );
        }
        object
    }

    fn unknown(&self, item: &Item, keys: &'static [Key], path: &str, noun: &str) {
        let place = if path.is_empty() {
            String::new()
        } else {
            format!(" in {path}")
        };
        let names = keys.iter().map(|key| key.name);
        let near = (self.0.faults() < MAX_HINTS).then(|| nearest(&item.key, names));
        let hint = match near.flatten() {
            Some(near) => format!("; did you mean \"{near}\"?"),
            None => String::new(),
        };
        self.wrong(
            item.at,
            format!("unknown {noun} {}{place}{hint}", shown(&item.key)),
        );
    }

    /// A list of texts, or of sections; one of either counts as a list of one.
    fn elements(&self, item: &Item, keys: &'static [Key], name: &str) {
        let values = match &item.value.kind {
            Kind::List(values) => values.as_slice(),
            _ => std::slice::from_ref(&item.value),
        };
        for value in values {
            match &value.kind {
                Kind::Object(object) => self.object(object, keys, name),
                Kind::String(_) => {}
                kind => self.wrong(
                    value.at,
                    format!("{name}: must be a list of strings, not {}", kind.noun()),
                ),
            }
        }
    }

    /// Each key may be set once in its section, in whatever case, except those that may repeat.
    fn keys_once(&self, object: &Object, path: &str, repeats: impl Fn(&str) -> bool) {
        let mut seen = HashMap::new();
        for item in object.items.iter().filter(|item| !repeats(&item.key)) {
            let name = join(path, &item.key);
            self.once(&mut seen, item.key.to_ascii_lowercase(), item, &name);
        }
    }

    fn once<K: Eq + Hash>(&self, seen: &mut HashMap<K, Position>, key: K, item: &Item, name: &str) {
        match seen.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(item.at);
            }
            Entry::Occupied(first) => {
                let line = first.get().line;
                let message = format!("{name} is defined twice, first on line {line}");
                self.wrong(item.at, message);
            }
        }
    }

    /// `Kind "name" { plugin_data { } }`, where the registry holds kinds, in them names, in them the data's keys.
    fn plugins(&self, item: &Item, kinds: &'static [Key]) {
        let Some(objects) = item.value.objects() else {
            self.section_of(item, "plugins");
            return;
        };
        for kind in objects.iter().flat_map(|object| &object.items) {
            match find(kinds, &kind.key).map(|key| key.rule) {
                None => self.unknown(kind, kinds, "plugins", "kind of plugin"),
                Some(Rule::Section(names)) => self.plugins_of_kind(kind, names),
                Some(_) => self.kind_not_yet(kind),
            }
        }
    }

    fn plugins_of_kind(&self, kind: &Item, names: &'static [Key]) {
        let Some(objects) = kind.value.objects() else {
            self.wrong(
                kind.at,
                format!(
                    "a plugin is written `{} \"name\" {{ plugin_data {{ }} }}`",
                    kind.key
                ),
            );
            return;
        };
        let mut seen = HashMap::new();
        for plugin in objects.iter().flat_map(|object| &object.items) {
            let name = format!("{} \"{}\"", kind.key, plugin.key);
            self.once(&mut seen, &plugin.key, plugin, &name);
            self.plugin(plugin, names, &kind.key, &name);
        }
    }

    fn plugin(&self, plugin: &Item, names: &'static [Key], kind: &str, name: &str) {
        let Some(block) = plugin.value.object() else {
            self.wrong(
                plugin.value.at,
                format!("{name} is a section (`{name} {{ ... }}`)"),
            );
            return;
        };
        if !enabled(block) {
            return;
        }
        self.keys_once(block, name, |_| false);
        let known = find(names, &plugin.key);
        for item in &block.items {
            match known.map(|key| key.rule) {
                Some(Rule::Section(data)) if item.key.eq_ignore_ascii_case("plugin_data") => {
                    if let Some(object) = self.section_of(item, &join(name, "plugin_data")) {
                        self.object(object, data, name);
                    }
                }
                Some(Rule::Section(_)) => self.item(item, PLUGIN_KEYS, name),
                // More faults inside a plugin that can't be used would only be noise.
                _ => {
                    if let Some(Rule::Refused(_)) = find(PLUGIN_KEYS, &item.key).map(|key| key.rule)
                    {
                        self.item(item, PLUGIN_KEYS, name);
                    }
                }
            }
        }
        match known {
            None => self.unknown(plugin, names, "plugins", kind),
            Some(key) if !matches!(key.rule, Rule::Section(_)) => {
                self.wrong(plugin.at, format!("{name} is not supported yet"));
            }
            Some(_) => {}
        }
    }

    /// A kind of plugin that isn't supported is no fault as long as each of its plugins is turned off.
    fn kind_not_yet(&self, kind: &Item) {
        let plugins = kind.value.objects().unwrap_or_default();
        for plugin in plugins.iter().flat_map(|object| &object.items) {
            if plugin.value.object().is_none_or(enabled) {
                self.wrong(
                    plugin.at,
                    format!("{} \"{}\" is not supported yet", kind.key, plugin.key),
                );
            }
        }
    }
}

/// Plugins are on unless they say `enabled = false`.
pub(crate) fn enabled(block: &Object) -> bool {
    let text = block
        .item("enabled")
        .and_then(|item| item.value.kind.text());
    !text.is_some_and(|text| text.eq_ignore_ascii_case("false"))
}

fn is_empty(value: &Value) -> bool {
    match &value.kind {
        Kind::List(values) => values.is_empty(),
        Kind::Object(object) => object.items.is_empty(),
        kind => kind.text().unwrap_or_default().is_empty(),
    }
}

/// A key as a message repeats it: quoted, escaped and not too long.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let short: String = text.chars().take(LONGEST).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{dots}")
}
