//! Pages of lists. A token is the number of the commit that made the last object of the page.

use countersign_store::backend::Seq;

use crate::index::Page;

use super::status::ApiError;

/// The page that is asked for. Without a size everything, whatever the token.
pub(super) fn requested(size: i32, token: &str, summary: &str) -> Result<Page, ApiError> {
    match usize::try_from(size) {
        Err(_) | Ok(0) => Ok(Page::All),
        Ok(size) if token.is_empty() => Ok(Page::After(Seq::ZERO, size)),
        Ok(size) => {
            // Rust would take a sign.
            let number = token.bytes().all(|b| b.is_ascii_digit()).then_some(token);
            let after = number.and_then(|n| n.parse().ok()).ok_or_else(|| {
                let shown: String = token.chars().take(64).collect();
                ApiError::new(
                    tonic::Code::Internal,
                    summary,
                    format_args!("could not parse token '{shown}'"),
                )
            })?;
            Ok(Page::After(Seq::new(after), size))
        }
    }
}

/// The token for the next page, given the last object of this one. The last page has one as well: the page after it is
/// empty and without token.
pub(super) fn next(page: Page, last: Option<Seq>) -> String {
    match (page, last) {
        (Page::After(..), Some(last)) => last.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_size_everything_is_asked_for() {
        for size in [0, -1] {
            assert_eq!(requested(size, "garbage", "x"), Ok(Page::All));
        }
        assert_eq!(next(Page::All, Some(Seq::new(3))), "");
    }

    #[test]
    fn the_token_of_a_page_asks_for_the_next() {
        let page = requested(5, "", "x").unwrap();
        assert_eq!(page, Page::After(Seq::ZERO, 5));
        let token = next(page, Some(Seq::new(7)));
        assert_eq!(requested(5, &token, "x"), Ok(Page::After(Seq::new(7), 5)));
        assert_eq!(next(page, None), "");
    }

    #[test]
    fn a_malformed_page_token_is_refused() {
        for token in ["abc", "-1", "+1", " 1", "1.5", "99999999999999999999"] {
            let failure = requested(5, token, "failed to list entries").unwrap_err();
            let want = format!("failed to list entries: could not parse token '{token}'");
            assert_eq!(failure, ApiError::plain(tonic::Code::Internal, want));
        }
    }
}
