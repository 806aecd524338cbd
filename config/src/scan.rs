//! A cursor over the text and the tokens of HCL 1 that are longer than one character.

use std::str::Chars;

use crate::error::{Finding, Position};

/// Walks over the text and knows where it is.
pub(crate) struct Cursor<'a> {
    rest: Chars<'a>,
    at: Position,
}

impl<'a> Cursor<'a> {
    /// Starts at the first character; a byte-order mark before it is passed over.
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            rest: text.strip_prefix('\u{feff}').unwrap_or(text).chars(),
            at: Position::START,
        }
    }

    pub(crate) fn at(&self) -> Position {
        self.at
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Whether the text goes on with this.
    pub(crate) fn sees(&self, text: &str) -> bool {
        self.rest.as_str().starts_with(text)
    }

    pub(crate) fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next == '\n' {
            self.at.line = self.at.line.saturating_add(1);
            self.at.column = 1;
        } else {
            self.at.column = self.at.column.saturating_add(1);
        }
        Some(next)
    }

    /// Takes the character if it is this one.
    pub(crate) fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    /// Takes characters as long as they belong.
    pub(crate) fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(next) = self.peek().filter(|next| belongs(*next)) {
            taken.push(next);
            self.next();
        }
        taken
    }

    pub(crate) fn wrong(&self, message: impl Into<String>) -> Finding {
        Finding {
            at: self.at,
            message: message.into(),
        }
    }

    /// Passes over white space and comments: `#`, `//` and `/* */`.
    pub(crate) fn skip_blank(&mut self) -> Result<(), Finding> {
        loop {
            self.take_while(char::is_whitespace);
            if self.sees("#") || self.sees("//") {
                self.take_while(|next| next != '\n');
            } else if self.sees("/*") {
                self.skip_block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), Finding> {
        let unclosed = self.wrong("this comment is not closed: `*/` is missing");
        self.next();
        self.next();
        while !self.sees("*/") {
            if self.next().is_none() {
                return Err(unclosed);
            }
        }
        self.next();
        self.next();
        Ok(())
    }

    /// A bare word: letters, digits, `_`, `-` and `.`, beginning with a letter or `_`.
    pub(crate) fn word(&mut self) -> String {
        self.take_while(|next| next.is_alphanumeric() || matches!(next, '_' | '-' | '.'))
    }

    /// A quoted string, escapes resolved. `${...}` is kept as it is: nothing is interpolated.
    pub(crate) fn quoted(&mut self) -> Result<String, Finding> {
        let unclosed = self.wrong("this string is not closed on its line: `\"` is missing");
        self.next();
        let mut text = String::new();
        let mut braces = 0_usize;
        loop {
            if braces == 0 && self.sees("${") {
                braces = 1;
                text.push_str("${");
                self.next();
                self.next();
                continue;
            }
            let at = self.wrong("");
            match self.next() {
                None => return Err(unclosed),
                Some('\n') if braces == 0 => return Err(unclosed),
                Some('"') if braces == 0 => return Ok(text),
                Some('\\') if braces == 0 => text.push(self.escape(at.at)?),
                Some(next) => {
                    braces = match next {
                        '{' if braces > 0 => braces.saturating_add(1),
                        '}' => braces.saturating_sub(1),
                        _ => braces,
                    };
                    text.push(next);
                }
            }
        }
    }

    fn escape(&mut self, at: Position) -> Result<char, Finding> {
        let resolved = match self.next() {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some('a') => Some('\u{7}'),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('v') => Some('\u{b}'),
            Some(same @ ('"' | '\\' | '/')) => Some(same),
            Some('x') => self.code(2),
            Some('u') => self.code(4),
            Some('U') => self.code(8),
            _ => None,
        };
        resolved.ok_or_else(|| Finding {
            at,
            message: "this escape in a string is unknown: a backslash itself is written `\\\\`"
                .into(),
        })
    }

    fn code(&mut self, digits: usize) -> Option<char> {
        let mut code = 0_u32;
        for _ in 0..digits {
            let digit = self.peek()?.to_digit(16)?;
            self.next();
            code = code.checked_mul(16)?.checked_add(digit)?;
        }
        char::from_u32(code)
    }

    /// A heredoc, `<<EOF` or `<<-EOF`: the lines up to the one that holds only the marker. The second form takes the
    /// marker's indentation off each line.
    pub(crate) fn heredoc(&mut self) -> Result<String, Finding> {
        let unclosed =
            self.wrong("this heredoc is not closed: a line with only its marker is missing");
        self.next();
        self.next();
        let indented = self.take('-');
        let marker = self.word();
        self.take('\r');
        if marker.is_empty() || !self.take('\n') {
            return Err(self.wrong("a heredoc starts with `<<MARKER` at the end of its line"));
        }
        let mut lines: Vec<String> = Vec::new();
        loop {
            let line = self.take_while(|next| next != '\n');
            if line.trim() == marker {
                let indent = line.len().saturating_sub(line.trim_start().len());
                return Ok(unindent(&lines, if indented { indent } else { 0 }));
            }
            lines.push(line);
            if self.next().is_none() {
                return Err(unclosed);
            }
        }
    }
}

/// Joins lines, each without its first `indent` bytes of white space.
fn unindent(lines: &[String], indent: usize) -> String {
    let mut text = String::new();
    for line in lines {
        let blank = line.len().saturating_sub(line.trim_start().len());
        text.push_str(line.get(indent.min(blank)..).unwrap_or(line));
        text.push('\n');
    }
    text
}
