//! Checks a tree against the registry: unknown keys, keys that stand twice, keys that have no effect or aren't
//! supported yet, and values where sections should be.

use std::collections::HashMap;

use crate::error::{Finding, Position};
use crate::key::{Key, PLUGIN_KEYS, Rule};
use crate::near::nearest;
use crate::tree::{Item, Kind, Object, Value};

/// Up to how many findings unknown keys are compared with known ones, so that a file of nothing else is judged fast.
const MAX_HINTS: usize = 100;

/// What the registry says about a file.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) wrong: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
}

/// Checks a whole file.
pub(crate) fn check(root: &Object, keys: &'static [Key]) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.object(root, keys, "");
    verdict
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

impl Verdict {
    fn wrong(&mut self, at: Position, message: String) {
        self.wrong.push(Finding { at, message });
    }

    fn object(&mut self, object: &Object, keys: &'static [Key], path: &str) {
        let repeats =
            |key: &str| matches!(find(keys, key).map(|key| key.rule), Some(Rule::Sections(_)));
        self.twice(object, path, repeats);
        for item in &object.items {
            self.item(item, keys, path);
        }
    }

    fn item(&mut self, item: &Item, keys: &'static [Key], path: &str) {
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
            Rule::Ignored(reason) => self.warnings.push(Finding {
                at: item.at,
                message: format!("{name} has no effect: {reason}"),
            }),
            Rule::NotYet { unless } if asks_for(&item.value, unless) => {}
            Rule::NotYet { unless } => self.not_yet(item, &name, unless),
            Rule::Refused(reason) => self.wrong(item.at, format!("{name}: {reason}")),
        }
    }

    /// Sections under names of the user's, which match with regard to case.
    fn named(&mut self, item: &Item, keys: &'static [Key], name: &str) {
        let Some(objects) = item.value.objects() else {
            self.section_of(item, name);
            return;
        };
        let mut seen: HashMap<&str, Position> = HashMap::new();
        for inner in objects.iter().flat_map(|object| &object.items) {
            let path = format!("{name} {}", shown(&inner.key));
            if let Some(first) = seen.insert(&inner.key, inner.at) {
                self.wrong(
                    inner.at,
                    format!(
                        "{path} stands here a second time, first on line {}",
                        first.line
                    ),
                );
            }
            if let Some(object) = self.section_of(inner, &path) {
                self.object(object, keys, &path);
            }
        }
    }

    fn section_of<'a>(&mut self, item: &'a Item, name: &str) -> Option<&'a Object> {
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

    fn not_yet(&mut self, item: &Item, name: &str, unless: &[&str]) {
        let remedy = match unless {
            [only] if !only.is_empty() => format!("remove it, or write {only}"),
            _ => "remove it".to_owned(),
        };
        self.wrong(item.at, format!("{name} is not supported yet: {remedy}"));
    }

    fn unknown(&mut self, item: &Item, keys: &'static [Key], path: &str, noun: &str) {
        let place = if path.is_empty() {
            String::new()
        } else {
            format!(" in {path}")
        };
        let names = keys.iter().map(|key| key.name);
        let near = (self.wrong.len() < MAX_HINTS).then(|| nearest(&item.key, names));
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
    fn elements(&mut self, item: &Item, keys: &'static [Key], name: &str) {
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
                    format!("{name}: strings should stand here, not {}", kind.noun()),
                ),
            }
        }
    }

    /// Each key may stand once in its section, in whatever case, but those of which there may be several.
    fn twice(&mut self, object: &Object, path: &str, repeats: impl Fn(&str) -> bool) {
        let mut seen: HashMap<String, Position> = HashMap::new();
        for item in object.items.iter().filter(|item| !repeats(&item.key)) {
            match seen.get(&item.key.to_ascii_lowercase()) {
                Some(first) => {
                    let name = join(path, &item.key);
                    self.wrong(
                        item.at,
                        format!(
                            "{name} stands here a second time, first on line {}",
                            first.line
                        ),
                    );
                }
                None => {
                    seen.insert(item.key.to_ascii_lowercase(), item.at);
                }
            }
        }
    }

    /// `Kind "name" { plugin_data { } }`, where the registry holds kinds, in them names, in them the data's keys.
    fn plugins(&mut self, item: &Item, kinds: &'static [Key]) {
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

    fn plugins_of_kind(&mut self, kind: &Item, names: &'static [Key]) {
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
        let mut seen: HashMap<&str, Position> = HashMap::new();
        for plugin in objects.iter().flat_map(|object| &object.items) {
            let name = format!("{} \"{}\"", kind.key, plugin.key);
            if let Some(first) = seen.insert(&plugin.key, plugin.at) {
                self.wrong(
                    plugin.at,
                    format!(
                        "{name} stands here a second time, first on line {}",
                        first.line
                    ),
                );
            }
            self.plugin(plugin, names, &kind.key, &name);
        }
    }

    fn plugin(&mut self, plugin: &Item, names: &'static [Key], kind: &str, name: &str) {
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
        self.twice(block, name, |_| false);
        let known = find(names, &plugin.key);
        for item in &block.items {
            match known.map(|key| key.rule) {
                Some(Rule::Section(data)) if item.key.eq_ignore_ascii_case("plugin_data") => {
                    if let Some(object) = self.section_of(item, &join(name, "plugin_data")) {
                        self.object(object, data, name);
                    }
                }
                Some(Rule::Section(_)) => self.item(item, PLUGIN_KEYS, name),
                // What else is wrong inside a plugin that can't be used would only be noise.
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
    fn kind_not_yet(&mut self, kind: &Item) {
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

/// Whether a value asks for nothing but what is done anyway.
fn asks_for(value: &Value, harmless: &[&str]) -> bool {
    let text = match &value.kind {
        Kind::List(values) if values.is_empty() => "",
        Kind::Object(object) if object.items.is_empty() => "",
        Kind::List(_) | Kind::Object(_) => return false,
        kind => kind.text().unwrap_or_default(),
    };
    // An empty value is the same as none, wherever it stands.
    text.is_empty()
        || harmless
            .iter()
            .any(|harmless| harmless.eq_ignore_ascii_case(text))
}

/// A key as a message repeats it: quoted, escaped and not too long.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let short: String = text.chars().take(LONGEST).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{dots}")
}
