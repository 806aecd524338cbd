//! Whatever stands in a file, it is read or refused: no panic, and every finding points into the text.

use countersign_config::{AGENT_KEYS, Document, Key, Position, SERVER_KEYS, parse_duration};
use proptest::prelude::*;

const PIECES: &[&str] = &[
    "server",
    "agent",
    "plugins",
    "KeyManager",
    "\"disk\"",
    "plugin_data",
    "enabled",
    "plugin_cmd",
    "telemetry",
    "bind_port",
    "ca_subject",
    "federation",
    "{",
    "}",
    "{",
    "}",
    "[",
    "]",
    "=",
    ":",
    ",",
    "\"",
    "\\",
    "\\u00",
    "${",
    "<<EOF\n",
    "<<-E\n",
    "EOF\n",
    "\n",
    "\r\n",
    " ",
    "#",
    "//",
    "/*",
    "*/",
    "true",
    "false",
    "\"false\"",
    "0x1f",
    "-1",
    "1e9",
    ".",
    "\u{feff}",
    "\u{0}",
    "\u{fc}",
    "\u{1f600}",
    "$A",
    "${A}",
];

fn judge(text: &str, keys: &'static [Key]) {
    let read = Document::parse("f", text, keys).and_then(|document| {
        document.read(|document| {
            let _ = (
                document.plugins("KeyManager"),
                document.required_plugin("NodeAttestor"),
            );
            Some(())
        })
    });
    match read {
        Ok(((), warnings)) => warnings
            .iter()
            .for_each(|warning| assert_inside(text, warning.at)),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            error
                .findings()
                .iter()
                .for_each(|finding| assert_inside(text, finding.at));
        }
    }
}

fn assert_inside(text: &str, at: Position) {
    let line = text
        .split('\n')
        .nth(usize::try_from(at.line).unwrap_or(0).saturating_sub(1));
    let length = line.map(|line| line.chars().count());
    let column = usize::try_from(at.column).unwrap_or(0);
    assert!(
        column >= 1 && length.is_some_and(|length| column <= length + 1),
        "{at} is not in {text:?}"
    );
}

proptest! {
    #[test]
    fn any_pieces(indices in prop::collection::vec(0..PIECES.len(), 0..200)) {
        let text: String = indices.iter().filter_map(|index| PIECES.get(*index)).copied().collect();
        judge(&text, SERVER_KEYS);
        judge(&text, AGENT_KEYS);
        let _ = Document::parse_expanded("f", &text, |_| Some(text.clone()), SERVER_KEYS);
    }

    #[test]
    fn any_text(text in any::<String>()) {
        judge(&text, SERVER_KEYS);
    }

    #[test]
    fn the_shipped_files_with_a_part_cut_out(start in 0_usize..6000, length in 0_usize..400) {
        for (text, keys) in [
            (include_str!("../server.conf"), SERVER_KEYS),
            (include_str!("../agent.conf"), AGENT_KEYS),
        ] {
            let kept = |(index, letter)| (!(start..start + length).contains(&index)).then_some(letter);
            let cut: String = text.chars().enumerate().filter_map(kept).collect();
            judge(&cut, keys);
        }
    }

    #[test]
    fn any_duration(text in "[-+]?([0-9]{0,40}\\.?[0-9]{0,40}[a-z\u{b5}]{0,2}){0,5}") {
        let _ = parse_duration(&text);
    }
}
