//! The measures as aligned text.

use std::fmt::Write as _;

use crate::measures::{Measures, Row};

const HEADINGS: [&str; 15] = [
    "crate",
    "lines",
    "share",
    "tests",
    "pub",
    "unused",
    "circles",
    "types",
    "same name",
    "docs/1000",
    "why/1000",
    "Result<_, String>",
    "(String)",
    "dead",
    "tests only",
];

const LEGEND: &str = "lines: production code, without inline tests and files of tests. pub: items of the library; unused: those that no
other crate of the workspace names. types of the same name: within one crate. docs: lines of documentation,
and why: lines of comments inside of functions, for 1,000 lines of code. (String): variants of enums that hold one string. dead: pub and pub(crate)
items that are named nowhere; tests only: those that only tests name.";

/// The tables, and below them the findings.
pub(crate) fn text(measures: &Measures) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(measures.crates.iter().chain([&measures.total]).map(cells));
    let mut out = aligned(&rows);
    let _ = writeln!(out, "\n{LEGEND}\n");
    let builds = measures.builds.iter().map(|build| {
        let fault = build.fault.clone().unwrap_or_default();
        let crates = build.crates.map_or(fault, |crates| crates.to_string());
        [build.build.clone(), crates]
    });
    let mut rows = vec![["build".to_owned(), "crates".to_owned()]];
    rows.extend(builds);
    out.push_str(&aligned(&rows));
    let found = &measures.findings;
    for (heading, findings) in [
        ("files over 500 lines", &found.long_files),
        ("functions over 110 lines", &found.long_functions),
        ("circles of modules", &found.circles),
        ("types of one name in a crate", &found.types_of_one_name),
        ("names of tests over 60 characters", &found.long_test_names),
        ("Result<_, String>", &found.string_results),
        ("variants with one String", &found.string_variants),
        ("dead items", &found.dead),
        ("items that only tests name", &found.for_tests_only),
    ] {
        let _ = writeln!(out, "\n{heading}: {}", findings.len());
        for finding in findings {
            let _ = writeln!(out, "  {finding}");
        }
    }
    out
}

fn cells(row: &Row) -> [String; 15] {
    [
        row.name.clone(),
        row.lines.to_string(),
        format!("{:.1} %", row.share),
        row.test_lines.to_string(),
        row.public.to_string(),
        row.unused_elsewhere.to_string(),
        row.circles.to_string(),
        row.types.to_string(),
        row.types_of_one_name.to_string(),
        format!("{:.0}", row.docs()),
        format!("{:.1}", row.comments()),
        row.string_results.to_string(),
        row.string_variants.to_string(),
        row.dead.to_string(),
        row.for_tests_only.to_string(),
    ]
}

/// Columns as wide as their widest cell, the first one to the left and the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        for (column, (width, cell)) in widths.into_iter().zip(row).enumerate() {
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
    out
}
