//! SPIRE's configuration keys and command lines, and what becomes of each here: the files in `tests/inventory` say it,
//! and these tests hold them against the registries of keys and the commands, in both directions.
//!
//! A line is a name, a state and a note, with tabs between. The states: `supported`; `ignored`, which is taken and has
//! no effect; `not-yet` and `refused`, which are errors, the second for good; `ours`, which SPIRE does not have. All but
//! the first need a note that says why, or what for.

use std::collections::BTreeMap;
use std::fmt;

use countersign_config::{AGENT_KEYS, Key, PLUGIN_KEYS, Rule, SERVER_KEYS};

#[test]
fn the_inventory_of_the_servers_configuration_is_true() {
    let code = keys(SERVER_KEYS);
    hold(
        "server-config",
        include_str!("../inventory/server-config.tsv"),
        &code,
    );
}

#[test]
fn the_inventory_of_the_node_agents_configuration_is_true() {
    let code = keys(AGENT_KEYS);
    hold(
        "agent-config",
        include_str!("../inventory/agent-config.tsv"),
        &code,
    );
}

#[test]
fn the_inventory_of_the_servers_command_line_is_true() {
    let code = flags(&countersign_server::command());
    hold(
        "server-cli",
        include_str!("../inventory/server-cli.tsv"),
        &code,
    );
}

#[test]
fn the_inventory_of_the_node_agents_command_line_is_true() {
    let code = flags(&countersign_agent::command());
    hold(
        "agent-cli",
        include_str!("../inventory/agent-cli.tsv"),
        &code,
    );
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Supported,
    Ignored,
    NotYet,
    Refused,
    Ours,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Supported,
        Self::Ignored,
        Self::NotYet,
        Self::Refused,
        Self::Ours,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Ignored => "ignored",
            Self::NotYet => "not-yet",
            Self::Refused => "refused",
            Self::Ours => "ours",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the code does with a key or a flag.
struct Found {
    state: State,
    /// The reason that people are told, if there is one.
    reason: Option<&'static str>,
    /// What stands below a name that is not in the code itself: nothing may, if this is none.
    below: Option<State>,
}

/// Names with what the code does.
type Code = BTreeMap<String, Found>;

/// Every key below these, as `server.ratelimit.signing` and `plugins.KeyManager.disk.directory`.
fn keys(keys: &'static [Key]) -> Code {
    let mut code = Code::new();
    walk(keys, "", &mut code);
    walk(PLUGIN_KEYS, "plugins.*.*.", &mut code);
    code
}

fn walk(keys: &'static [Key], prefix: &str, code: &mut Code) {
    for key in keys {
        let name = format!("{prefix}{}", key.name);
        let (state, reason, below) = match key.rule {
            Rule::Section(inner)
            | Rule::Sections(inner)
            | Rule::Elements(inner)
            | Rule::Named(inner)
            | Rule::Plugins(inner) => {
                walk(inner, &format!("{name}."), code);
                (State::Supported, None, None)
            }
            Rule::Value => (State::Supported, None, Some(State::NotYet)),
            Rule::Ignored(reason) => (State::Ignored, Some(reason), Some(State::Ignored)),
            Rule::NotYet => (State::NotYet, None, Some(State::NotYet)),
            Rule::Refused(reason) => (State::Refused, Some(reason), Some(State::Refused)),
        };
        code.insert(
            name,
            Found {
                state,
                reason,
                below,
            },
        );
    }
}

/// Every verb and flag of a program, as `entry show` and `entry show -spiffeID`.
fn flags(program: &clap::Command) -> Code {
    let mut code = Code::new();
    program
        .get_subcommands()
        .for_each(|verb| verbs(verb, "", &mut code));
    code
}

fn verbs(verb: &clap::Command, prefix: &str, code: &mut Code) {
    let name = format!("{prefix}{}", verb.get_name());
    let inner: Vec<_> = verb.get_subcommands().collect();
    for verb in &inner {
        verbs(verb, &format!("{name} "), code);
    }
    let flags: Vec<_> = verb
        .get_arguments()
        .filter_map(|arg| Some((arg, arg.get_long()?)))
        .collect();
    for (arg, flag) in &flags {
        // A flag that only SPIRE's scripts write does not stand in the help.
        let state = if arg.is_hide_set() {
            State::Ignored
        } else {
            State::Supported
        };
        code.insert(
            format!("{name} -{flag}"),
            Found {
                state,
                reason: None,
                below: None,
            },
        );
    }
    if inner.is_empty() || !flags.is_empty() {
        code.insert(
            name,
            Found {
                state: State::Supported,
                reason: None,
                below: None,
            },
        );
    }
}

/// The lines of a file: names with their states and notes.
#[expect(clippy::panic, reason = "it is a part of each test here")]
fn rows(file: &str) -> BTreeMap<&str, (State, &str)> {
    let lines = file
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut rows = BTreeMap::new();
    for line in lines {
        let mut cells = line.split('\t');
        let name = cells.next().unwrap_or_default();
        let state = cells.next().unwrap_or_default();
        let state = State::ALL.into_iter().find(|known| known.name() == state);
        let state = state.unwrap_or_else(|| panic!("no state in: {line}"));
        let note = cells.next().unwrap_or_default();
        assert!(cells.next().is_none(), "more than three cells: {line}");
        assert!(
            state == State::Supported || !note.is_empty(),
            "a note is missing: {line}"
        );
        assert!(rows.insert(name, (state, note)).is_none(), "twice: {line}");
    }
    rows
}

/// Fails with everything in which file and code differ.
fn hold(name: &str, file: &str, code: &Code) {
    let rows = rows(file);
    let missing = code
        .iter()
        .filter(|(name, _)| !rows.contains_key(name.as_str()))
        .map(|(name, found)| format!("{name}: not in the file, {} in the code", found.state));
    let wrong = rows
        .iter()
        .filter_map(|(name, row)| Some(format!("{name}: {}", difference(name, *row, code)?)));
    let differences: Vec<_> = missing.chain(wrong).collect();
    assert!(
        differences.is_empty(),
        "tests/inventory/{name}.tsv and the code differ:\n{}",
        differences.join("\n")
    );
}

fn difference(name: &str, (state, note): (State, &str), code: &Code) -> Option<String> {
    let Some(found) = code.get(name) else {
        let here = below(name, code);
        return (here != Some(state)).then(|| match here {
            Some(here) => format!("{state} in the file, {here} in the code"),
            None => format!("{state} in the file, not in the code"),
        });
    };
    let same = found.state == state || (found.state, state) == (State::Supported, State::Ours);
    match found.reason {
        _ if !same => Some(format!("{state} in the file, {} in the code", found.state)),
        Some(reason) if reason != note => Some(format!("the code's reason is: {reason}")),
        _ => None,
    }
}

/// What becomes of a name that the code does not have itself, but something above it. A verb or flag that is not there
/// is not there yet.
fn below(name: &str, code: &Code) -> Option<State> {
    let mut above = name;
    while let Some((rest, _)) = above.rsplit_once('.') {
        above = rest;
        if let Some(found) = code.get(above) {
            return found.below;
        }
    }
    (!name.contains('.')).then_some(State::NotYet)
}
