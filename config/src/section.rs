//! Typed reading of a section. Each accessor answers `None` when the key is absent or empty, and when its value is
//! wrong, which is then noted with its place; [`Document::read`](crate::Document::read) reports all of it together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::check::{find, join, shown};
use crate::duration::parse_duration;
use crate::error::Position;
use crate::findings::Findings;
use crate::key::{Key, Rule};
use crate::tree::{Item, Kind, Object, Value};

/// A plugin that is built in and turned on.
#[derive(Clone, Debug)]
pub struct Plugin<'a> {
    /// Its name, as the registry writes it.
    pub name: &'static str,
    /// The position of its name.
    pub at: Position,
    /// Its `plugin_data`; an empty section when there is none.
    pub data: Section<'a>,
}

/// One element of a list of texts and sections.
#[derive(Clone, Debug)]
pub enum Element<'a> {
    /// A text.
    Text(String),
    /// A section.
    Section(Section<'a>),
}

/// A section of a file, or an empty one where the file has none.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    findings: &'a Findings,
    object: Option<&'a Object>,
    keys: &'static [Key],
    path: String,
    at: Position,
}

impl<'a> Section<'a> {
    pub(crate) fn new(
        findings: &'a Findings,
        object: Option<&'a Object>,
        keys: &'static [Key],
        path: String,
        at: Position,
    ) -> Self {
        Self {
            findings,
            object,
            keys,
            path,
            at,
        }
    }

