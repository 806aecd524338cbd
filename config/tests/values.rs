//! Typed reading: what each accessor takes, what it notes, and with which place.

use std::collections::HashMap;
use std::time::Duration;

use countersign_config::{
    AGENT_KEYS, Document, Expansion, InvalidDuration, SERVER_KEYS, Section, parse_duration,
};

/// Reads one thing out of a `server` section.
fn read<T>(text: &str, accessor: impl Fn(&Section<'_>) -> Option<T>) -> Result<T, String> {
    let text = format!("server {{\n{text}\n}}");
    Document::parse("f", &text, SERVER_KEYS)
        .and_then(|document| document.read(|document| accessor(&document.section("server"))))
        .map(|(value, _)| value)
        .map_err(|error| error.to_string())
}

const INCOMPLETE: &str = "f:1:1: the configuration is not complete";

#[test]
fn ports_are_numbers_with_or_without_quotes() {
    let port = |text: &str| {
        read(&format!("bind_port = {text}"), |server| {
            server.port("bind_port")
        })
    };
    assert_eq!(port("8081"), Ok(8081));
    assert_eq!(port("\"8081\""), Ok(8081));
    assert_eq!(port("0"), Ok(0));
    assert_eq!(port("65535"), Ok(65535));
    let wrong = "f:2:13: server.bind_port: must be a whole number from 0 to 65535";
    for text in [
        "65536",
        "-1",
        "80.5",
        "1e3",
        "\"http\"",
        "99999999999999999999",
        "\"--1\"",
        "\"+-1\"",
    ] {
        assert_eq!(port(text).unwrap_err(), wrong, "{text}");
    }
    assert_eq!(
        port("[1]").unwrap_err(),
        "f:2:13: server.bind_port: must be a number, not a list"
    );
}

#[test]
fn durations_are_those_of_go_within_bounds() {
    let bounds = Duration::from_secs(60)..=Duration::from_secs(7200);
    let ttl = |text: &str| {
        read(&format!("ca_ttl = \"{text}\""), |server| {
            server.duration("ca_ttl", bounds.clone())
        })
    };
    assert_eq!(ttl("1h30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(ttl("2h"), Ok(Duration::from_secs(7200)));
    assert_eq!(
        ttl("30s").unwrap_err(),
        "f:2:10: server.ca_ttl: must be a duration from 60s to 7200s"
    );
    assert_eq!(
        ttl("3600").unwrap_err(),
        "f:2:10: server.ca_ttl: a duration is numbers with units, such as \"90s\", \"1h30m\" or \"1.5h\""
    );
}

#[test]
fn the_syntax_of_durations() {
    for (text, nanos) in [
        ("0", 0),
        ("1ns", 1),
        ("1us", 1_000),
        ("1\u{b5}s", 1_000),
        ("1\u{3bc}s", 1_000),
        ("1.5ms", 1_500_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("+1m1s", 61_000_000_000),
        ("1h1m1s1ms1us1ns", 3_661_001_001_001),
        ("0.000000000000000000001h", 0),
        ("0.9999999999ns", 0),
        ("2562047h47m16.854775807s", i64::MAX.unsigned_abs()),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_nanos(nanos)),
            "{text}"
        );
    }
    for (text, error) in [
        ("", InvalidDuration::Malformed),
        ("+", InvalidDuration::Malformed),
        ("s", InvalidDuration::Malformed),
        (".s", InvalidDuration::Malformed),
        ("1", InvalidDuration::Malformed),
        ("1h ", InvalidDuration::UnknownUnit),
        ("1 h", InvalidDuration::UnknownUnit),
        ("1d", InvalidDuration::UnknownUnit),
        ("-1s", InvalidDuration::Negative),
        ("2562047h47m16.854775808s", InvalidDuration::TooLong),
        (
            "99999999999999999999999999999999999999999999h",
            InvalidDuration::TooLong,
        ),
        (
            "340282366920938463463374607431768211455h",
            InvalidDuration::TooLong,
        ),
    ] {
        assert_eq!(parse_duration(text), Err(error), "{text}");
    }
}

#[test]
fn bools_lists_choices_and_texts() {
    let bool = |text: &str| {
        read(&format!("ratelimit {{ signing = {text} }}"), |server| {
            server.section("ratelimit").bool("signing")
        })
    };
    assert_eq!((bool("true"), bool("\"False\"")), (Ok(true), Ok(false)));
    assert_eq!(
        bool("1").unwrap_err(),
        "f:2:23: server.ratelimit.signing: must be true or false, not a number"
    );

    let list = |text: &str| {
        read(&format!("ca_subject {{ country = {text} }}"), |server| {
            server.section("ca_subject").list("country")
        })
    };
    assert_eq!(
        list("[\"US\", \"DE\"]"),
        Ok(vec!["US".to_owned(), "DE".to_owned()])
    );
    assert_eq!(list("\"US\""), Ok(vec!["US".to_owned()]));
    assert_eq!(list("[]"), Ok(Vec::new()));
    assert_eq!(
        list("[\"US\", true]").unwrap_err(),
        "f:2:31: server.ca_subject.country: must be a list of strings, not true or false"
    );

    let choice = |text: &str| {
        read(&format!("log_format = {text}"), |server| {
            server.choice("log_format", &[("text", 't'), ("json", 'j')])
        })
    };
    assert_eq!(choice("\"JSON\""), Ok('j'));
    assert_eq!(
        choice("\"xml\"").unwrap_err(),
        "f:2:14: server.log_format: \"xml\" is none of text, json"
    );

    let text = |text: &str| {
        read(&format!("log_file = {text}"), |server| {
            server.path("log_file")
        })
    };
    assert_eq!(text("\"a/b\""), Ok("a/b".into()));
    assert_eq!(text("\"\"").unwrap_err(), INCOMPLETE);
    assert_eq!(
        text("true").unwrap_err(),
        "f:2:12: server.log_file: must be a string, not true or false"
    );
}

#[test]
fn a_value_of_a_wrong_type_is_not_printed() {
    let document = Document::parse(
        "f",
        "agent { join_token = [\"hidden\"] server_port = \"hidden\" }",
        AGENT_KEYS,
    )
    .unwrap();
    let error = document
        .read(|document| {
            let agent = document.section("agent");
            agent.port("server_port")?;
            agent.string("join_token")
        })
        .unwrap_err();
    assert!(!error.to_string().contains("hidden"), "{error}");
}

#[test]
fn the_daemons_findings_are_reported_with_the_rest_in_order() {
    let text = "server {\n  trust_domain = \"UPPER\"\n  nonsense = 1\n}";
    let error = Document::parse("f", text, SERVER_KEYS)
        .unwrap()
        .read(|document| {
            let server = document.section("server");
            server.require(&["trust_domain", "bind_address"]);
            server.parsed("trust_domain", |text| {
                Err::<(), _>(format!("{text} is not in lower case"))
            })
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "f:1:1: server.bind_address is required\n\
         f:2:18: server.trust_domain: UPPER is not in lower case\n\
         f:3:3: unknown key \"nonsense\" in server"
    );
    assert_eq!(error.findings().len(), 3);
}

#[test]
fn a_missing_section_is_an_empty_one() {
    let error = Document::parse("f", "", SERVER_KEYS)
        .unwrap()
        .read(|document| {
            let server = document.section("server");
            assert!(!server.is_present());
            server.require(&["trust_domain"]);
            server.section("ratelimit").bool("signing")
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "f:1:1: server.trust_domain is required");
}

#[test]
fn reading_a_key_outside_the_registry_is_a_fault() {
    assert!(
        read("", |server| server.string("colour"))
            .unwrap_err()
            .contains("a bug in this program")
    );
    assert!(
        read("", |server| server.string("no_such_key"))
            .unwrap_err()
            .contains("a bug in this program")
    );
    assert!(
        read("", |server| server.section("colour").string("red"))
            .unwrap_err()
            .contains("a bug in this program")
    );
}

#[test]
fn many_findings_are_printed_up_to_a_limit_and_counted() {
    let text: String = (0..60).map(|number| format!("key{number} = 1\n")).collect();
    let error = read(&text, |_| Some(())).unwrap_err();
    assert_eq!(error.lines().count(), 51);
    assert!(error.ends_with("f: and 10 more"), "{error}");
}

#[test]
fn variables_are_filled_in_before_the_text_is_parsed() {
    let variables = HashMap::from([
        ("DOMAIN", "example.org"),
        ("PORT", "8081"),
        ("BLOCK", "bind_address = \"::\"\n"),
    ]);
    let lookup = |name: &str| variables.get(name).map(ToString::to_string);
    let text = "server {\n  trust_domain = \"${DOMAIN}$UNSET\"\n  bind_port = $PORT\n  $BLOCK log_file = \"$$1 ${} $% ${open\"\n}";
    let expanded = Document::parse_expanded("f", text, lookup, SERVER_KEYS);
    assert!(
        expanded.is_err(),
        "an unclosed ${{ swallows the rest: {expanded:?}"
    );

    let text = text.replace(" ${open", "");
    let document = Document::parse_expanded("f", &text, lookup, SERVER_KEYS).unwrap();
    let (read, warnings) = document
        .read(|document| {
            let server = document.section("server");
            Some((
                server.string("trust_domain")?,
                server.port("bind_port")?,
                server.string("bind_address")?,
                server.string("log_file")?,
            ))
        })
        .unwrap();
    assert_eq!(
        read,
        ("example.org".into(), 8081, "::".into(), "$1  $%".into())
    );
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        warnings[0].to_string(),
        "f:1:1: the environment variable UNSET is not set: nothing replaces it"
    );
}

#[test]
fn variables_cannot_make_a_text_longer_than_the_limit() {
    let big = "x".repeat(1 << 16);
    let error = Document::parse_expanded(
        "f",
        &"$BIG".repeat(1 << 10),
        |_| Some(big.clone()),
        SERVER_KEYS,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("longer than the limit"),
        "{error}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = std::env::temp_dir();
    let missing = folder.join("countersign-no-such-file.conf");
    let error = Document::load(&missing, Expansion::None, SERVER_KEYS).unwrap_err();
    assert!(
        error.to_string().contains("countersign-no-such-file.conf"),
        "{error}"
    );
    let error = Document::load(&folder, Expansion::None, SERVER_KEYS).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the configuration file"),
        "{error}"
    );
}
