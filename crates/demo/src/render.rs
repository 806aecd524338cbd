//! What people read: numbered scenes, aligned, in colours on a terminal and plain otherwise.

use countersign_daemon::cli::{Printer, Style, Table};

use crate::checks::Check;
use crate::protocol::{Called, Client, Handling, Outcome, RefusedBy, Svid, path, short};
use crate::script::Name;

/// The longest line of running text, in characters.
const WIDTH: usize = 98;
const INDENT: &str = "   ";
/// The columns of a call: the chain, and the action.
const CHAIN: usize = 42;
const ACTION: usize = 16;
/// How many digits of a serial number are shown.
const SERIAL: usize = 12;

/// Prints the show.
pub(crate) struct Renderer {
    printer: Printer,
    scene: u8,
}

impl Renderer {
    pub(crate) const fn new(printer: Printer) -> Self {
        Self { printer, scene: 0 }
    }

    /// The headline of the whole.
    pub(crate) fn title(&mut self, text: &str) {
        self.styled("", Style::Strong, text);
    }

    /// The headline of the next scene.
    pub(crate) fn scene(&mut self, title: &str) {
        self.scene += 1;
        let title = format!("{}  {title}", self.scene);
        self.line("");
        self.styled("", Style::Strong, &title);
    }

    /// A sentence that explains.
    pub(crate) fn explain(&mut self, text: &str) {
        self.wrapped(text, INDENT, Style::Faint);
    }

    /// Something with a name and a value.
    pub(crate) fn fact(&mut self, name: &str, value: &str) {
        let name = self
            .printer
            .paint(Style::Strong, format_args!("{name:<11}"));
        self.printer.line(format_args!("{INDENT}{name} {value}"));
    }

    /// A command as it is run.
    pub(crate) fn command(&mut self, program: &str, args: &[&str]) {
        let command = format!("$ {program} {}", args.join(" "));
        let lines = wrap(&command, WIDTH - INDENT.len() - 8);
        for (index, line) in lines.iter().enumerate() {
            let indent = if index == 0 { "" } else { "      " };
            let end = if index + 1 == lines.len() { "" } else { " \\" };
            self.styled(INDENT, Style::Accent, &format!("{indent}{line}{end}"));
        }
    }

    /// What a command printed.
    pub(crate) fn output(&mut self, text: &str) {
        for line in text
            .lines()
            .flat_map(|line| wrap(line, WIDTH - INDENT.len() - 2))
        {
            self.printer.line(format_args!("{INDENT}  {line}"));
        }
    }

    /// A first SVID.
    pub(crate) fn joined(&mut self, svid: &Svid, now: u64) {
        let id = self
            .printer
            .paint(Style::Accent, format_args!("{:<32}", svid.id));
        let (serial, end) = (serial(&svid.serial), clock_time(svid.not_after));
        let left = svid.not_after.saturating_sub(now);
        self.printer.line(format_args!(
            "{INDENT}{id} serial {serial}  valid until {end} ({left} s from now)"
        ));
    }

    /// An SVID that replaces another.
    pub(crate) fn rotated(&mut self, name: Name, before: &Svid, after: &Svid) {
        let serials = format!("{} → {}", serial(&before.serial), serial(&after.serial));
        let text = format!("{:<9} {serials}", name.as_str());
        let text = self.printer.paint(Style::Accent, text);
        let end = clock_time(after.not_after);
        self.printer
            .line(format_args!("{INDENT}{text}  valid until {end}"));
    }

    /// A call that was permitted.
    pub(crate) fn handling(&mut self, call: &Handling) {
        let (hop, most, left) = (call.hop, call.max_hops, call.remaining);
        let text = format!("hop {hop} of {most}, {left} calls left");
        self.call(&path(&call.members), &call.action, Style::Good, &text);
    }

    /// A call as its caller saw it, with the reason if it was refused.
    pub(crate) fn called(&mut self, call: &Called) {
        let arrow = match call.client {
            Client::Library => "→",
            Client::HandMade => "⇒",
        };
        let members = format!("{} {arrow} {}", path(&call.members), short(&call.callee));
        let (style, text) = match &call.outcome {
            Outcome::Answered => (Style::Good, "served".to_owned()),
            Outcome::Failed { error } => (Style::Bad, format!("FAILED: {error}")),
            Outcome::Refused { reason, .. } => (Style::Bad, format!("REFUSED {reason}")),
        };
        self.call(&members, &call.action, style, &text);
        if let Outcome::Refused { by, sentence, .. } = &call.outcome {
            let caller = call.members.last().map_or("caller", |id| short(id));
            let by = match by {
                RefusedBy::Library => {
                    format!("by the {caller}'s own library, before anything was sent")
                }
                RefusedBy::Callee => format!("by the {}", short(&call.callee)),
            };
            self.wrapped(&format!("{by}: \"{sentence}\""), "      ", Style::Faint);
        }
    }

