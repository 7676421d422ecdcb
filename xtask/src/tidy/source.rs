//! A Rust source split into what is code and what is comment, so that a word in a string or in prose isn't taken for a
//! call. Knows just enough of Rust's lexical rules for that.

/// One file, line by line; what isn't code is left out of `code`, what isn't comment out of `comments`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) code: Vec<String>,
    pub(super) comments: Vec<String>,
}

#[derive(Clone, Copy)]
enum State {
    Code,
    LineComment,
    /// With how many are open: they nest.
    BlockComment(u32),
    Text,
    /// With the number of `#` that end it.
    RawText(usize),
}

impl Source {
    pub(super) fn parse(text: &str) -> Self {
        let mut source = Self::default();
        let mut state = State::Code;
        for line in text.lines() {
            let (mut code, mut comment) = (String::new(), String::new());
            let letters: Vec<char> = line.chars().collect();
            let mut at = 0;
            while at < letters.len() {
                let rest = &letters[at..];
                let (next, n_letters) = step(state, rest, code.chars().last());
                match (state, next) {
                    (State::Code, State::Code) => code.extend(&rest[..n_letters]),
                    (State::LineComment | State::BlockComment(_), _) => comment.extend(&rest[..n_letters]),
                    _ => {}
                }
                state = next;
                at += n_letters;
            }
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            source.code.push(code);
            source.comments.push(comment);
        }
        source
    }
}

/// The state after the next letters, and how many those are.
fn step(state: State, rest: &[char], before: Option<char>) -> (State, usize) {
    match state {
        State::Code => match rest {
            ['/', '/', ..] => (State::LineComment, 2),
            ['/', '*', ..] => (State::BlockComment(1), 2),
            ['"', ..] => (State::Text, 1),
            ['r', ..] if !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') => raw(rest),
            // A quote starts a character, or a lifetime: only the former ends with another.
            ['\'', '\\', _, ..] => {
                let end = rest.iter().skip(3).position(|&letter| letter == '\'').map_or(rest.len(), |end| end + 4);
                (State::Code, end)
            }
            ['\'', _, '\'', ..] => (State::Code, 3),
            _ => (State::Code, 1),
        },
        State::LineComment => (State::LineComment, rest.len()),
        State::BlockComment(depth) => match rest {
            ['*', '/', ..] if depth == 1 => (State::Code, 2),
            ['*', '/', ..] => (State::BlockComment(depth - 1), 2),
            ['/', '*', ..] => (State::BlockComment(depth + 1), 2),
            _ => (State::BlockComment(depth), 1),
        },
        State::Text => match rest {
            ['\\', _, ..] => (State::Text, 2),
            ['"', ..] => (State::Code, 1),
            _ => (State::Text, 1),
        },
        State::RawText(n_hashes) => {
            let ends = rest[0] == '"' && rest.iter().skip(1).take_while(|&&letter| letter == '#').count() >= n_hashes;
            if ends { (State::Code, 1 + n_hashes) } else { (State::RawText(n_hashes), 1) }
        }
    }
}

fn raw(rest: &[char]) -> (State, usize) {
    let n_hashes = rest.iter().skip(1).take_while(|&&letter| letter == '#').count();
    if rest.get(1 + n_hashes) == Some(&'"') { (State::RawText(n_hashes), 2 + n_hashes) } else { (State::Code, 1) }
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn code(text: &str) -> String {
        Source::parse(text).code.join("\n")
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        assert_eq!(code("a(\"todo!()\"); // todo!()"), "a(); ");
        assert_eq!(code("a /* b /* c */ d */ e"), "a  e");
        assert_eq!(code("r#\"x\"todo!\"# + b\"y\" + '\"' + z"), " + b + '\"' + z");
        assert_eq!(code("let s = \"one\n two\"; three"), "let s = \n; three");
        assert_eq!(code("fn f<'a>(x: &'a str) -> char { '\\'' }"), "fn f<'a>(x: &'a str) -> char { '\\'' }");
    }

    #[test]
    fn comments_are_kept_apart() {
        let source = Source::parse("a(); // why\nlet url = \"http://host\";");
        assert_eq!(source.comments, [" why", ""]);
        assert_eq!(source.code, ["a(); ", "let url = ;"]);
    }
}
