//! Typed values out of HCL attributes, and the errors on the way.

use std::collections::HashMap;
use std::time::Duration;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Block, Structure};

use super::{Attributes, Support};
use crate::limits::Rate;
use crate::policy::action::ActionPattern;
use crate::policy::error::nearest;
use crate::policy::pattern::{IdPattern, InvalidPattern};
use crate::policy::{InvalidPolicy, PolicyError, PolicyErrorKind};

/// Reads the values of a policy text and collects what is wrong with them.
pub(super) struct PolicyReader<'t> {
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    errors: Vec<PolicyError>,
}

/// The known attributes of one block.
pub(super) struct Section<'b> {
    kind: &'static str,
    at: usize,
    values: HashMap<&'b str, &'b Expression>,
}

impl Section<'_> {
    /// Where the value of an attribute stands; where the block does if there is none.
    pub(super) fn start_of(&self, attribute: &str) -> usize {
        self.values
            .get(attribute)
            .and_then(|value| value.span())
            .map_or(self.at, |span| span.start)
    }
}

impl<'t> PolicyReader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let breaks = text
            .bytes()
            .enumerate()
            .filter(|(_, b)| *b == b'\n')
            .map(|(i, _)| i + 1);
        Self {
            text,
            lines: std::iter::once(0).chain(breaks).collect(),
            errors: Vec::new(),
        }
    }

    /// Notes an error at this byte of the text.
    pub(super) fn error(&mut self, at: usize, kind: PolicyErrorKind, message: impl Into<String>) {
        self.error_near(at, kind, message, None);
    }

    pub(super) fn error_near(
        &mut self,
        at: usize,
        kind: PolicyErrorKind,
        message: impl Into<String>,
        near: Option<&'static str>,
    ) {
        let line = self.line_of(at);
        let line_start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(line_start..at).unwrap_or_default();
        self.errors.push(PolicyError {
            line,
            column: before.chars().count() + 1,
            kind,
            message: message.into(),
            near,
        });
    }

    /// The rules, if nothing was wrong.
    pub(super) fn finish<T>(self, rules: T) -> Result<T, InvalidPolicy> {
        if self.errors.is_empty() {
            Ok(rules)
        } else {
            Err(self.into_invalid())
        }
    }

    pub(super) fn into_invalid(self) -> InvalidPolicy {
        InvalidPolicy::new(self.errors)
    }

    /// The one-based line of a place.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= at).max(1)
    }

    /// The attributes of a block, after those that do not belong there.
    pub(super) fn section<'b>(
        &mut self,
        block: &'b Block,
        kind: &'static str,
        known: Attributes,
    ) -> Section<'b> {
        let at = block.ident.span().map_or(0, |span| span.start);
        let mut values = HashMap::new();
        for structure in &block.body {
            let attribute = match structure {
                Structure::Attribute(attribute) => attribute,
                Structure::Block(inner) => {
                    let at = inner.ident.span().map_or(at, |span| span.start);
                    self.error(
                        at,
                        PolicyErrorKind::Misplaced,
                        format!(
                            "there are no blocks within {kind}: found {:?}",
                            inner.ident.as_str()
                        ),
                    );
                    continue;
                }
            };
            let name = attribute.key.as_str();
            let at = attribute.key.span().map_or(at, |span| span.start);
            match known.iter().find(|(known, _)| *known == name) {
                Some((_, Support::Now)) => {
                    values.insert(name, &attribute.value);
                }
                Some((_, Support::NotYet)) => {
                    self.error(
                        at,
                        PolicyErrorKind::Unsupported,
                        format!("{name:?} is not supported yet"),
                    );
                }
                None => {
                    let names: Vec<_> = known
                        .iter()
                        .filter(|(_, s)| *s == Support::Now)
                        .map(|(n, _)| *n)
                        .collect();
                    let message = format!(
                        "unknown attribute {name:?} in {kind}: there are {}",
                        names.join(", ")
                    );
                    let near = nearest(name, names);
                    self.error_near(at, PolicyErrorKind::UnknownAttribute, message, near);
                }
            }
        }
        Section { kind, at, values }
    }

    /// Notes which of the required attributes are missing.
    pub(super) fn require(&mut self, section: &Section<'_>, names: &[&str]) {
        for name in names {
            if !section.values.contains_key(name) {
                self.error(
                    section.at,
                    PolicyErrorKind::Missing,
                    format!("{} needs {name:?}", section.kind),
                );
            }
        }
    }

    fn invalid_value(&mut self, section: &Section<'_>, name: &str, message: String) {
        self.error(
            section.start_of(name),
            PolicyErrorKind::InvalidValue,
            message,
        );
    }

    pub(super) fn number(
        &mut self,
        section: &Section<'_>,
        name: &str,
        least: u64,
        most: u64,
    ) -> Option<u64> {
        let value = *section.values.get(name)?;
        let number = value
            .as_number()
            .and_then(|n| n.as_u64())
            .filter(|n| (least..=most).contains(n));
        if number.is_none() {
            self.invalid_value(
                section,
                name,
                format!("{name} must be a whole number from {least} to {most}"),
            );
        }
        number
    }

    pub(super) fn rate(&mut self, section: &Section<'_>, name: &str) -> Option<Rate> {
        let text = self.text(section, name)?;
        match text.parse() {
            Ok(rate) => Some(rate),
            Err(error) => {
                self.invalid_value(section, name, format!("{name} = {text:?}: {error}"));
                None
            }
        }
    }

    /// A span of whole seconds, from 1 to `most`: `90s`, `5m`, `24h`.
    pub(super) fn duration(
        &mut self,
        section: &Section<'_>,
        name: &str,
        most: u64,
    ) -> Option<Duration> {
        let text = self.text(section, name)?;
        let secs = seconds(text).filter(|secs| (1..=most).contains(secs));
        if secs.is_none() {
            let hours = most / 3_600;
            let message = format!(
                "{name} = {text:?}: write a time from 1s to {hours}h, such as \"90s\", \"5m\" or \"1h\""
            );
            self.invalid_value(section, name, message);
        }
        secs.map(Duration::from_secs)
    }

    pub(super) fn choice(
        &mut self,
        section: &Section<'_>,
        name: &str,
        choices: &[&'static str],
    ) -> Option<&'static str> {
        let text = self.text(section, name)?;
        let choice = choices.iter().find(|choice| **choice == text).copied();
        if choice.is_none() {
            self.invalid_value(
                section,
                name,
                format!("{name} = {text:?}: it can be {}", choices.join(" or ")),
            );
        }
        choice
    }

    pub(super) fn ids(&mut self, section: &Section<'_>, name: &str) -> Option<Vec<IdPattern>> {
        self.list(section, name, IdPattern::parse)
    }

    pub(super) fn actions(
        &mut self,
        section: &Section<'_>,
        name: &str,
    ) -> Option<Vec<ActionPattern>> {
        self.list(section, name, ActionPattern::parse)
    }

    fn text<'b>(&mut self, section: &Section<'b>, name: &str) -> Option<&'b str> {
        let value = *section.values.get(name)?;
        let text = value.as_str();
        if text.is_none() {
            self.invalid_value(
                section,
                name,
                format!("{name} must be a string without templates"),
            );
        }
        text
    }

    fn list<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl Fn(&str) -> Result<T, InvalidPattern>,
    ) -> Option<Vec<T>> {
        let value = *section.values.get(name)?;
        let Some(array) = value.as_array() else {
            self.invalid_value(
                section,
                name,
                format!("{name} must be a list of strings, such as [\"...\"]"),
            );
            return None;
        };
        if array.is_empty() {
            self.invalid_value(
                section,
                name,
                format!("{name} is empty, which matches nothing: name what is meant"),
            );
            return None;
        }
        let mut items = Vec::with_capacity(array.len());
        for item in array {
            let at = item
                .span()
                .map_or_else(|| section.start_of(name), |span| span.start);
            match item.as_str().map(&parse) {
                Some(Ok(item)) => items.push(item),
                Some(Err(error)) => {
                    self.error(at, PolicyErrorKind::InvalidValue, error.to_string());
                }
                None => self.error(
                    at,
                    PolicyErrorKind::InvalidValue,
                    format!("{name} must hold strings without templates"),
                ),
            }
        }
        Some(items)
    }
}

fn seconds(text: &str) -> Option<u64> {
    let (number, factor) = match text.char_indices().next_back()? {
        (at, 's') => (text.get(..at)?, 1),
        (at, 'm') => (text.get(..at)?, 60),
        (at, 'h') => (text.get(..at)?, 3_600),
        _ => return None,
    };
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(factor)
}
