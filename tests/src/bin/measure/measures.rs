//! What is measured, for each crate and as a whole.

use countersign_tests::source::facts::Function;
use countersign_tests::source::{Crate, SourceFile, Workspace};
use serde::Serialize;

use crate::dependencies::{self, Dependencies};
use crate::names::{self, Callers, Names};

/// The longest file, in lines of production code.
const MAX_FILE: usize = 500;
/// The longest function, in lines.
const MAX_FUNCTION: usize = 110;
/// The longest name of a test.
const MAX_TEST_NAME: usize = 60;

/// Everything that is measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measures {
    /// One row for each crate.
    pub(crate) crates: Vec<Row>,
    /// Their sum.
    pub(crate) total: Row,
    /// The weight of builds.
    pub(crate) builds: Vec<Dependencies>,
    /// What stands out, by kind.
    pub(crate) findings: Findings,
}

/// The measures of one crate, or of all.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) lines: usize,
    /// Its part of all production lines, in percent.
    pub(crate) share: f64,
    pub(crate) test_lines: usize,
    pub(crate) public: usize,
    pub(crate) unused_elsewhere: usize,
    pub(crate) circles: usize,
    pub(crate) types: usize,
    /// Types whose name another type of the crate has too.
    pub(crate) types_of_one_name: usize,
    /// Production lines that are neither blank nor comments.
    pub(crate) code_lines: usize,
    pub(crate) doc_lines: usize,
    /// Lines of comments inside of functions.
    pub(crate) comment_lines: usize,
    pub(crate) string_results: usize,
    pub(crate) string_variants: usize,
    pub(crate) dead: usize,
    pub(crate) for_tests_only: usize,
}

/// Lists of what stands out. Each line begins with its place.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) long_files: Vec<String>,
    pub(crate) long_functions: Vec<String>,
    pub(crate) circles: Vec<String>,
    pub(crate) types_of_one_name: Vec<String>,
    pub(crate) long_test_names: Vec<String>,
    pub(crate) string_results: Vec<String>,
    pub(crate) string_variants: Vec<String>,
    pub(crate) dead: Vec<String>,
    pub(crate) for_tests_only: Vec<String>,
}

impl Row {
    /// Lines of documentation for a thousand lines of code.
    pub(crate) fn docs(&self) -> f64 {
        per_thousand(self.doc_lines, self.code_lines)
    }

    /// Lines of comments inside of functions for a thousand lines of code.
    pub(crate) fn comments(&self) -> f64 {
        per_thousand(self.comment_lines, self.code_lines)
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.lines, other.lines),
            (&mut self.test_lines, other.test_lines),
            (&mut self.public, other.public),
            (&mut self.unused_elsewhere, other.unused_elsewhere),
            (&mut self.circles, other.circles),
            (&mut self.types, other.types),
            (&mut self.types_of_one_name, other.types_of_one_name),
            (&mut self.doc_lines, other.doc_lines),
            (&mut self.code_lines, other.code_lines),
            (&mut self.comment_lines, other.comment_lines),
            (&mut self.string_results, other.string_results),
            (&mut self.string_variants, other.string_variants),
            (&mut self.dead, other.dead),
            (&mut self.for_tests_only, other.for_tests_only),
        ] {
            *sum += more;
        }
        self.share += other.share;
    }
}

impl Measures {
    pub(crate) fn take(workspace: &Workspace) -> Self {
        let names = Names::of(workspace);
        let mut findings = Findings::default();
        let rows = workspace
            .crates
            .iter()
            .map(|of| row(workspace, of, &names, &mut findings));
        let mut crates: Vec<_> = rows.collect();
        let all: usize = crates.iter().map(|row| row.lines).sum();
        let mut total = Row {
            name: "all".to_owned(),
            ..Row::default()
        };
        for row in &mut crates {
            row.share = per_thousand(row.lines, all) / 10.0;
            total.add(row);
        }
        Self {
            crates,
            total,
            builds: dependencies::measure(workspace),
            findings,
        }
    }
}

