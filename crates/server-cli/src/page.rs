//! Lists that the server answers page by page.

use crate::error::CommandError;

/// Reads page after page until there is none left; `fetch` gets the token of the page that it is to read.
pub(crate) async fn each<P>(
    mut fetch: impl AsyncFnMut(String) -> Result<(P, String), CommandError>,
    mut take: impl FnMut(P),
) -> Result<(), CommandError> {
    let mut token = String::new();
    loop {
        let (page, next) = fetch(token).await?;
        take(page);
        if next.is_empty() {
            return Ok(());
        }
        token = next;
    }
}
