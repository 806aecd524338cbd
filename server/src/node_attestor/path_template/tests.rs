use proptest::prelude::*;

use super::*;

fn kind(path: &[String]) -> Option<ValueKind> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["Name" | "Empty"] | ["Names", _] => Some(ValueKind::Text),
        ["List"] => Some(ValueKind::List),
        ["Names"] => Some(ValueKind::Map),
        _ => None,
    }
}

fn field(path: &[String]) -> Option<Value> {
    let names = BTreeMap::from([("a".to_owned(), "x".to_owned())]);
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["Name"] => Some(Value::Text("Node1.example.org".into())),
        ["Empty"] => Some(Value::Text(String::new())),
        ["List"] => Some(Value::List(vec!["p".into(), "q".into()])),
        ["Names"] => Some(Value::Map(names)),
        ["Names", name] => names.get(*name).cloned().map(Value::Text),
        _ => None,
    }
}

fn rendered(text: &str) -> String {
    PathTemplate::parse(text, kind)
        .unwrap()
        .render(&field)
        .unwrap()
}

#[test]
fn values_come_out_as_go_writes_them() {
    for (template, want) in [
        ("/plain", "/plain"),
        ("", ""),
        ("/{{ .Name }}/x", "/Node1.example.org/x"),
        ("/{{.Name}}", "/Node1.example.org"),
        ("/a  {{- .Name -}}  /b", "/aNode1.example.org/b"),
        ("{{ .Name | lower }}", "node1.example.org"),
        (
            r#"{{ .Name | trimSuffix ".example.org" | upper }}"#,
            "NODE1",
        ),
        (r#"{{ trimPrefix `Node` .Name }}"#, "1.example.org"),
        (r#"{{ .Name | replace "." "-" }}"#, "Node1-example-org"),
        (r#"{{ trunc 5 (lower .Name) }}"#, "node1"),
        (r#"{{ default "none" .Empty }}"#, "none"),
        (r#"{{ .Name | splitList "." | last }}"#, "org"),
        (r#"{{ index (splitList "." .Name) 1 }}"#, "example"),
        (r#"{{ first .List }}{{ join "+" .List }}"#, "pp+q"),
        (r#"{{ .Names.a }}{{ index .Names "a" }}"#, "xx"),
        (r#"{{ " a b " | trim | nospace }}"#, "ab"),
        ("{{ 7 }}", "7"),
    ] {
        assert_eq!(rendered(template), want, "{template}");
    }
}

#[test]
fn what_is_not_known_is_told_with_its_place() {
    for (template, at, what) in [
        ("/{{ .Nmae }}", 5, "there is no field .Nmae here"),
        ("/{{ . }}", 5, "there is no field . here"),
        (
            "{{ sha1sum .Name }}",
            4,
            "the function \"sha1sum\" is not known here",
        ),
        (
            "ä{{ if .Name }}x{{ end }}",
            5,
            "the function \"if\" is not known here",
        ),
        ("{{ lower }}", 4, "lower does not take these arguments"),
        (
            "{{ lower .List }}",
            4,
            "lower does not take these arguments",
        ),
        ("{{ .List }}", 3, "this is a list or a map, and no text"),
        ("{{ .Name", 9, "\"}}\" or \"|\" should stand here"),
        ("{{ }}", 4, "a value or a function should stand here"),
        ("{{ .Name | }}", 12, "a function should stand here"),
        ("{{ .Name | .Name }}", 12, "a function should stand here"),
        ("{{ (.Name }}", 11, "\")\" should stand here"),
        ("{{ \"a }}", 4, "this text has no end"),
        (
            r#"{{ "\n" }}"#,
            4,
            "escapes are not known here: use backquotes",
        ),
        (
            "{{ $x := 1 }}",
            4,
            "a value or a function should stand here",
        ),
    ] {
        let error = PathTemplate::parse(template, kind).unwrap_err();
        assert_eq!((error.at, error.what.as_str()), (at, what), "{template}");
    }
    let deep = format!("{{{{ {} .Name {} }}}}", "(".repeat(20), ")".repeat(20));
    PathTemplate::parse(&deep, kind).unwrap_err();
    PathTemplate::parse(&"x".repeat(MAX_TEMPLATE + 1), kind).unwrap_err();
}

#[test]
fn what_a_node_does_not_have_renders_nothing() {
    for template in [
        "{{ .Names.b }}",
        r#"{{ index .Names "b" }}"#,
        "{{ index .List 2 }}",
    ] {
        let template = PathTemplate::parse(template, kind).unwrap();
        template.render(&field).unwrap_err();
    }
}

proptest! {
    #[test]
    fn reading_never_panics_and_names_a_place_in_the_text(text in "[a-z.{}()|\"` 0-9ä-]{0,40}") {
        match PathTemplate::parse(&text, kind) {
            Ok(template) => drop(template.render(&field)),
            Err(error) => prop_assert!(error.at >= 1 && error.at <= text.chars().count() + 1),
        }
    }
}