fn row(workspace: &Workspace, of: &Crate, names: &Names, findings: &mut Findings) -> Row {
    let mut row = Row {
        name: of.name.clone(),
        public: names::public(of).len(),
        unused_elsewhere: names::unused_elsewhere(workspace, of),
        types: names::types(of),
        ..Row::default()
    };
    for file in &of.files {
        add_file(&mut row, file, findings);
    }
    for (name, places) in names::duplicate_types(of) {
        row.types_of_one_name += places.len();
        let places: Vec<_> = places
            .into_iter()
            .map(|(file, line)| place(file, line))
            .collect();
        findings
            .types_of_one_name
            .push(format!("{name}: {}", places.join(", ")));
    }
    for circle in of.modules().circles(&of.references()) {
        row.circles += 1;
        let parent = std::iter::once(of.ident()).chain(circle.parent);
        let parent: Vec<_> = parent.collect();
        findings.circles.push(format!(
            "{}: {}",
            parent.join("::"),
            circle.members.join(" ⇄ ")
        ));
    }
    for (file, definition) in names::visible(of) {
        let (count, list) = match names.callers(of, definition) {
            Callers::Production => continue,
            Callers::OnlyTests => (&mut row.for_tests_only, &mut findings.for_tests_only),
            Callers::Nobody => (&mut row.dead, &mut findings.dead),
        };
        *count += 1;
        list.push(format!(
            "{}: {}",
            place(file, definition.line),
            definition.name
        ));
    }
    row
}

fn add_file(row: &mut Row, file: &SourceFile, findings: &mut Findings) {
    let lines = file.production_lines();
    row.lines += lines;
    row.test_lines += file.lines() - lines;
    if lines > MAX_FILE {
        findings
            .long_files
            .push(format!("{}: {lines} lines", file.path.display()));
    }
    let text: Vec<_> = file.text.lines().map(str::trim_start).collect();
    let is_doc = |line: &str| line.starts_with("///") || line.starts_with("//!");
    for (_, line) in (1..)
        .zip(&text)
        .filter(|(number, _)| !file.is_test(*number))
    {
        row.doc_lines += usize::from(is_doc(line));
        row.code_lines += usize::from(!line.is_empty() && !line.starts_with("//"));
    }
    for function in &file.facts.functions {
        add_function(row, file, &text, function, findings);
    }
    let (results, variants) = (&file.facts.string_results, &file.facts.string_variants);
    row.string_results += results.len();
    row.string_variants += variants.len();
    findings
        .string_results
        .extend(results.iter().map(|line| place(file, *line)));
    findings
        .string_variants
        .extend(variants.iter().map(|line| place(file, *line)));
}

fn add_function(
    row: &mut Row,
    file: &SourceFile,
    text: &[&str],
    function: &Function,
    findings: &mut Findings,
) {
    let (first, last) = (*function.lines.start(), *function.lines.end());
    let length = last + 1 - first;
    let name = &function.name;
    if length > MAX_FUNCTION {
        findings
            .long_functions
            .push(format!("{}: {name}, {length} lines", place(file, first)));
    }
    if function.is_test && name.chars().count() > MAX_TEST_NAME {
        findings
            .long_test_names
            .push(format!("{}: {name}", place(file, first)));
    }
    if function.test {
        return;
    }
    let body = text
        .get(function.body.start() - 1..*function.body.end())
        .unwrap_or_default();
    let is_comment = |line: &&&str| line.starts_with("//") && !line.starts_with("///");
    row.comment_lines += body.iter().filter(is_comment).count();
}

fn place(file: &SourceFile, line: usize) -> String {
    format!("{}:{line}", file.path.display())
}

fn per_thousand(part: usize, of: usize) -> f64 {
    let number = |count: usize| u32::try_from(count).map_or(f64::from(u32::MAX), f64::from);
    if of == 0 {
        0.0
    } else {
        number(part) * 1000.0 / number(of)
    }
}
