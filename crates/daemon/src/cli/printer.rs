//! Output of the command lines: nothing else prints.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::{Exit, Table};
use countersign_transport::error::Chain;

/// Prints results to standard output and errors to standard error.
///
/// A closed pipe (`… | head`) is not an error: further output is dropped. Any other error of standard output makes
/// [`Printer::exit`] a failure.
pub struct Printer {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    colours: bool,
    state: OutputState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputState {
    Open,
    ReaderGone,
    Failed,
}

/// The meaning of a piece of text, which terminals show as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Success.
    Good,
    /// Failure.
    Bad,
    /// Warning.
    Notice,
    /// Names and headings.
    Strong,
    /// Identities and other values that stand out.
    Accent,
    /// Less important.
    Faint,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Notice => "33",
            Self::Strong => "1",
            Self::Accent => "36",
            Self::Faint => "2",
        }
    }
}

impl Printer {
    /// To this process's standard output and standard error; colours only if the output is a terminal and `NO_COLOR` is
    /// not set.
    #[must_use]
    pub fn stdio() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            colours: wanted && io::stdout().is_terminal(),
            state: OutputState::Open,
        }
    }

    /// Into memory, for tests of commands.
    #[must_use]
    pub fn captured() -> (Self, Captured) {
        let captured = Captured::default();
        let (out, err) = (
            Box::new(captured.out.clone()),
            Box::new(captured.err.clone()),
        );
        (
            Self {
                out,
                err,
                colours: false,
                state: OutputState::Open,
            },
            captured,
        )
    }

    /// Whether styles show.
    #[must_use]
    pub fn has_colours(&self) -> bool {
        self.colours
    }

    /// `text`, in a style where styles show.
    #[must_use]
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        if self.colours {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_string()
        }
    }

    /// One line of the result.
    pub fn line(&mut self, text: impl Display) {
        self.write(&format!("{text}\n"));
    }

    /// Text of the result that has its own line ends.
    pub fn text(&mut self, text: &str) {
        self.write(text);
    }

    /// A table of the result.
    pub fn table(&mut self, table: &Table) {
        self.line(table);
    }

    /// The result as one JSON document.
    pub fn json(&mut self, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.line(text),
            Err(error) => {
                self.state = OutputState::Failed;
                self.error(&error);
            }
        }
    }

    /// An error with its causes, to standard error.
    pub fn error(&mut self, error: &(dyn Error + 'static)) {
        let text = format!("Error: {}\n", Chain(error));
        self.error_text(&text);
    }

    /// Text for people about what went wrong, with its own line ends, to standard error.
    pub fn error_text(&mut self, text: &str) {
        // An error of standard error itself can't be reported anywhere.
        drop(self.err.write_all(harmless(text).as_bytes()));
    }

    fn write(&mut self, text: &str) {
        if self.state == OutputState::Open
            && let Err(error) = self
                .out
                .write_all(harmless(text).as_bytes())
                .and_then(|()| self.out.flush())
        {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.state = OutputState::ReaderGone;
        } else {
            self.state = OutputState::Failed;
            self.error_text(&format!(
                "Error: cannot write to standard output: {error}\n"
            ));
        }
    }

    /// The program's exit code: `exit`, or a failure if the result could not be printed.
    #[must_use]
    pub fn exit(&self, exit: Exit) -> ExitCode {
        match (exit, self.state) {
            (Exit::Success, OutputState::Failed) => Exit::Failure.into(),
            (exit, _) => exit.into(),
        }
    }
}

/// The text without terminal control sequences, since much of it is foreign input, such as the version that a node
/// agent reports. Line ends, tabs and our own styles stay.
fn harmless(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let style = style_length(rest);
        let taken = rest.get(..style).filter(|style| !style.is_empty());
        match taken {
            Some(style) => plain.push_str(style),
            None if acts(c) => plain.extend(c.escape_default()),
            None => plain.push(c),
        }
        let length = if taken.is_some() { style } else { c.len_utf8() };
        rest = rest.get(length..).unwrap_or_default();
    }
    Cow::Owned(plain)
}

/// Length of the style sequence at the start of the text, as [`Printer::paint`] writes it; 0 if there is none.
fn style_length(text: &str) -> usize {
    let Some(code) = text.strip_prefix("\x1b[") else {
        return 0;
    };
    match code.find(|c: char| !c.is_ascii_digit()) {
        Some(end) if code.get(end..).is_some_and(|rest| rest.starts_with('m')) => end + 3,
        _ => 0,
    }
}

/// What a captured printer has printed so far.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    out: Memory,
    err: Memory,
}

impl Captured {
    /// To standard output.
    #[must_use]
    pub fn out(&self) -> String {
        self.out.text()
    }

    /// To standard error.
    #[must_use]
    pub fn err(&self) -> String {
        self.err.text()
    }
}

#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printer_that_fails(kind: io::ErrorKind) -> (Printer, Captured) {
        let (printer, captured) = Printer::captured();
        (
            Printer {
                out: Box::new(Fails(kind)),
                ..printer
            },
            captured,
        )
    }

    #[test]
    fn what_others_say_does_nothing_to_the_terminal() {
        let hostile = "v\x1b]0;title\x07\x1b[2J\r\u{9b}31m\x08";
        let shown = harmless(hostile);
        assert!(!shown.chars().any(char::is_control), "{shown}");
        assert!(shown.starts_with("v\\u{1b}]0;title"), "{shown}");
        let ours = "a\tb\n\x1b[32mgood\x1b[0m ü\n";
        assert_eq!(harmless(ours), ours);
        assert_eq!(harmless(&format!("{ours}\r")), format!("{ours}\\r"));
    }

    #[test]
    fn a_reader_that_went_away_is_no_fault() {
        let (mut printer, captured) = printer_that_fails(io::ErrorKind::BrokenPipe);
        printer.line("one");
        printer.line("two");
        assert_eq!(
            (printer.exit(Exit::Success), captured.err().as_str()),
            (ExitCode::SUCCESS, "")
        );
    }

    #[test]
    fn a_full_disk_is_one_and_is_said_once() {
        let (mut printer, captured) = printer_that_fails(io::ErrorKind::StorageFull);
        printer.line("one");
        printer.line("two");
        assert_eq!(printer.exit(Exit::Success), ExitCode::FAILURE);
        assert_eq!(captured.err().lines().count(), 1);
    }

    #[test]
    fn results_and_errors_are_separate_and_styles_need_colours() {
        let (mut printer, captured) = Printer::captured();
        printer.line(printer.paint(Style::Good, "done"));
        printer.json(&serde_json::json!({ "count": 1 }));
        printer.error(&io::Error::other("disk"));
        assert_eq!(captured.out(), "done\n{\n  \"count\": 1\n}\n");
        assert_eq!(captured.err(), "Error: disk\n");
        let colourful = Printer {
            colours: true,
            ..printer
        };
        assert_eq!(colourful.paint(Style::Bad, "no"), "\x1b[31mno\x1b[0m");
    }
}
