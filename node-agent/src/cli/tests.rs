//! What people read, and the codes that scripts look at.

use super::*;

fn run(args: &[&str]) -> (ExitCode, String, String) {
    let (mut printer, captured) = Printer::captured();
    let args = std::iter::once("countersign-agent")
        .chain(args.iter().copied())
        .map(OsString::from);
    let code = execute(args, &mut printer);
    (code, captured.out(), captured.err())
}

#[test]
fn help_teaches_and_every_verb_has_it() {
    let (code, out, _) = run(&["-h"]);
    assert_eq!(code, ExitCode::SUCCESS);
    for part in ["run", "validate", "healthcheck", "api", "-joinToken TOKEN"] {
        assert!(out.contains(part), "{part} is not in:\n{out}");
    }
    for verb in [
        &["run"][..],
        &["validate"],
        &["healthcheck"],
        &["api", "fetch", "x509"],
        &["api", "watch"],
    ] {
        let (code, out, _) = run(&[verb, &["-h"]].concat());
        assert_eq!(code, ExitCode::SUCCESS, "{verb:?}");
        assert!(
            out.contains("countersign-agent"),
            "no example in the help of {verb:?}:\n{out}"
        );
    }
}

#[test]
fn a_valid_file_is_valid_and_an_invalid_one_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.conf");
    std::fs::write(&path, include_str!("../../../config/agent.conf")).unwrap();
    let path = path.to_str().unwrap();
    let (code, out, err) = run(&["validate", "-config", path]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (
            ExitCode::SUCCESS,
            "SPIRE agent configuration file is valid.\n",
            ""
        )
    );

    std::fs::write(path, "agent {\n  no_such_key = 1\n}\n").unwrap();
    let (code, out, err) = run(&["validate", "-config", path]);
    assert_eq!((code, out.as_str()), (ExitCode::FAILURE, ""));
    assert!(
        err.starts_with("SPIRE agent configuration file is invalid:\n")
            && err.contains(&format!("\n{path}:2:3: "))
            && err.contains("no_such_key"),
        "{err}"
    );

    let (code, _, err) = run(&["run", "-config", path]);
    assert_eq!(code, ExitCode::from(64));
    assert!(err.contains("no_such_key"), "{err}");
    assert_eq!(
        run(&["run", "-config", "/nowhere/agent.conf"]).0,
        ExitCode::from(64)
    );
}

#[test]
fn an_absent_node_agent_is_told_with_its_socket() {
    for verb in [&["api", "fetch", "x509"][..], &["api", "fetch"]] {
        let (code, out, err) = run(&[verb, &["-socketPath", "/nowhere/api.sock"]].concat());
        assert_eq!((code, out.as_str()), (ExitCode::FAILURE, ""));
        assert!(
            err.contains("/nowhere/api.sock") && err.contains("-socketPath"),
            "{err}"
        );
    }
    let (code, out, err) = run(&[
        "healthcheck",
        "-verbose",
        "-socketPath",
        "/nowhere/api.sock",
    ]);
    assert_eq!(
        (code, out.as_str()),
        (ExitCode::FAILURE, "Checking agent health...\n")
    );
    assert!(err.starts_with("Failed to check health: "), "{err}");
    assert!(
        err.ends_with("Agent is unhealthy: unable to determine health\n"),
        "{err}"
    );
    let (code, _, err) = run(&["api", "fetch", "-socketPath", "tcp://127.0.0.1:1"]);
    assert_eq!(code, ExitCode::FAILURE);
    assert!(err.contains("not the address of a Unix socket"), "{err}");
}

#[test]
fn what_is_missing_is_told_before_anybody_is_asked() {
    for (verb, told) in [
        (&["api", "fetch", "jwt"][..], "audience must be specified\n"),
        (&["api", "validate", "jwt"], "audience must be specified\n"),
        (
            &["api", "validate", "jwt", "-audience", "a"],
            "svid must be specified\n",
        ),
        (&["logger", "set"], "Error: a value (-level) must be set\n"),
        (
            &["logger", "set", "-level", "loud"],
            "Error: the value \"loud\" is not a valid setting\n",
        ),
    ] {
        let (code, out, err) = run(&[verb, &["-socketPath", "/nowhere/s"]].concat());
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (ExitCode::FAILURE, "", told),
            "{verb:?}"
        );
    }
    let (code, _, err) = run(&["debug", "getinfo", "-socketPath", "/nowhere/s"]);
    assert_eq!(code, ExitCode::FAILURE);
    assert!(err.contains("/nowhere/s"), "{err}");
}

#[test]
fn flags_about_trust_are_checked_and_go_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.conf");
    std::fs::write(&path, include_str!("../../../config/agent.conf")).unwrap();
    let path = path.to_str().unwrap();
    let validate = |flags: &[&str]| run(&[&["validate", "-config", path], flags].concat());
    let url = "https://example.org/bundle.json";
    let right = [
        "-trustBundleUrl",
        url,
        "-trustBundleFormat",
        "SPIFFE",
        "-rebootstrapMode",
        "auto",
        "-rebootstrapDelay=90s",
        "-disableWorkloadAPI",
    ];
    let (code, _, err) = validate(&right);
    assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""));
    for (wrong, told) in [
        (
            &["-rebootstrapMode", "sometimes"][..],
            "one of never, auto, always",
        ),
        (&["-rebootstrapDelay", "25h"], "at most 24 hours"),
        (&["-trustBundleFormat", "der"], "one of pem, spiffe"),
        (
            &["-trustBundleUrl", "http://example.org"],
            "only https can be believed",
        ),
        (
            &["-trustBundleUrl", url, "-trustBundle", "b.pem"],
            "cannot be used with",
        ),
        (
            &["-insecureBootstrap", "-rebootstrapMode", "auto"],
            "rebootstrap_mode",
        ),
    ] {
        let (code, _, err) = validate(wrong);
        assert_ne!(code, ExitCode::SUCCESS, "{wrong:?}");
        assert!(err.contains(told), "{wrong:?}: {err}");
    }
}

#[test]
fn a_token_on_the_command_line_does_not_show_up_in_errors() {
    let (code, _, err) = run(&["run", "-joinToken", "se/cret"]);
    assert_eq!(code, ExitCode::FAILURE);
    assert!(
        err.contains("join token") || err.contains("joinToken"),
        "{err}"
    );
}
