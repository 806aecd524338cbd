//! Files with sections of which there are several, and lists of texts and sections, as `entry apply` reads them.

use countersign_config::{Document, ENTRY_FILE_KEYS, Element, InvalidConfig, Limits, Section};

fn read<T>(text: &str, build: impl FnOnce(&Document) -> T) -> Result<T, InvalidConfig> {
    let document = Document::parse("f", text, ENTRY_FILE_KEYS)?;
    let (built, _) = document.read(|document| Some(build(document)))?;
    Ok(built)
}

fn ids(document: &Document) -> Vec<String> {
    let sections = ["entry", "entries"].map(|name| document.sections(name));
    let sections = sections.into_iter().flatten();
    sections
        .filter_map(|section| section.string("id"))
        .collect()
}

#[test]
fn repeated_sections_are_read_in_the_order_of_the_file() {
    let blocks = "entry { id = \"b\" }\nentry { id = \"a\" }\nENTRY { id = \"c\" }\n";
    assert_eq!(read(blocks, ids).unwrap(), ["b", "a", "c"]);
    let json = r#"{"entries": [{"id": "b"}, {"id": "a"}]}"#;
    assert_eq!(read(json, ids).unwrap(), ["b", "a"]);
    assert_eq!(read("set = \"x\"", ids).unwrap(), Vec::<String>::new());
}

#[test]
fn other_keys_still_may_be_set_only_once() {
    let told = |text| read(text, ids).unwrap_err().to_string();
    let twice = told("set = \"x\"\nset = \"y\"\nentry {\n  id = \"a\"\n  id = \"b\"\n}\n");
    assert!(twice.contains("f:2:1: set is defined twice"), "{twice}");
    assert!(
        twice.contains("f:5:3: entry.id is defined twice"),
        "{twice}"
    );
    let value = told("entry = \"x\"\n");
    assert!(value.contains("f:1:9: entry is a section"), "{value}");
}

#[test]
fn a_list_holds_texts_and_sections() {
    fn selectors(section: &Section<'_>) -> Vec<String> {
        let text = |element| match element {
            Element::Text(text) => text,
            Element::Section(pair) => {
                let part = |key| pair.string(key).unwrap_or_default();
                format!("{}/{}", part("type"), part("value"))
            }
        };
        section
            .elements("selectors")
            .into_iter()
            .map(text)
            .collect()
    }
    let of = |text: &str| {
        read(text, |document| {
            document.sections("entry").first().map(selectors).unwrap()
        })
    };
    let mixed = "entry { selectors = [\"a:1\", { type = \"b\", value = \"2\" }] }";
    assert_eq!(of(mixed).unwrap(), ["a:1", "b/2"]);
    assert_eq!(of("entry { selectors = \"a:1\" }").unwrap(), ["a:1"]);
    assert_eq!(of("entry { }").unwrap(), Vec::<String>::new());
    let told = of("entry { selectors = [1, { typ = \"b\" }] }").unwrap_err();
    let told = told.to_string();
    assert!(
        told.contains("f:1:22: entry.selectors: must be a list of strings"),
        "{told}"
    );
    assert!(told.contains("unknown key \"typ\""), "{told}");
}

#[test]
fn the_limits_are_the_callers() {
    let limits = Limits { text: 40, items: 2 };
    let parse = |text: &str| Document::parse_within(limits, "f", text, ENTRY_FILE_KEYS);
    assert!(parse("entry { id = \"a\" }").is_ok());
    let long = parse(&" ".repeat(41)).unwrap_err().to_string();
    assert!(long.contains("limit of 40 bytes"), "{long}");
    let many = parse("entry { id = \"a\", hint = \"b\" }")
        .unwrap_err()
        .to_string();
    assert!(many.contains("limit of 2"), "{many}");
}
