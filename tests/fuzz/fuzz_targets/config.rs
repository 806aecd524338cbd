//! A configuration file, whatever it holds, is read or refused: no panic, no stack overflow, and everything that is
//! said about it points into the text.

#![no_main]

use countersign_config::{AGENT_KEYS, Document, Key, Position, SERVER_KEYS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    judge(text, SERVER_KEYS);
    judge(text, AGENT_KEYS);
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
