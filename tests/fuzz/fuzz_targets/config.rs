//! A configuration file, whatever it holds, is read or refused: no panic, no stack overflow, and everything that is
//! said about it points into the text.

#![no_main]

use countersign_config::{
    AGENT_KEYS, Document, ENTRY_FILE_KEYS, InvalidConfig, Key, Position, SERVER_KEYS, Warning,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    judge(text, SERVER_KEYS);
    judge(text, AGENT_KEYS);
    judge_entries(text);
    let variable = |name: &str| (name.len() % 2 == 0).then(|| text.to_owned());
    let _ = Document::parse_expanded("fuzz", text, variable, SERVER_KEYS);
});

fn judge(text: &str, keys: &'static [Key]) {
    let read = Document::parse("fuzz", text, keys).and_then(|document| {
        document.read(|document| {
            for kind in ["KeyManager", "NodeAttestor"] {
                for plugin in document.plugins(kind) {
                    assert!(!plugin.name.is_empty());
                }
            }
            Some(())
        })
    });
    judge_outcome(text, read);
}

/// A file for `entry apply`.
fn judge_entries(text: &str) {
    let read = Document::parse("fuzz", text, ENTRY_FILE_KEYS).and_then(|document| {
        document.read(|document| {
            for section in ["entry", "entries"].into_iter().flat_map(|name| document.sections(name)) {
                let _ = (section.elements("selectors"), section.list("dns_names"));
            }
            Some(())
        })
    });
    judge_outcome(text, read);
}

fn judge_outcome(text: &str, read: Result<((), Vec<Warning>), InvalidConfig>) {
    match read {
        Ok(((), warnings)) => warnings.iter().for_each(|warning| assert_inside(text, warning.at)),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            error.findings().iter().for_each(|finding| assert_inside(text, finding.at));
        }
    }
}

fn assert_inside(text: &str, at: Position) {
    let line = usize::try_from(at.line).unwrap_or(usize::MAX);
    let found = text.split('\n').nth(line.saturating_sub(1));
    let length = found.unwrap_or_else(|| panic!("line {line} is not in the text")).chars().count();
    let column = usize::try_from(at.column).unwrap_or(usize::MAX);
    assert!((1..=length + 1).contains(&column), "column {column} is not in line {line} of {length} characters");
}
