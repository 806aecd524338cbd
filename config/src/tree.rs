//! The syntax tree of a configuration file: nested objects, with the position of each key and value.
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
    /// This value as one section. The JSON form may write a section as a list with one element.
    pub(crate) fn object(&self) -> Option<&Object> {
        match self.objects()?.as_slice() {
            [object] => Some(object),
            _ => None,
        }
    }

    /// This value as sections: one object, or a list that has only objects.
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

/// The type of a value, and its content.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A string or heredoc, with its escapes resolved.
    String(String),
    /// A number as written in the file. It is converted when it is read, since only the reader knows its type and range.
    Number(String),
    Bool(bool),
    List(Vec<Value>),
    Object(Object),
}

impl Kind {
    /// What error messages call a value of this type.
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

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) key: String,
    /// The position of the key.
    pub(crate) at: Position,
    pub(crate) value: Value,
}

/// The items of a section or of the whole file, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) items: Vec<Item>,
    /// Made from a label: a later block with the same key is merged into it, where two plain sections are an error.
    pub(crate) from_label: bool,
}

impl Object {
    /// Adds an item. Labelled blocks with the same key are merged: `federates_with "a" { } federates_with "b" { }` becomes
    /// one `federates_with` with two sections.
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

    /// The first item with this key. Keys are compared without case, as in HCL 1.
    pub(crate) fn item(&self, key: &str) -> Option<&Item> {
        self.items
            .iter()
            .find(|item| item.key.eq_ignore_ascii_case(key))
    }
}
