//! What is found wrong with a file while it is checked and read.

use std::cell::RefCell;

use crate::error::{Finding, InvalidConfig, Position, Warning};

/// Collects faults and warnings, so that everything that is wrong with a file is reported together.
///
/// Sections borrow it from their document and note what they find while a daemon reads them: hence the cells.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    wrong: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

impl Findings {
    pub(crate) fn wrong(&self, at: Position, message: impl Into<String>) {
        let message = message.into();
        self.wrong.borrow_mut().push(Finding { at, message });
    }

    pub(crate) fn warn(&self, at: Position, message: impl Into<String>) {
        let message = message.into();
        self.warnings.borrow_mut().push(Finding { at, message });
    }

    pub(crate) fn faults(&self) -> usize {
        self.wrong.borrow().len()
    }

    /// What the file was turned into, with the warnings; the error if there was a fault, or nothing was built.
    pub(crate) fn conclude<T>(
        self,
        file: &str,
        built: Option<T>,
    ) -> Result<(T, Vec<Warning>), InvalidConfig> {
        let mut wrong = self.wrong.into_inner();
        let Some(built) = built.filter(|_| wrong.is_empty()) else {
            if wrong.is_empty() {
                wrong.push(Finding {
                    at: Position::START,
                    message: "the configuration is not complete".to_owned(),
                });
            }
            return Err(InvalidConfig::wrong(file, wrong));
        };
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|finding| finding.at);
        let warnings = warnings.into_iter().map(|Finding { at, message }| Warning {
            file: file.to_owned(),
            at,
            message,
        });
        Ok((built, warnings.collect()))
    }
}
