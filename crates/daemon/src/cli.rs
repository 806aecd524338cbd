//! What the command lines of the daemons share: SPIRE's way of writing flags, one way to print, exit codes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

mod launch;
mod printer;
mod table;

pub use launch::{Launch, LaunchError, refuse, validated};
pub use printer::{Captured, Printer, Style};
pub use table::Table;

/// How a command prints its result: SPIRE's `-output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Pretty,
    /// One JSON document.
    Json,
}

/// `-output pretty|json`, to be flattened into a command's arguments.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputFlag {
    /// Desired output format
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Success = 0,
    /// Any failure without a code of its own. Wrong flags too, as in SPIRE.
    Failure = 1,
    /// The configuration is invalid; nothing was started. `EX_USAGE` of `sysexits.h`.
    Configuration = 64,
    /// A critical task of a daemon stopped. `EX_SOFTWARE` of `sysexits.h`.
    Software = 70,
    /// There is no such verb, or none was named.
    NoVerb = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Turns `-name` and `-name=value`, as SPIRE's users write long flags, into clap's `--name` and `--name=value`.
///
/// The program's name, a single dash, single letters (`-h`), numbers (`-1`) and everything after a `--` are left alone.
/// A value that begins with a dash and a letter has to be written as `-flag=-value`, since it would look like a flag.
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut flags_may_follow = true;
    let mut normalised = Vec::new();
    for (index, arg) in args.into_iter().enumerate() {
        flags_may_follow &= arg != "--";
        let long = index > 0 && flags_may_follow && is_single_dash_long(&arg);
        normalised.push(if long {
            let mut double = OsString::from("-");
            double.push(arg);
            double
        } else {
            arg
        });
    }
    normalised
}

fn is_single_dash_long(arg: &OsString) -> bool {
    match arg.as_encoded_bytes() {
        [b'-', first, second, ..] => first.is_ascii_alphabetic() && *second != b'=',
        _ => false,
    }
}

/// Reads the command line of a program.
///
/// # Errors
/// The code to exit with. Either help or the version was requested and has been printed, or the flags were wrong and the
/// error has been printed.
pub fn parse<C: clap::Parser>(
    args: impl IntoIterator<Item = OsString>,
    printer: &mut Printer,
) -> Result<C, ExitCode> {
    let (args, command) = (normalise(args), with_switches(C::command()));
    let verb = args.get(1).and_then(|arg| arg.to_str());
    let has_verb = verb.is_some_and(|verb| command.find_subcommand(verb).is_some());
    let matches = command.try_get_matches_from(args);
    let parsed = matches.and_then(|matches| C::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // 127 only if the first verb is missing or unknown, as in SPIRE; a wrong second one (`entry shwo`) is 1.
        let no_verb = !has_verb
            && matches!(
                error.kind(),
                ErrorKind::InvalidSubcommand
                    | ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            );
        let styled = error.render();
        let text = if printer.has_colours() {
            styled.ansi().to_string()
        } else {
            styled.to_string()
        };
        if error.use_stderr() {
            printer.error_text(&text);
            if no_verb { Exit::NoVerb } else { Exit::Failure }.into()
        } else {
            printer.text(&text);
            Exit::Success.into()
        }
    })
}

/// Reads the command line of a program and runs what it asks for.
pub fn execute<C: clap::Parser>(
    args: impl IntoIterator<Item = OsString>,
    printer: &mut Printer,
    run: impl FnOnce(C, &mut Printer) -> ExitCode,
) -> ExitCode {
    match parse(args, printer) {
        Ok(arguments) => run(arguments, printer),
        Err(code) => code,
    }
}

