//! What the reader takes as HCL 1 and JSON, and what it refuses, with the place.

use countersign_config::{Document, MAX_DEPTH, MAX_ITEMS, MAX_TEXT, SERVER_KEYS};

/// The trust domain that a text sets, or what is wrong with it, in the form `line:column: message`.
fn trust_domain(text: &str) -> Result<String, String> {
    Document::parse("server.conf", text, SERVER_KEYS)
        .and_then(|document| {
            document.read(|document| document.section("server").string("trust_domain"))
        })
        .map(|(domain, _)| domain)
        .map_err(|error| error.to_string().replace("server.conf:", ""))
}

#[test]
fn forms_that_spire_takes_are_taken() {
    for text in [
        "server {\n  trust_domain = \"example.org\"\n}\n",
        "\u{feff}server { trust_domain = \"example.org\" }",
        "server { trust_domain = \"example.org\" bind_port = 8081 }",
        "server { trust_domain = \"example.org\", bind_port = \"8081\", }",
        "server = {\n  trust_domain = \"example.org\"\n}",
        "\"server\" { \"trust_domain\" = \"example.org\" }",
        "Server { Trust_Domain = \"example.org\" }",
        "server {\r\n  trust_domain = \"example.org\"\r\n}\r\n",
        "# one\n// two\n/* three\n */ server { trust_domain = \"example.org\" } # four",
        "server { trust_domain = \"ex\\u0061mple\\x2eorg\" bind_port = 0x1f91 }",
        "server { ca_subject { country = [\"US\", \"DE\",] } trust_domain = \"example.org\" }",
        "{ \"server\": { \"trust_domain\": \"example.org\", \"bind_port\": 8081 } }",
        "{ \"server\": [ { \"trust_domain\": \"example.org\" } ] }\n",
    ] {
        assert_eq!(trust_domain(text).as_deref(), Ok("example.org"), "{text}");
    }
}

#[test]
fn heredocs_keep_lines_and_lose_indentation_if_asked() {
    let plain = "server {\n  trust_domain = <<EOF\n  one\ntwo\nEOF\n}";
    assert_eq!(trust_domain(plain).as_deref(), Ok("  one\ntwo\n"));
    let indented = "server {\n  trust_domain = <<-EOF\n    one\n      two\n    EOF\n}";
    assert_eq!(trust_domain(indented).as_deref(), Ok("one\n  two\n"));
}

#[test]
fn dollars_and_braces_in_strings_stay_as_they_are() {
    let text = r#"server { trust_domain = "$a ${b{"c"}} %{d}" }"#;
    assert_eq!(trust_domain(text).as_deref(), Ok(r#"$a ${b{"c"}} %{d}"#));
}

#[test]
fn what_breaks_the_syntax_is_refused_at_its_place() {
    for (text, wanted) in [
        (
            "server {\n  trust_domain = \"a\n}",
            "2:18: this string is not closed",
        ),
        ("server {\n  trust_domain = \"\\.\"\n}", "2:19: this escape"),
        ("server {\n", "1:8: this section is not closed"),
        ("server {\n}\n}", "3:1: unexpected '}'"),
        ("server {\n  a = [1\n", "2:7: this list is not closed"),
        ("server {\n  a = [1 2]\n}", "2:10: unexpected '2'"),
        (
            "server {\n  bind_port = 80x81\n}",
            "2:15: this is not a number",
        ),
        (
            "server {\n  bind_port = yes\n}",
            "2:15: a value is a string in quotes",
        ),
        ("server {\n  bind_port 8081\n}", "2:13: unexpected '8'"),
        ("server {\n  bind_port: 8081\n}", "2:12: unexpected ':'"),
        ("server\n", "2:1: the file ends after the key \"server\""),
        (
            "server { a = ",
            "1:14: the file ends where a value is expected",
        ),
        ("/* never\nclosed", "1:1: this comment is not closed"),
        (
            "server { a = <<EOF\nx\n",
            "1:14: this heredoc is not closed",
        ),
        ("server { a = <<\nx\n", "1:16: a heredoc starts with"),
        ("{ \"server\": {}", "1:15: `}` is missing"),
        ("server { trust_domain = \"\\ud800\" }", "1:26: this escape"),
        (
            "\u{e4}\u{f6} = \u{fc}",
            "1:6: a value is a string in quotes",
        ),
    ] {
        let error = trust_domain(text).unwrap_err();
        assert!(error.starts_with(wanted), "{text:?} gave {error}");
    }
}

#[test]
fn depth_is_bounded_whatever_it_is_made_of() {
    let many = MAX_TEXT / 8;
    for text in [
        "[".repeat(many),
        format!("a = {}", "[".repeat(many)),
        "a { ".repeat(many),
        "a ".repeat(many),
        "a = { ".repeat(many),
        "{".repeat(many),
        format!("{{{}", "\"a\": {".repeat(many)),
    ] {
        let error = trust_domain(&text).unwrap_err();
        assert!(!error.is_empty());
    }
    let nested = |depth: usize| format!("a = {}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(
        !trust_domain(&nested(MAX_DEPTH))
            .unwrap_err()
            .contains("limit")
    );
    assert!(
        trust_domain(&nested(MAX_DEPTH + 1))
            .unwrap_err()
            .contains("nested deeper than the limit of 32")
    );
}

#[test]
fn length_and_number_of_keys_are_bounded() {
    let long = format!("#{}", " ".repeat(MAX_TEXT));
    assert!(
        trust_domain(&long)
            .unwrap_err()
            .contains("longer than the limit of 1048576 bytes")
    );
    let keys = "a{}".repeat(MAX_ITEMS + 1);
    assert!(
        trust_domain(&keys)
            .unwrap_err()
            .contains("more keys than the limit of 10000")
    );
}
