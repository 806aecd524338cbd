//! Tables whose columns align.

use std::fmt;

use comfy_table::presets;

/// A table with a heading; plain columns without lines, for people and for `awk`.
#[derive(Clone, Debug)]
pub struct Table {
    inner: comfy_table::Table,
}

impl Table {
    /// No rows yet.
    #[must_use]
    pub fn new<H: Into<String>>(headings: impl IntoIterator<Item = H>) -> Self {
        let mut inner = comfy_table::Table::new();
        inner
            .load_style(presets::NOTHING)
            .set_header(headings.into_iter().map(Into::<String>::into));
        Self { inner }
    }

    /// Adds a row; missing cells are empty.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) -> &mut Self {
        self.inner
            .add_row(cells.into_iter().map(Into::<String>::into));
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self
            .inner
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>();
        // Each line begins with the padding of its first cell.
        let indent = lines
            .iter()
            .map(|line| line.len() - line.trim_start().len())
            .min()
            .unwrap_or(0);
        let lines: Vec<_> = lines
            .iter()
            .map(|line| line.get(indent..).unwrap_or_default())
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_trails() {
        let mut table = Table::new(["ID", "Selectors"]);
        table
            .row(["spiffe://td/a", "unix:uid:1"])
            .row(["b", "unix:uid:2"]);
        let want = "ID             Selectors\nspiffe://td/a  unix:uid:1\nb              unix:uid:2";
        assert_eq!(table.to_string(), want);
    }
}
