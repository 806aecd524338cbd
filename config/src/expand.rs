//! Environment variables in the text, as `-expandEnv` asks for: `$NAME` and `${NAME}`.

use std::iter::Peekable;
use std::str::Chars;

/// What the text looks like with its variables filled in.
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// Variables that are not set; they became nothing.
    pub(crate) unset: Vec<String>,
}

/// Replaces variables, in the manner of Go's `os.Expand` with SPIRE's `$$` for a dollar sign. Stops once the text is
/// longer than `limit`, which the caller then refuses.
pub(crate) fn expand(
    text: &str,
    limit: usize,
    lookup: impl Fn(&str) -> Option<String>,
) -> Expanded {
    let mut expanded = Expanded {
        text: String::with_capacity(text.len().min(limit)),
        unset: Vec::new(),
    };
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if expanded.text.len() > limit {
            break;
        }
        if next != '$' {
            expanded.text.push(next);
            continue;
        }
        match name(&mut rest) {
            Name::None => expanded.text.push('$'),
            Name::Broken => {}
            Name::Variable(name) if name == "$" => expanded.text.push('$'),
            Name::Variable(name) => match lookup(&name) {
                Some(value) => expanded.text.push_str(&value),
                None if expanded.unset.contains(&name) => {}
                None => expanded.unset.push(name),
            },
        }
    }
    expanded
}

enum Name {
    /// A dollar sign alone, which stays.
    None,
    /// `${}` or `${` without an end: dropped, as Go does.
    Broken,
    Variable(String),
}

fn name(rest: &mut Peekable<Chars<'_>>) -> Name {
    match rest.peek().copied() {
        Some('{') => {
            rest.next();
            let name = take_while(rest, |next| next != '}');
            let closed = rest.next().is_some();
            if closed && !name.is_empty() {
                Name::Variable(name)
            } else {
                Name::Broken
            }
        }
        Some('$') => {
            rest.next();
            Name::Variable("$".to_owned())
        }
        Some(next) if next.is_ascii_alphabetic() || next == '_' => {
            Name::Variable(take_while(rest, |next| {
                next.is_ascii_alphanumeric() || next == '_'
            }))
        }
        _ => Name::None,
    }
}

fn take_while(rest: &mut Peekable<Chars<'_>>, belongs: impl Fn(char) -> bool) -> String {
    let mut taken = String::new();
    while let Some(next) = rest.next_if(|next| belongs(*next)) {
        taken.push(next);
    }
    taken
}
