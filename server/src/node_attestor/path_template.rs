//! Templates for the path of a node agent's ID (`agent_path_template`).
//!
//! A strict subset of Go's templates: text, and between `{{` and `}}` a value with functions applied to it, such as
//! `{{ .PluginName }}` or `{{ .Subject.CommonName | trimSuffix ".example.org" | lower }}`. Names, functions and kinds
//! of values are checked when the template is parsed; anything unknown is an error with its position. Conditions,
//! loops and variables don't exist.

use std::collections::BTreeMap;
use std::fmt;

mod parse;

/// The longest template, in bytes.
pub(crate) const MAX_TEMPLATE: usize = 1_024;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// A text.
    Text,
    /// A list of texts.
    List,
    /// Texts by name.
    Map,
    /// A number; only literals are numbers.
    Number,
}

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// Texts by name.
    Map(BTreeMap<String, String>),
    /// A number.
    Number(usize),
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, at character {at} of the template")]
pub(crate) struct InvalidTemplate {
    /// Where, counted from 1.
    pub(crate) at: usize,
    /// What is wrong there.
    pub(crate) what: String,
}

/// The template can't be rendered for these values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotRendered(String);

/// A parsed and checked template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Expression),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    Field(Vec<String>),
    Text(String),
    Number(usize),
    Call(Function, Vec<Self>),
}

impl PathTemplate {
    /// Parses a template. `kind` is the type of a field, given its path; `None` if there is no such field.
    ///
    /// # Errors
    /// [`InvalidTemplate`].
    pub(crate) fn parse(
        text: &str,
        kind: fn(&[String]) -> Option<ValueKind>,
    ) -> Result<Self, InvalidTemplate> {
        parse::template(text, kind)
    }

    /// Renders the template with the values of `field`.
    ///
    /// # Errors
    /// A field is not there, a list is too short, or a number is out of range.
    pub(crate) fn render(
        &self,
        field: &dyn Fn(&[String]) -> Option<Value>,
    ) -> Result<String, NotRendered> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Value(expression) => match expression.value(field)? {
                    Value::Text(part) => text.push_str(&part),
                    Value::Number(number) => text.push_str(&number.to_string()),
                    // Refused when the template was parsed.
                    Value::List(_) | Value::Map(_) => {
                        return Err(NotRendered("a list is not a text".into()));
                    }
                },
            }
        }
        Ok(text)
    }
}

impl Expression {
    fn value(&self, field: &dyn Fn(&[String]) -> Option<Value>) -> Result<Value, NotRendered> {
        match self {
            Self::Text(text) => Ok(Value::Text(text.clone())),
            Self::Number(number) => Ok(Value::Number(*number)),
            Self::Field(path) => field(path)
                .ok_or_else(|| NotRendered(format!("there is no value of .{}", path.join(".")))),
            Self::Call(function, arguments) => {
                let arguments = arguments.iter().map(|argument| argument.value(field));
                function.call(arguments.collect::<Result<_, _>>()?)
            }
        }
    }
}

/// The supported functions of Go's templates and of Sprig, with their arguments in Sprig's order: the piped value comes
/// last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Lower,
    Upper,
    Trim,
    NoSpace,
    TrimPrefix,
    TrimSuffix,
    Replace,
    Trunc,
    Default,
    SplitList,
    Join,
    First,
    Last,
    Index,
}

