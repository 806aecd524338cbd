//! The grammar of HCL 1 as SPIRE's users write it, and its JSON form.
//!
//! A parser of our own: the existing crates read HCL 2, which refuses forms that SPIRE accepts, such as one-line blocks,
//! commas after attributes, quoted keys and JSON (decision 0001). It is recursive, so the depth is bounded.

use crate::error::Finding;
use crate::scan::Cursor;
use crate::tree::{Item, Kind, Object, Value};

/// How deeply sections and lists may be nested. SPIRE's deepest documented file has 7 levels.
pub const MAX_DEPTH: usize = 32;

/// How many keys and labels a configuration file may have, all sections together.
pub const MAX_ITEMS: usize = 10_000;

/// Parses a whole file with at most `max_items` keys and labels.
pub(crate) fn parse(text: &str, max_items: usize) -> Result<Object, Finding> {
    let mut parser = Parser {
        cursor: Cursor::new(text),
        json: false,
        items: 0,
        max_items,
    };
    parser.file()
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    /// A file that begins with a brace is JSON: a `:` separates key and value.
    json: bool,
    /// Keys and labels read so far.
    items: usize,
    max_items: usize,
}

impl Parser<'_> {
    fn file(&mut self) -> Result<Object, Finding> {
        self.cursor.skip_blank()?;
        self.json = self.cursor.take('{');
        let object = self.items(0)?;
        if self.json {
            if !self.cursor.take('}') {
                return Err(self.cursor.wrong("`}` is missing at the end of the file"));
            }
            self.cursor.skip_blank()?;
        }
        match self.cursor.peek() {
            None => Ok(object),
            Some(extra) => Err(self.unexpected(extra, "a key or the end of the file")),
        }
    }

    /// Items up to a closing brace or the end; a comma may follow each.
    fn items(&mut self, depth: usize) -> Result<Object, Finding> {
        let mut object = Object::default();
        loop {
            self.cursor.skip_blank()?;
            match self.cursor.peek() {
                None | Some('}') => return Ok(object),
                Some(_) => object.insert(self.item(depth)?),
            }
            self.cursor.skip_blank()?;
            self.cursor.take(',');
        }
    }

    /// `key = value`, `key { }` or `key "label" { }`.
    fn item(&mut self, depth: usize) -> Result<Item, Finding> {
        self.items = self.items.saturating_add(1);
        if self.items > self.max_items {
            return Err(self.cursor.wrong(format!(
                "the file has more keys than the limit of {}",
                self.max_items
            )));
        }
        let at = self.cursor.at();
        let key = self.key()?;
        self.cursor.skip_blank()?;
        let value_at = self.cursor.at();
        let value = match self.cursor.peek() {
            Some('{') => self.value(depth)?,
            Some('=') => self.after_sign(depth)?,
            Some(':') if self.json => self.after_sign(depth)?,
            // A label: `key "label" { }` is the same as `key { label { } }`, so it nests like a section.
            Some(next) if next == '"' || is_word_start(next) => {
                if depth >= MAX_DEPTH {
                    return Err(self.too_deep());
                }
                let mut object = Object {
                    items: Vec::new(),
                    from_label: true,
                };
                object.insert(self.item(depth.saturating_add(1))?);
                Value {
                    at: value_at,
                    kind: Kind::Object(object),
                }
            }
            Some(next) => return Err(self.unexpected(next, "`=`, `{` or a label after a key")),
            None => {
                return Err(self
                    .cursor
                    .wrong(format!("the file ends after the key \"{key}\"")));
            }
        };
        Ok(Item { key, at, value })
    }

    fn key(&mut self) -> Result<String, Finding> {
        match self.cursor.peek() {
            Some('"') => self.cursor.quoted(),
            Some(next) if is_word_start(next) => Ok(self.cursor.word()),
            Some(next) => Err(self.unexpected(next, "a key")),
            None => Err(self.cursor.wrong("the file ends where a key is expected")),
        }
    }

    fn after_sign(&mut self, depth: usize) -> Result<Value, Finding> {
        self.cursor.next();
        self.cursor.skip_blank()?;
        self.value(depth)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Finding> {
        let at = self.cursor.at();
        let kind = match self.cursor.peek() {
            Some('"') => Kind::String(self.cursor.quoted()?),
            Some('<') if self.cursor.sees("<<") => Kind::String(self.cursor.heredoc()?),
            Some('{' | '[') if depth >= MAX_DEPTH => return Err(self.too_deep()),
            Some('{') => self.object(depth.saturating_add(1))?,
            Some('[') => self.list(depth.saturating_add(1))?,
            Some(next) if next.is_ascii_digit() || matches!(next, '-' | '+' | '.') => {
                self.number()?
            }
            Some(next) if is_word_start(next) => self.literal()?,
            Some(next) => return Err(self.unexpected(next, "a value")),
            None => {
                return Err(self.cursor.wrong("the file ends where a value is expected"));
            }
        };
        Ok(Value { at, kind })
    }

    fn object(&mut self, depth: usize) -> Result<Kind, Finding> {
        // Made here, so that it has the position of the opening brace and not that of the end of the file.
        let unclosed = self
            .cursor
            .wrong("this section is not closed: `}` is missing");
        self.cursor.next();
        let object = self.items(depth)?;
        if self.cursor.take('}') {
            Ok(Kind::Object(object))
        } else {
            Err(unclosed)
        }
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Finding> {
        let unclosed = self.cursor.wrong("this list is not closed: `]` is missing");
        self.cursor.next();
        let mut values = Vec::new();
        loop {
            self.cursor.skip_blank()?;
            match self.cursor.peek() {
                None => return Err(unclosed),
                Some(']') => {
                    self.cursor.next();
                    return Ok(Kind::List(values));
                }
                Some(_) => values.push(self.value(depth)?),
            }
            self.cursor.skip_blank()?;
            match self.cursor.peek() {
                None => return Err(unclosed),
                Some(',') => {
                    self.cursor.next();
                }
                Some(']') => {}
                Some(next) => return Err(self.unexpected(next, "`,` or `]` in a list")),
            }
        }
    }

    fn number(&mut self) -> Result<Kind, Finding> {
        // `f64` also parses `.5`, `inf` and `nan`, which HCL 1 does not: hence the check of the first digit.
        let malformed = self
            .cursor
            .wrong("this is not a number; a string is written in quotes");
        let number = self
            .cursor
            .take_while(|next| next.is_ascii_alphanumeric() || matches!(next, '-' | '+' | '.'));
        let digits = number.trim_start_matches(['-', '+']);
        let hexadecimal = digits
            .strip_prefix("0x")
            .or_else(|| digits.strip_prefix("0X"));
        let sound = match hexadecimal {
            Some(digits) => {
                !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit())
            }
            None => {
                number.parse::<f64>().is_ok()
                    && digits.starts_with(|digit: char| digit.is_ascii_digit())
            }
        };
        if sound {
            Ok(Kind::Number(number))
        } else {
            Err(malformed)
        }
    }

    fn literal(&mut self) -> Result<Kind, Finding> {
        let unknown = self
            .cursor
            .wrong("a value is a string in quotes, a number, true, false, a list or a section");
        match self.cursor.word().as_str() {
            "true" => Ok(Kind::Bool(true)),
            "false" => Ok(Kind::Bool(false)),
            _ => Err(unknown),
        }
    }

    fn too_deep(&self) -> Finding {
        self.cursor.wrong(format!(
            "sections and lists are nested deeper than the limit of {MAX_DEPTH}"
        ))
    }

    fn unexpected(&self, found: char, wanted: &str) -> Finding {
        self.cursor
            .wrong(format!("unexpected {found:?}: expected {wanted}"))
    }
}

fn is_word_start(next: char) -> bool {
    next.is_alphabetic() || next == '_'
}
