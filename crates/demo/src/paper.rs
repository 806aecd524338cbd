//! What the audience reads: numbered scenes, aligned, in colours on a terminal and plain otherwise.

use countersign_daemon::cli::{Printer, Style, Table};

use crate::event::{By, Client, Handling, Made, Outcome, Svid};
use crate::script::Name;
use crate::verdict::{Check, Verdict, chain, short};

/// The longest line of running text, in characters.
const WIDTH: usize = 98;
const INDENT: &str = "   ";
/// The columns of a call: the chain, and the action.
const CHAIN: usize = 42;
const ACTION: usize = 16;
/// How many digits of a serial number are shown.
const SERIAL: usize = 12;

/// Prints the show.
pub(crate) struct Paper {
    printer: Printer,
    scene: u8,
}

impl Paper {
    pub(crate) const fn new(printer: Printer) -> Self {
        Self { printer, scene: 0 }
    }

    /// The headline of the whole.
    pub(crate) fn title(&mut self, text: &str) {
        let text = self.printer.paint(Style::Strong, text);
        self.printer.line(text);
    }

    /// The headline of the next scene.
    pub(crate) fn scene(&mut self, title: &str) {
        self.scene += 1;
        let title = self
            .printer
            .paint(Style::Strong, format_args!("{}  {title}", self.scene));
        self.printer.line("");
        self.printer.line(title);
    }

    /// A sentence that explains.
    pub(crate) fn say(&mut self, text: &str) {
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
        let words = with_values(program, args);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let lines = wrap_words(&words, WIDTH - INDENT.len() - 6);
        let last = lines.len().saturating_sub(1);
        for (index, line) in lines.iter().enumerate() {
            let start = if index == 0 { "$ " } else { "      " };
            let end = if index == last { "" } else { " \\" };
            let text = self
                .printer
                .paint(Style::Accent, format_args!("{start}{line}{end}"));
            self.printer.line(format_args!("{INDENT}{text}"));
        }
    }

    /// What a command printed.
    pub(crate) fn output(&mut self, text: &str) {
        for line in text.lines() {
            self.printer.line(format_args!("{INDENT}  {line}"));
        }
    }

    /// One long line that a command printed.
    pub(crate) fn long_output(&mut self, text: &str) {
        let words: Vec<_> = text.split_whitespace().collect();
        for line in wrap_words(&words, WIDTH - INDENT.len() - 2) {
            self.printer.line(format_args!("{INDENT}  {line}"));
        }
    }

    /// A first SVID.
    pub(crate) fn joined(&mut self, svid: &Svid, now: u64) {
        let id = self
            .printer
            .paint(Style::Accent, format_args!("{:<32}", svid.id));
        let left = svid.not_after.saturating_sub(now);
        let text = format!(
            "serial {}  valid until {} ({} from now)",
            serial(&svid.serial),
            clock_time(svid.not_after),
            span(left)
        );
        self.printer.line(format_args!("{INDENT}{id} {text}"));
    }

    /// An SVID that follows another.
    pub(crate) fn rotated(&mut self, name: Name, before: &Svid, after: &Svid) {
        let text = self.printer.paint(
            Style::Accent,
            format_args!(
                "{:<9} {} → {}",
                name.as_str(),
                serial(&before.serial),
                serial(&after.serial)
            ),
        );
        self.printer.line(format_args!(
            "{INDENT}{text}  valid until {}",
            clock_time(after.not_after)
        ));
    }

    /// A call that was permitted.
    pub(crate) fn handling(&mut self, call: &Handling) {
        let text = format!(
            "hop {} of {}, {} calls left",
            call.hop, call.max_hops, call.remaining
        );
        self.call(&chain(&call.members), &call.action, Style::Good, &text);
    }

    /// A call as its caller saw it, with the reason if it was refused.
    pub(crate) fn made(&mut self, call: &Made) {
        let arrow = match call.client {
            Client::Library => "→",
            Client::HandMade => "⇒",
        };
        let who = format!("{} {arrow} {}", chain(&call.members), short(&call.callee));
        match &call.outcome {
            Outcome::Answered => self.call(&who, &call.action, Style::Good, "served"),
            Outcome::Failed { why } => {
                self.call(&who, &call.action, Style::Bad, &format!("FAILED: {why}"));
            }
            Outcome::Refused {
                reason,
                by,
                sentence,
            } => {
                self.call(&who, &call.action, Style::Bad, &format!("REFUSED {reason}"));
                let by = match by {
                    By::Caller => format!(
                        "by the {}'s own library, before anything was sent",
                        call.members.last().map_or("caller", |id| short(id))
                    ),
                    By::Callee => format!("by the {}", short(&call.callee)),
                };
                self.wrapped(&format!("{by}: \"{sentence}\""), "      ", Style::Faint);
            }
        }
    }

    fn call(&mut self, who: &str, action: &str, style: Style, text: &str) {
        let text = self.printer.paint(style, text);
        self.printer
            .line(format_args!("{INDENT}{who:<CHAIN$}{action:<ACTION$}{text}"));
    }

    /// A result in one line.
    pub(crate) fn result(&mut self, verdict: Verdict, text: &str) {
        let style = match verdict {
            Verdict::Ok => Style::Good,
            Verdict::Failed => Style::Bad,
        };
        let text = self.printer.paint(style, text);
        self.printer.line(format_args!("{INDENT}{text}"));
    }

