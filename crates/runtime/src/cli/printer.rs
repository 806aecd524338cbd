//! The one way in which command lines print.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::{Exit, Table};
use crate::error::Chain;

/// Prints results to standard output and errors to standard error.
///
/// A reader that went away (`… | head`) is no fault: what comes after is dropped. Any other fault of standard output makes
/// [`Printer::exit`] a failure.
pub struct Printer {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    colours: Colours,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    ReaderGone,
    Failed,
}

/// What a piece of text means; shown as a colour on terminals and not at all elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Went as it should.
    Good,
    /// Went wrong.
    Bad,
    /// Wants attention.
    Notice,
    /// Names and headings.
    Strong,
    /// Identities and other values that stand out.
    Accent,
    /// Of less weight.
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
        let colours = if wanted && io::stdout().is_terminal() {
            Colours::On
        } else {
            Colours::Off
        };
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            colours,
            state: State::Open,
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
                colours: Colours::Off,
                state: State::Open,
            },
            captured,
        )
    }

    /// Whether styles show.
    #[must_use]
    pub fn has_colours(&self) -> bool {
        self.colours == Colours::On
    }

    /// `text`, in a style where styles show.
    #[must_use]
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        match self.colours {
            Colours::On => format!("\x1b[{}m{text}\x1b[0m", style.code()),
            Colours::Off => text.to_string(),
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
                self.state = State::Failed;
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
        // Standard error is where faults go; there is no further place for its own.
        drop(self.err.write_all(text.as_bytes()));
    }

    fn write(&mut self, text: &str) {
        if self.state == State::Open
            && let Err(error) = self
                .out
                .write_all(text.as_bytes())
                .and_then(|()| self.out.flush())
        {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.state = State::ReaderGone;
        } else {
            self.state = State::Failed;
            self.error_text(&format!(
                "Error: cannot write to standard output: {error}\n"
            ));
        }
    }

    /// The program's exit code: `exit`, or a failure if the result could not be printed.
    #[must_use]
    pub fn exit(&self, exit: Exit) -> ExitCode {
        match (exit, self.state) {
            (Exit::Success, State::Failed) => Exit::Failure.into(),
            (exit, _) => exit.into(),
        }
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
    fn results_and_errors_go_their_own_ways_and_styles_show_only_where_wanted() {
        let (mut printer, captured) = Printer::captured();
        printer.line(printer.paint(Style::Good, "done"));
        printer.json(&serde_json::json!({ "count": 1 }));
        printer.error(&io::Error::other("disk"));
        assert_eq!(captured.out(), "done\n{\n  \"count\": 1\n}\n");
        assert_eq!(captured.err(), "Error: disk\n");
        let colourful = Printer {
            colours: Colours::On,
            ..printer
        };
        assert_eq!(colourful.paint(Style::Bad, "no"), "\x1b[31mno\x1b[0m");
    }
}