impl Function {
    const ALL: [(&'static str, Self, &'static [ValueKind], ValueKind); 15] = [
        ("lower", Self::Lower, &[ValueKind::Text], ValueKind::Text),
        ("upper", Self::Upper, &[ValueKind::Text], ValueKind::Text),
        ("trim", Self::Trim, &[ValueKind::Text], ValueKind::Text),
        (
            "nospace",
            Self::NoSpace,
            &[ValueKind::Text],
            ValueKind::Text,
        ),
        (
            "trimPrefix",
            Self::TrimPrefix,
            &[ValueKind::Text, ValueKind::Text],
            ValueKind::Text,
        ),
        (
            "trimSuffix",
            Self::TrimSuffix,
            &[ValueKind::Text, ValueKind::Text],
            ValueKind::Text,
        ),
        (
            "replace",
            Self::Replace,
            &[ValueKind::Text, ValueKind::Text, ValueKind::Text],
            ValueKind::Text,
        ),
        (
            "trunc",
            Self::Trunc,
            &[ValueKind::Number, ValueKind::Text],
            ValueKind::Text,
        ),
        (
            "default",
            Self::Default,
            &[ValueKind::Text, ValueKind::Text],
            ValueKind::Text,
        ),
        (
            "splitList",
            Self::SplitList,
            &[ValueKind::Text, ValueKind::Text],
            ValueKind::List,
        ),
        (
            "join",
            Self::Join,
            &[ValueKind::Text, ValueKind::List],
            ValueKind::Text,
        ),
        ("first", Self::First, &[ValueKind::List], ValueKind::Text),
        ("last", Self::Last, &[ValueKind::List], ValueKind::Text),
        (
            "index",
            Self::Index,
            &[ValueKind::List, ValueKind::Number],
            ValueKind::Text,
        ),
        (
            "index",
            Self::Index,
            &[ValueKind::Map, ValueKind::Text],
            ValueKind::Text,
        ),
    ];

    fn call(self, arguments: Vec<Value>) -> Result<Value, NotRendered> {
        use Value::{List, Map, Number, Text};

        let short = || NotRendered(format!("{self} asks for what the list does not have"));
        let mut arguments = arguments.into_iter();
        let three = (arguments.next(), arguments.next(), arguments.next());
        Ok(match (self, three) {
            (Self::Lower, (Some(Text(text)), ..)) => Text(text.to_lowercase()),
            (Self::Upper, (Some(Text(text)), ..)) => Text(text.to_uppercase()),
            (Self::Trim, (Some(Text(text)), ..)) => Text(text.trim().to_owned()),
            (Self::NoSpace, (Some(Text(text)), ..)) => Text(text.split_whitespace().collect()),
            (Self::TrimPrefix, (Some(Text(end)), Some(Text(text)), _)) => {
                Text(text.strip_prefix(end.as_str()).unwrap_or(&text).to_owned())
            }
            (Self::TrimSuffix, (Some(Text(end)), Some(Text(text)), _)) => {
                Text(text.strip_suffix(end.as_str()).unwrap_or(&text).to_owned())
            }
            (Self::Replace, (Some(Text(old)), Some(Text(new)), Some(Text(text)))) => {
                Text(text.replace(old.as_str(), &new))
            }
            // In characters, so that none is cut through.
            (Self::Trunc, (Some(Number(most)), Some(Text(text)), _)) => {
                Text(text.chars().take(most).collect())
            }
            (Self::Default, (Some(Text(instead)), Some(Text(text)), _)) => {
                Text(if text.is_empty() { instead } else { text })
            }
            (Self::SplitList, (Some(Text(by)), Some(Text(text)), _)) => {
                List(text.split(by.as_str()).map(str::to_owned).collect())
            }
            (Self::Join, (Some(Text(by)), Some(List(list)), _)) => Text(list.join(&by)),
            (Self::First, (Some(List(list)), ..)) => {
                Text(list.into_iter().next().ok_or_else(short)?)
            }
            (Self::Last, (Some(List(mut list)), ..)) => Text(list.pop().ok_or_else(short)?),
            (Self::Index, (Some(List(list)), Some(Number(place)), _)) => {
                Text(list.into_iter().nth(place).ok_or_else(short)?)
            }
            (Self::Index, (Some(Map(mut map)), Some(Text(name)), _)) => {
                Text(map.remove(&name).ok_or_else(short)?)
            }
            // Refused when the template was parsed.
            _ => return Err(NotRendered(format!("{self} was given something else"))),
        })
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = Self::ALL.iter().find(|(_, function, ..)| function == self);
        f.write_str(row.map_or("a function", |(name, ..)| name))
    }
}

#[cfg(test)]
mod tests;
