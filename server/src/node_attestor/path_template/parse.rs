//! The parser of templates.

use super::{Expression, Function, InvalidTemplate, MAX_TEMPLATE, Part, PathTemplate, ValueKind};

/// The deepest nesting of parentheses.
const MAX_DEPTH: usize = 16;

type Fields = fn(&[String]) -> Option<ValueKind>;

pub(super) fn template(text: &str, fields: Fields) -> Result<PathTemplate, InvalidTemplate> {
    if text.len() > MAX_TEMPLATE {
        return Err(InvalidTemplate {
            at: MAX_TEMPLATE,
            what: format!("a template may have {MAX_TEMPLATE} bytes at most"),
        });
    }
    let mut reader = Reader {
        text,
        rest: text,
        fields,
        depth: 0,
    };
    let mut parts = Vec::new();
    // `-}}` removes the white space after it.
    let mut trim = false;
    loop {
        let (before, more) = match reader.rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (reader.rest, None),
        };
        let before = if trim { before.trim_start() } else { before };
        let trimmed = more.and_then(|after| after.strip_prefix("- "));
        let before = if trimmed.is_some() {
            before.trim_end()
        } else {
            before
        };
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        let Some(after) = more else {
            return Ok(PathTemplate(parts));
        };
        reader.rest = trimmed.unwrap_or(after);
        let at = reader.at();
        let (expression, kind) = reader.pipeline()?;
        trim = reader.end()?;
        if !matches!(kind, ValueKind::Text | ValueKind::Number) {
            return Err(wrong(at, "this is a list or a map, and no text"));
        }
        parts.push(Part::Value(expression));
    }
}

fn wrong(at: usize, what: impl Into<String>) -> InvalidTemplate {
    InvalidTemplate {
        at,
        what: what.into(),
    }
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    fields: Fields,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// The position of the next character, counted from 1.
    fn at(&self) -> usize {
        let read = self.text.len() - self.rest.len();
        let read = self.text.get(..read).unwrap_or_default();
        read.chars().count() + 1
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The end of an expression; true if it removes the white space after it.
    fn end(&mut self) -> Result<bool, InvalidTemplate> {
        if self.take("-}}") {
            return Ok(true);
        }
        if self.take("}}") {
            return Ok(false);
        }
        Err(wrong(self.at(), "\"}}\" or \"|\" should stand here"))
    }

    /// Commands with `|` between them: the value of one is the last argument of the next.
    fn pipeline(&mut self) -> Result<(Expression, ValueKind), InvalidTemplate> {
        let mut value = self.command(None)?;
        while self.take("|") {
            value = self.command(Some(value))?;
        }
        Ok(value)
    }

    /// A function with its arguments, or a value alone.
    fn command(
        &mut self,
        piped: Option<(Expression, ValueKind)>,
    ) -> Result<(Expression, ValueKind), InvalidTemplate> {
        self.skip_space();
        let at = self.at();
        let name = if self.rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            self.word()
        } else {
            ""
        };
        if name.is_empty() {
            if piped.is_some() {
                return Err(wrong(at, "a function should stand here"));
            }
            return self
                .value()?
                .ok_or_else(|| wrong(at, "a value or a function should stand here"));
        }
        let mut arguments = Vec::new();
        while let Some(argument) = self.value()? {
            arguments.push(argument);
        }
        arguments.extend(piped);
        call(at, name, arguments)
    }

    /// A field, a text, a number, or a pipeline in parentheses; nothing if none of them stands here.
    fn value(&mut self) -> Result<Option<(Expression, ValueKind)>, InvalidTemplate> {
        self.skip_space();
        let at = self.at();
        match self.rest.chars().next() {
            Some('.') => self.field(at).map(Some),
            Some(quote @ ('"' | '`')) => {
                let text = self.quoted(quote, at)?;
                Ok(Some((Expression::Text(text), ValueKind::Text)))
            }
            Some(digit) if digit.is_ascii_digit() => {
                let number = self.word().parse();
                let number = number.map_err(|_| wrong(at, "this is no number"))?;
                Ok(Some((Expression::Number(number), ValueKind::Number)))
            }
            Some('(') => {
                if self.depth >= MAX_DEPTH {
                    return Err(wrong(
                        at,
                        format!("{MAX_DEPTH} parentheses at most stand within each other"),
                    ));
                }
                self.take("(");
                self.depth += 1;
                let value = self.pipeline()?;
                self.depth -= 1;
                if !self.take(")") {
                    return Err(wrong(self.at(), "\")\" should stand here"));
                }
                Ok(Some(value))
            }
            _ => Ok(None),
        }
    }

    fn field(&mut self, at: usize) -> Result<(Expression, ValueKind), InvalidTemplate> {
        let mut path = Vec::new();
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            path.push(self.word().to_owned());
        }
        let kind = (self.fields)(&path);
        let kind =
            kind.ok_or_else(|| wrong(at, format!("there is no field .{} here", path.join("."))))?;
        Ok((Expression::Field(path), kind))
    }

    fn quoted(&mut self, quote: char, at: usize) -> Result<String, InvalidTemplate> {
        let inner = self.rest.get(1..).unwrap_or_default();
        let (text, rest) = inner
            .split_once(quote)
            .ok_or_else(|| wrong(at, "this text has no end"))?;
        if quote == '"' && text.contains('\\') {
            return Err(wrong(at, "escapes are not known here: use backquotes"));
        }
        self.rest = rest;
        Ok(text.to_owned())
    }

    /// Letters, digits and underscores, possibly none.
    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
}

fn call(
    at: usize,
    name: &str,
    arguments: Vec<(Expression, ValueKind)>,
) -> Result<(Expression, ValueKind), InvalidTemplate> {
    let mut known = Function::ALL
        .iter()
        .filter(|(known, ..)| *known == name)
        .peekable();
    if known.peek().is_none() {
        let what = format!("the function {name:?} is not known here");
        return Err(wrong(at, what));
    }
    let (arguments, kinds): (Vec<_>, Vec<_>) = arguments.into_iter().unzip();
    let fits = known.find(|(_, _, wanted, _)| *wanted == kinds.as_slice());
    let (_, function, _, result) = fits.ok_or_else(|| {
        let what = format!("{name} does not take these arguments");
        wrong(at, what)
    })?;
    Ok((Expression::Call(*function, arguments), *result))
}