    /// The table at the end.
    pub(crate) fn summary(&mut self, checks: &[Check]) {
        let mut table = Table::new(["What", "Expected", "Seen", ""]);
        for check in checks {
            table.row([
                check.what,
                &check.expected,
                &check.seen,
                mark(check.verdict),
            ]);
        }
        self.printer.line("");
        for line in table.to_string().lines() {
            let marks = [(Verdict::Ok, Style::Good), (Verdict::Failed, Style::Bad)];
            let found = marks.into_iter().find_map(|(verdict, style)| {
                line.strip_suffix(mark(verdict))
                    .map(|rest| format!("{rest}{}", self.printer.paint(style, mark(verdict))))
            });
            self.printer.line(found.as_deref().unwrap_or(line));
        }
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, text: &str) {
        self.printer.line(text);
    }

    /// Why the show could not go on, and the end of every log.
    pub(crate) fn failure(&mut self, error: &anyhow::Error, logs: &[(String, Vec<String>)]) {
        let text = self
            .printer
            .paint(Style::Bad, format_args!("The demo failed: {error:#}"));
        self.printer.line("");
        self.printer.line(text);
        for (name, lines) in logs {
            let name = self
                .printer
                .paint(Style::Strong, format_args!("the end of {name}.log"));
            self.printer.line(name);
            self.output(&lines.join("\n"));
        }
    }

    /// The printer, for the exit code.
    pub(crate) const fn printer(&self) -> &Printer {
        &self.printer
    }

    fn wrapped(&mut self, text: &str, indent: &str, style: Style) {
        let words: Vec<_> = text.split_whitespace().collect();
        for line in wrap_words(&words, WIDTH - indent.len()) {
            let line = self.printer.paint(style, line);
            self.printer.line(format_args!("{indent}{line}"));
        }
    }
}

const fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Failed => "FAILED",
    }
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

/// A span of seconds, in minutes from two on.
fn span(seconds: u64) -> String {
    if seconds < 120 {
        format!("{seconds} s")
    } else {
        format!("{} min", seconds / 60)
    }
}

/// The words of a command, each flag together with its value.
fn with_values(program: &str, args: &[&str]) -> Vec<String> {
    let mut words = vec![program.to_owned()];
    let mut flag_before = false;
    for arg in args {
        let is_flag = arg.starts_with('-');
        match words.last_mut() {
            Some(flag) if flag_before && !is_flag => {
                flag.push(' ');
                flag.push_str(arg);
            }
            _ => words.push((*arg).to_owned()),
        }
        flag_before = is_flag;
    }
    words
}

/// Lines of at most `width` characters, unless a single word is longer.
fn wrap_words(words: &[&str], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push((*word).to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words_only() {
        let words = ["one", "two", "three", "a-word-that-is-too-long", "x"];
        assert_eq!(
            wrap_words(&words, 9),
            ["one two", "three", "a-word-that-is-too-long", "x"]
        );
        assert!(wrap_words(&[], 9).is_empty());
    }

    #[test]
    fn a_flag_stays_with_its_value() {
        let words = with_values(
            "x server",
            &["entry", "show", "-id", "a", "-admin", "-ttl", "5"],
        );
        assert_eq!(
            words,
            ["x server", "entry", "show", "-id a", "-admin", "-ttl 5"]
        );
    }

    #[test]
    fn times_serials_and_spans_are_short() {
        assert_eq!(
            (clock_time(47_109), clock_time(86_400)),
            ("13:05:09Z".to_owned(), "00:00:00Z".to_owned())
        );
        assert_eq!(
            (serial("12"), serial("1234567890123")),
            ("12".to_owned(), "123456789012…".to_owned())
        );
        assert_eq!(
            (span(20), span(3600)),
            ("20 s".to_owned(), "60 min".to_owned())
        );
    }

    #[test]
    fn a_refusal_shows_chain_action_reason_who_refused_and_the_sentence() {
        let (printer, captured) = Printer::captured();
        let refused = Outcome::Refused {
            reason: "cycle_detected".into(),
            by: By::Caller,
            sentence: "A loop.".into(),
        };
        Paper::new(printer).made(&Made {
            members: Name::ALL[..3].iter().map(|name| name.id()).collect(),
            callee: Name::Planner.id(),
            action: "POST /findings".into(),
            client: Client::Library,
            outcome: refused,
        });
        let want = "   planner → coder → reviewer → planner      POST /findings  REFUSED cycle_detected\n      \
                    by the reviewer's own library, before anything was sent: \"A loop.\"\n";
        assert_eq!(captured.out(), want);
    }

    #[test]
    fn the_summary_aligns_and_marks_every_check() {
        let (printer, captured) = Printer::captured();
        let check = |what, verdict| Check {
            what,
            expected: "a".into(),
            seen: "b".into(),
            verdict,
        };
        Paper::new(printer).summary(&[
            check("one", Verdict::Ok),
            check("the other", Verdict::Failed),
        ]);
        let out = captured.out();
        let lines: Vec<_> = out.lines().map(str::trim_end).collect();
        assert_eq!(
            lines[1..],
            [
                "What       Expected  Seen",
                "one        a         b     ok",
                "the other  a         b     FAILED"
            ]
        );
    }
}
