//! A configuration file, read and checked, on its way to a daemon's typed configuration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::check::{check, enabled, find};
use crate::error::{InvalidConfig, Position, Warning};
use crate::expand::expand;
use crate::findings::Findings;
use crate::key::{Key, Rule};
use crate::parse::{MAX_ITEMS, parse};
use crate::section::{Plugin, Section};
use crate::tree::{Item, Object};

/// The longest configuration file, in bytes, before and after variables are filled in.
pub const MAX_TEXT: usize = 1 << 20;

/// How long a file may be, and how many keys it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest text, in bytes.
    pub text: usize,
    /// The most keys and labels, all sections together.
    pub items: usize,
}

impl Limits {
    /// Those of a configuration file.
    pub const CONFIGURATION: Self = Self {
        text: MAX_TEXT,
        items: MAX_ITEMS,
    };
}

/// Whether environment variables in the text are filled in before it is parsed (`-expandEnv`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// The text is taken as it is.
    None,
    /// `$NAME` and `${NAME}` are replaced, `$$` is a dollar sign. A variable that is not set becomes nothing, as with
    /// SPIRE, and a warning.
    Environment,
}

/// A file that keeps to the syntax. What is wrong with its keys and values is collected and comes out, all together,
/// at the end of [`Document::read`].
#[derive(Debug)]
pub struct Document {
    file: String,
    root: Object,
    keys: &'static [Key],
    findings: Findings,
}

impl Document {
    /// Reads a file of at most [`MAX_TEXT`] bytes and checks it against the registry, [`SERVER_KEYS`](crate::SERVER_KEYS)
    /// or [`AGENT_KEYS`](crate::AGENT_KEYS).
    ///
    /// # Errors
    ///
    /// The file can't be read, is too long, is no text or breaks the syntax.
    pub fn load(
        path: &Path,
        expansion: Expansion,
        keys: &'static [Key],
    ) -> Result<Self, InvalidConfig> {
        let file = path.display().to_string();
        let text = read_text(path, &file, MAX_TEXT)?;
        let variable = |name: &str| std::env::var(name).ok();
        match expansion {
            Expansion::None => Self::parse(&file, &text, keys),
            Expansion::Environment => Self::parse_expanded(&file, &text, variable, keys),
        }
    }

    /// Checks a text; `file` is only its name in messages.
    ///
    /// # Errors
    ///
    /// The text is longer than [`MAX_TEXT`] or breaks the syntax.
    pub fn parse(file: &str, text: &str, keys: &'static [Key]) -> Result<Self, InvalidConfig> {
        Self::parse_within(Limits::CONFIGURATION, file, text, keys)
    }

    /// As [`Document::load`], with other limits and no variables.
    ///
    /// # Errors
    ///
    /// As [`Document::load`].
    pub fn load_within(
        limits: Limits,
        path: &Path,
        keys: &'static [Key],
    ) -> Result<Self, InvalidConfig> {
        let file = path.display().to_string();
        let text = read_text(path, &file, limits.text)?;
        Self::parse_within(limits, &file, &text, keys)
    }

    /// As [`Document::parse`], with other limits.
    ///
    /// # Errors
    ///
    /// As [`Document::parse`].
    pub fn parse_within(
        limits: Limits,
        file: &str,
        text: &str,
        keys: &'static [Key],
    ) -> Result<Self, InvalidConfig> {
        if text.len() > limits.text {
            return Err(InvalidConfig::TooLong {
                file: file.to_owned(),
                limit: limits.text,
            });
        }
        let root = parse(text, limits.items)
            .map_err(|finding| InvalidConfig::wrong(file, vec![finding]))?;
        let findings = check(&root, keys);
        Ok(Self {
            file: file.to_owned(),
            root,
            keys,
            findings,
        })
    }

    /// As [`Document::parse`], after `$NAME` and `${NAME}` were replaced by what `variable` says.
    ///
    /// # Errors
    ///
    /// As [`Document::parse`]; the limit holds before and after.
    pub fn parse_expanded(
        file: &str,
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
        keys: &'static [Key],
    ) -> Result<Self, InvalidConfig> {
        let expanded = expand(text, MAX_TEXT, variable);
        let document = Self::parse(file, &expanded.text, keys)?;
        for name in expanded.unset {
            document.warn(
                Position::START,
                format!("the environment variable {name} is not set: nothing replaces it"),
            );
        }
        Ok(document)
    }

    /// Turns the file into a daemon's configuration. `build` reads sections and values and makes the configuration; it
    /// returns `None` only if something is missing or wrong, which the accessors have noted.
    ///
    /// # Errors
    ///
    /// Everything that was noted about the file, by the registry and by `build`, in the order of the file.
    pub fn read<T>(
        self,
        build: impl FnOnce(&Self) -> Option<T>,
    ) -> Result<(T, Vec<Warning>), InvalidConfig> {
        let built = build(&self);
        self.findings.conclude(&self.file, built)
    }