    /// Whether the file has this section.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.object.is_some()
    }

    /// The position of the key's value; that of the section, if the key is absent.
    #[must_use]
    pub fn at(&self, key: &str) -> Position {
        self.object
            .and_then(|object| object.item(key))
            .map_or(self.at, |item| item.value.at)
    }

    /// A section in this one; an empty one when there is none.
    #[must_use]
    pub fn section(&self, name: &str) -> Self {
        let keys = match find(self.keys, name).map(|key| key.rule) {
            Some(Rule::Section(keys)) => keys,
            _ => {
                self.unregistered(name);
                &[]
            }
        };
        let item = self.object.and_then(|object| object.item(name));
        Self::new(
            self.findings,
            item.and_then(|item| item.value.object()),
            keys,
            join(&self.path, name),
            item.map_or(self.at, |item| item.at),
        )
    }

    /// The sections that stand in this one under names of the user's, in the order of the file.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<(&'a str, Self)> {
        let Some(Rule::Named(keys)) = find(self.keys, name).map(|key| key.rule) else {
            self.unregistered(name);
            return Vec::new();
        };
        let path = join(&self.path, name);
        let items = self.object.into_iter().flat_map(|object| &object.items);
        items
            .filter(|item| item.key.eq_ignore_ascii_case(name))
            .flat_map(|item| item.value.objects().unwrap_or_default())
            .flat_map(|object| &object.items)
            .map(|item| {
                let path = format!("{path} {}", shown(&item.key));
                let section = Self::new(self.findings, item.value.object(), keys, path, item.at);
                (item.key.as_str(), section)
            })
            .collect()
    }

    /// Notes that something about this section is wrong.
    pub fn wrong_here(&self, reason: impl Display) {
        self.findings
            .wrong(self.at, format!("{}: {reason}", self.path));
    }

    /// Notes each of these keys that is absent or empty.
    pub fn require(&self, keys: &[&str]) {
        for key in keys {
            let empty = |item: &Item| item.value.kind.text() == Some("");
            if self.item(key).is_none_or(empty) {
                self.findings
                    .wrong(self.at, format!("{} is required", join(&self.path, key)));
            }
        }
    }

    /// A text. A number counts as its digits.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<String> {
        let item = self.item(key)?;
        match &item.value.kind {
            Kind::String(text) | Kind::Number(text) => {
                Some(text.clone()).filter(|text| !text.is_empty())
            }
            _ => self.mistyped(key, &item.value, "a string"),
        }
    }

    /// A path, relative to the daemon's working directory.
    #[must_use]
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        self.string(key).map(PathBuf::from)
    }

    /// A text that becomes something else; the error is noted at its place.
    pub fn parsed<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.string(key)?;
        match parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.wrong(key, error);
                None
            }
        }
    }

    /// One of several words, in whatever case.
    #[must_use]
    pub fn choice<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        let chosen = choices
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(&text));
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.wrong(
                key,
                format!("{} is none of {}", shown(&text), words.join(", ")),
            );
        }
        chosen.map(|(_, choice)| choice.clone())
    }

    /// `true` or `false`, with or without quotes.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        let item = self.item(key)?;
        match &item.value.kind {
            Kind::Bool(value) => Some(*value),
            Kind::String(text) if text.is_empty() => None,
            Kind::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Kind::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => self.mistyped(key, &item.value, "true or false"),
        }
    }

    /// A whole number within bounds, with or without quotes.
    #[must_use]
    pub fn integer(&self, key: &str, bounds: RangeInclusive<i64>) -> Option<i64> {
        let item = self.item(key)?;
        let (Kind::String(text) | Kind::Number(text)) = &item.value.kind else {
            return self.mistyped(key, &item.value, "a number");
        };
        if text.is_empty() {
            return None;
        }
        let number = whole(text).filter(|number| bounds.contains(number));
        if number.is_none() {
            let (least, most) = (bounds.start(), bounds.end());
            self.wrong(
                key,
                format!("must be a whole number from {least} to {most}"),
            );
        }
        number
    }

    /// A TCP port, with or without quotes. 0 lets the system choose a free one.
    #[must_use]
    pub fn port(&self, key: &str) -> Option<u16> {
        let number = self.integer(key, 0..=i64::from(u16::MAX))?;
        u16::try_from(number).ok()
    }

    /// A duration in Go's syntax (`"1h30m"`) within bounds.
    #[must_use]
    pub fn duration(&self, key: &str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.parsed(key, parse_duration)?;
        if bounds.contains(&duration) {
            return Some(duration);
        }
        let (least, most) = (bounds.start(), bounds.end());
        self.wrong(
            key,
            format!("must be a duration from {least:?} to {most:?}"),
        );
        None
    }

    /// A list of texts; a single one counts as a list of one.
    #[must_use]
    pub fn list(&self, key: &str) -> Option<Vec<String>> {
        let item = self.item(key)?;
        let values = match &item.value.kind {
            Kind::List(values) => values.as_slice(),
            Kind::String(text) if text.is_empty() => return None,
            _ => std::slice::from_ref(&item.value),
        };
        let mut texts = Vec::with_capacity(values.len());
        for value in values {
            match &value.kind {
                Kind::String(text) | Kind::Number(text) => texts.push(text.clone()),
                _ => return self.mistyped(key, value, "a list of strings"),
            }
        }
        Some(texts)
    }

    /// The elements of a list of texts and sections; a single one counts as a list of one. What is neither has been noted.
    #[must_use]
    pub fn elements(&self, key: &str) -> Vec<Element<'a>> {
        let Some(Rule::Elements(keys)) = find(self.keys, key).map(|key| key.rule) else {
            self.unregistered(key);
            return Vec::new();
        };
        let Some(item) = self.object.and_then(|object| object.item(key)) else {
            return Vec::new();
        };
        let values = match &item.value.kind {
            Kind::List(values) => values.as_slice(),
            _ => std::slice::from_ref(&item.value),
        };
        let element = |value: &'a Value| match &value.kind {
            Kind::String(text) => Some(Element::Text(text.clone())),
            Kind::Object(object) => {
                let path = join(&self.path, key);
                let section = Self::new(self.findings, Some(object), keys, path, value.at);
                Some(Element::Section(section))
            }
            _ => None,
        };
        values.iter().filter_map(element).collect()
    }

    /// Notes that a key's value is wrong.
    pub fn wrong(&self, key: &str, reason: impl Display) {
        self.findings
            .wrong(self.at(key), format!("{}: {reason}", join(&self.path, key)));
    }

    /// Notes that a key has no effect, or not the whole one.
    pub fn warn(&self, key: &str, reason: impl Display) {
        self.findings
            .warn(self.at(key), format!("{}: {reason}", join(&self.path, key)));
    }

    fn item(&self, key: &str) -> Option<&'a Item> {
        if !matches!(find(self.keys, key).map(|key| key.rule), Some(Rule::Value)) {
            self.unregistered(key);
        }
        let item = self.object?.item(key)?;
        // A section in a value's place has been noted by the registry's check.
        (!matches!(item.value.kind, Kind::Object(_))).then_some(item)
    }

    /// A daemon asks for what the registry doesn't list: never silent, so that the first test finds it.
    fn unregistered(&self, key: &str) {
        let name = join(&self.path, key);
        self.findings.wrong(
            self.at,
            format!("{name} is not in the registry of keys: a bug in this program"),
        );
    }

    fn mistyped<T>(&self, key: &str, value: &Value, wanted: &str) -> Option<T> {
        let name = join(&self.path, key);
        let found = value.kind.noun();
        self.findings
            .wrong(value.at, format!("{name}: must be {wanted}, not {found}"));
        None
    }
}

/// A whole number in decimal or hexadecimal.
fn whole(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(digits) => i64::from_str_radix(digits, 16).ok()?,
        None if digits.starts_with(|first: char| first.is_ascii_digit()) => digits.parse().ok()?,
        None => return None,
    };
    magnitude.checked_mul(sign)
}