    fn call(&mut self, members: &str, action: &str, style: Style, text: &str) {
        let text = self.printer.paint(style, text);
        self.printer.line(format_args!(
            "{INDENT}{members:<CHAIN$}{action:<ACTION$}{text}"
        ));
    }

    /// A result in one line.
    pub(crate) fn result(&mut self, passed: bool, text: &str) {
        self.styled(INDENT, style(passed), text);
    }

    /// The table at the end, and the verdict.
    pub(crate) fn summary(&mut self, checks: &[Check]) {
        let mut table = Table::new(["What", "Expected", "Seen", ""]);
        for check in checks {
            let mark = if check.passed { "ok" } else { "FAILED" };
            table.row([check.what, &check.expected, &check.seen, mark]);
        }
        self.line("");
        self.line(&table.to_string());
        let failed = checks.iter().filter(|check| !check.passed).count();
        let all = checks.len();
        match failed {
            0 => self.result(true, "Everything happened as it should."),
            _ => self.result(
                false,
                &format!("{failed} of {all} did not happen as they should."),
            ),
        }
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, text: &str) {
        self.printer.line(text);
    }

    /// Why the show could not go on, and the end of every log.
    pub(crate) fn failure(&mut self, error: &anyhow::Error, logs: &[(String, String)]) {
        self.line("");
        self.styled("", Style::Bad, &format!("The demo failed: {error:#}"));
        for (name, tail) in logs {
            self.styled("", Style::Strong, &format!("the end of {name}"));
            self.output(tail);
        }
    }

    /// The printer, for the exit code.
    pub(crate) const fn printer(&self) -> &Printer {
        &self.printer
    }

    fn styled(&mut self, indent: &str, style: Style, text: &str) {
        let text = self.printer.paint(style, text);
        self.printer.line(format_args!("{indent}{text}"));
    }

    fn wrapped(&mut self, text: &str, indent: &str, style: Style) {
        for line in wrap(text, WIDTH - indent.len()) {
            self.styled(indent, style, &line);
        }
    }
}

const fn style(passed: bool) -> Style {
    if passed { Style::Good } else { Style::Bad }
}

/// The beginning of a serial number.
fn serial(decimal: &str) -> String {
    match decimal.get(..SERIAL) {
        Some(start) if decimal.len() > SERIAL => format!("{start}…"),
        _ => decimal.to_owned(),
    }
}

/// The time of day in UTC, such as `13:05:09Z`.
pub(crate) fn clock_time(unix: u64) -> String {
    let day = unix % 86_400;
    format!("{:02}:{:02}:{:02}Z", day / 3600, day / 60 % 60, day % 60)
}

/// Lines of at most `width` characters, unless a single word is longer.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words_only() {
        let lines = wrap("one two three a-word-that-is-too-long x", 9);
        assert_eq!(lines, ["one two", "three", "a-word-that-is-too-long", "x"]);
    }

    #[test]
    fn times_and_serials_are_short() {
        assert_eq!(clock_time(47_109), "13:05:09Z");
        assert_eq!(serial("1234567890123"), "123456789012…");
    }

    #[test]
    fn a_refusal_shows_chain_action_reason_and_who_refused() {
        let (printer, captured) = Printer::captured();
        Renderer::new(printer).called(&Called {
            members: Name::ALL[..3].iter().map(|name| name.id()).collect(),
            callee: Name::Planner.id(),
            action: "POST /findings".into(),
            client: Client::Library,
            outcome: Outcome::Refused {
                reason: "cycle_detected".into(),
                by: RefusedBy::Library,
                sentence: "A loop.".into(),
            },
        });
        let want = "   planner → coder → reviewer → planner      POST /findings  REFUSED cycle_detected\n      \
                    by the reviewer's own library, before anything was sent: \"A loop.\"\n";
        assert_eq!(captured.out(), want);
    }
}