    /// The file itself, for keys outside any section.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        Section::new(
            &self.findings,
            Some(&self.root),
            self.keys,
            String::new(),
            Position::START,
        )
    }

    /// A top-level section; an empty one when the file has none.
    #[must_use]
    pub fn section(&self, name: &str) -> Section<'_> {
        self.root().section(name)
    }

    /// The top-level sections of this name, of which there may be several, in the order of the file.
    #[must_use]
    pub fn sections(&self, name: &str) -> Vec<Section<'_>> {
        let Some(Rule::Sections(keys)) = find(self.keys, name).map(|key| key.rule) else {
            self.wrong(
                Position::START,
                format!("{name} is not in the registry of sections: a bug in this program"),
            );
            return Vec::new();
        };
        let items = self.root.items.iter();
        let items = items.filter(|item| item.key.eq_ignore_ascii_case(name));
        let sections = items.flat_map(|item| {
            let objects = item.value.objects().unwrap_or_default();
            objects.into_iter().map(|object| (item.at, object))
        });
        sections
            .map(|(at, object)| {
                let at = object.items.first().map_or(at, |first| first.at);
                Section::new(&self.findings, Some(object), keys, name.to_owned(), at)
            })
            .collect()
    }

    /// The plugins of a kind that the file turns on, in its order. Plugins that aren't supported are not among them:
    /// they have been noted.
    #[must_use]
    pub fn plugins(&self, kind: &str) -> Vec<Plugin<'_>> {
        let kinds = match find(self.keys, "plugins").map(|key| key.rule) {
            Some(Rule::Plugins(kinds)) => kinds,
            _ => &[],
        };
        let Some(Rule::Section(names)) = find(kinds, kind).map(|key| key.rule) else {
            self.wrong(
                Position::START,
                format!("{kind} is not in the registry of plugins: a bug in this program"),
            );
            return Vec::new();
        };
        self.plugin_kinds()
            .filter(|item| item.key.eq_ignore_ascii_case(kind))
            .flat_map(|item| item.value.objects().unwrap_or_default())
            .flat_map(|object| &object.items)
            .filter_map(|item| {
                let block = item.value.object().filter(|block| enabled(block))?;
                let key = find(names, &item.key)?;
                let Rule::Section(data) = key.rule else {
                    return None;
                };
                let object = block
                    .item("plugin_data")
                    .and_then(|item| item.value.object());
                let path = format!("{kind} \"{}\"", key.name);
                Some(Plugin {
                    name: key.name,
                    at: item.at,
                    data: Section::new(&self.findings, object, data, path, item.at),
                })
            })
            .collect()
    }

    /// The one plugin of a kind of which there can only be one; notes a second one.
    #[must_use]
    pub fn single_plugin(&self, kind: &str) -> Option<Plugin<'_>> {
        let mut plugins = self.plugins(kind).into_iter();
        let first = plugins.next();
        if let Some(second) = plugins.next() {
            self.wrong(
                second.at,
                format!(
                    "there can be only one {kind}: remove \"{}\" or the one before it",
                    second.name
                ),
            );
        }
        first
    }

    /// As [`Document::single_plugin`], and notes when there is none.
    #[must_use]
    pub fn required_plugin(&self, kind: &str) -> Option<Plugin<'_>> {
        let plugin = self.single_plugin(kind);
        // One that is there and can't be used has been noted as such.
        let written = self
            .plugin_kinds()
            .any(|item| item.key.eq_ignore_ascii_case(kind));
        if plugin.is_none() && !written {
            let at = self
                .root
                .item("plugins")
                .map_or(Position::START, |item| item.at);
            self.wrong(
                at,
                format!("plugins needs a {kind}: `{kind} \"name\" {{ plugin_data {{ }} }}`"),
            );
        }
        plugin
    }

    fn plugin_kinds(&self) -> impl Iterator<Item = &Item> {
        self.root
            .item("plugins")
            .and_then(|item| item.value.objects())
            .unwrap_or_default()
            .into_iter()
            .flat_map(|object| &object.items)
    }

    /// Notes that something is wrong at a place.
    pub fn wrong(&self, at: Position, message: impl Into<String>) {
        self.findings.wrong(at, message);
    }

    /// Notes that something at a place has no effect.
    pub fn warn(&self, at: Position, message: impl Into<String>) {
        self.findings.warn(at, message);
    }
}

fn read_text(path: &Path, file: &str, max: usize) -> Result<String, InvalidConfig> {
    let unreadable = |source| InvalidConfig::Unreadable {
        file: file.to_owned(),
        source,
    };
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > max {
        return Err(InvalidConfig::TooLong {
            file: file.to_owned(),
            limit: max,
        });
    }
    String::from_utf8(bytes).map_err(|_| InvalidConfig::NotText {
        file: file.to_owned(),
    })
}
