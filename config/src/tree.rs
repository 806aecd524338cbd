//! The tree that a file becomes: objects of items, each with its position.
//!
//! Labels are nested objects, as HCL 1 sees them: `KeyManager "disk" { }` and `KeyManager { "disk" { } }` are the same.

use crate::error::Position;

/// A value with its position.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) at: Position,
    pub(crate) kind: Kind,
}

impl Value {
    /// The section that this is. JSON writes one also as a list of one.
    pub(crate) fn object(&self) -> Option<&Object> {
        match self.objects()?.as_slice() {
            [object] => Some(object),
            _ => None,
        }
    }

    /// The sections that this is: one, or a list of nothing else.
    pub(crate) fn objects(&self) -> Option<Vec<&Object>> {
        match &self.kind {
            Kind::Object(object) => Some(vec![object]),
            Kind::List(values) => values
                .iter()
                .map(|value| match &value.kind {
                    Kind::Object(object) => Some(object),
                    _ => None,
                })
                .collect(),
            Kind::String(_) | Kind::Number(_) | Kind::Bool(_) => None,
        }
    }
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A string or heredoc, escapes resolved.
    String(String),
    /// A number as it was written; it becomes one when it is asked for.
    Number(String),
    Bool(bool),
    List(Vec<Value>),
    Object(Object),
}

impl Kind {
    /// What to call it in a message.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Object(_) => "a section",
        }
    }

    /// The text of a string, number or bool.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Number(text) => Some(text),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            Self::List(_) | Self::Object(_) => None,
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) key: String,
    /// The position of the key.
    pub(crate) at: Position,
    pub(crate) value: Value,
}

/// The items between two braces, or of a whole file, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) items: Vec<Item>,
    /// Made from a label, so that a second one of the same key adds to it.
    pub(crate) from_label: bool,
}

impl Object {
    /// Adds an item; blocks that differ only in their labels come together under one key.
    pub(crate) fn insert(&mut self, item: Item) {
        match item.value.kind {
            Kind::Object(added) if added.from_label => match self.labelled(&item.key) {
                Some(present) => {
                    for item in added.items {
                        present.insert(item);
                    }
                }
                None => self.items.push(Item {
                    value: Value {
                        at: item.value.at,
                        kind: Kind::Object(added),
                    },
                    ..item
                }),
            },
            kind => self.items.push(Item {
                value: Value {
                    at: item.value.at,
                    kind,
                },
                ..item
            }),
        }
    }

    fn labelled(&mut self, key: &str) -> Option<&mut Object> {
        self.items
            .iter_mut()
            .filter(|item| item.key == key)
            .find_map(|item| match &mut item.value.kind {
                Kind::Object(object) if object.from_label => Some(object),
                _ => None,
            })
    }

    /// The first item of this key. Keys match without regard to case, as HCL 1 matches them.
    pub(crate) fn item(&self, key: &str) -> Option<&Item> {
        self.items
            .iter()
            .find(|item| item.key.eq_ignore_ascii_case(key))
    }
}