/// Lets a boolean flag also be written as `-flag=true` and `-flag=false`, as in SPIRE.
fn with_switches(command: clap::Command) -> clap::Command {
    let switch = |arg: clap::Arg| {
        if !matches!(arg.get_action(), clap::ArgAction::SetTrue) {
            return arg;
        }
        arg.action(clap::ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("BOOL")
            .value_parser(clap::value_parser!(bool))
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true)
    };
    command.mut_args(switch).mut_subcommands(with_switches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(args: &[&str]) -> Vec<String> {
        let args = normalise(args.iter().map(OsString::from));
        args.into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn long_flags_with_one_dash_get_a_second_one() {
        let given = [
            "-server",
            "entry",
            "create",
            "-spiffeID",
            "spiffe://td/a",
            "-admin=false",
            "--ttl",
            "60",
        ];
        let want = [
            "-server",
            "entry",
            "create",
            "--spiffeID",
            "spiffe://td/a",
            "--admin=false",
            "--ttl",
            "60",
        ];
        assert_eq!(normalised(&given), want);
    }

    #[test]
    fn short_flags_and_words_after_two_dashes_stay_as_given() {
        let given = ["x", "-h", "-", "-5", "-é", "--", "-name", "--", "-other=1"];
        assert_eq!(normalised(&given), given);
        assert_eq!(normalised(&["x", "-help"]), ["x", "--help"]);
    }

    #[derive(Debug, clap::Parser)]
    #[command(name = "program", version)]
    struct Arguments {
        #[arg(long = "socketPath", default_value = "/tmp/api.sock")]
        socket_path: String,
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        output: OutputFlag,
    }

    fn parsed(args: &[&str]) -> (Result<Arguments, ExitCode>, Captured) {
        let (mut printer, captured) = Printer::captured();
        (
            parse(args.iter().map(OsString::from), &mut printer),
            captured,
        )
    }

    #[test]
    fn flags_are_read_as_spire_writes_them() {
        let (arguments, _) = parsed(&["program", "-socketPath", "/s", "-output", "json"]);
        let arguments = arguments.unwrap();
        assert_eq!(
            (arguments.socket_path.as_str(), arguments.output.output),
            ("/s", Output::Json)
        );
    }

    #[test]
    fn a_flag_without_a_value_can_have_one() {
        for (given, admin) in [
            (&["program"][..], false),
            (&["program", "-admin"], true),
            (&["program", "-admin=true"], true),
            (&["program", "-admin=false"], false),
            (&["program", "-admin", "-output", "json"], true),
        ] {
            assert_eq!(parsed(given).0.unwrap().admin, admin, "{given:?}");
        }
        assert!(parsed(&["program", "-admin=perhaps"]).0.is_err());
    }

    #[test]
    fn help_is_no_failure_and_a_wrong_flag_is_one() {
        for help in ["-h", "-help", "--help"] {
            let (result, captured) = parsed(&["program", help]);
            assert_eq!(result.unwrap_err(), ExitCode::SUCCESS);
            assert!(
                captured.out().contains("--socketPath") && captured.err().is_empty(),
                "{}",
                captured.out()
            );
        }
        let (result, captured) = parsed(&["program", "-socketpath", "x"]);
        assert_eq!(result.unwrap_err(), ExitCode::FAILURE);
        assert!(
            captured.err().contains("--socketPath") && captured.out().is_empty(),
            "{}",
            captured.err()
        );
    }

    #[derive(Debug, clap::Parser)]
    enum Verbs {
        #[command(subcommand)]
        Entry(Entry),
    }

    #[derive(Debug, clap::Subcommand)]
    enum Entry {
        Show,
    }

    #[test]
    fn an_unknown_verb_gets_a_near_one_and_exit_code_127() {
        let exit = |args: &[&str]| {
            let (mut printer, captured) = Printer::captured();
            let args = std::iter::once("program").chain(args.iter().copied());
            let parsed: Result<Verbs, _> = parse(args.map(OsString::from), &mut printer);
            (parsed.unwrap_err(), captured.err())
        };
        let (code, told) = exit(&["entyr", "show"]);
        assert_eq!(code, ExitCode::from(127));
        assert!(told.contains("'entry'"), "{told}");
        assert_eq!(exit(&[]).0, ExitCode::from(127));

        let (code, told) = exit(&["entry", "shwo"]);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(told.contains("'show'"), "{told}");
        assert_eq!(exit(&["entry"]).0, ExitCode::FAILURE);
    }
}
