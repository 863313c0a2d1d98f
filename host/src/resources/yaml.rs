//! YAML text → a tree that keeps every scalar as it was written and every node's line.
//!
//! Kept apart from the schema because serde's own typed reading would lose both things that matter here: a
//! `value: 0012` would have to become a number or fail, and serde's messages repeat the value that did not
//! fit, which may be a secret. Nothing in this file puts a value into an error.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, NonFiniteFloatPolicy, Spanned};

/// A place in a YAML file and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// Counted from 1; 0 if unknown.
    pub(super) line: u64,
    /// Counted from 1; 0 if unknown.
    pub(super) column: u64,
    /// What is wrong, without any value of the file.
    pub(super) reason: String,
}

/// One node; aliases are already replaced by what they stand for. Without `Debug`: a node may be a secret.
pub(super) struct Node<'a> {
    /// Counted from 1.
    pub(super) line: u64,
    /// Counted from 1.
    pub(super) column: u64,
    pub(super) kind: Kind<'a>,
}

pub(super) enum Kind<'a> {
    Null,
    /// The text as written, after quotes and escapes.
    Scalar(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl Node<'_> {
    /// A mistake at this node.
    pub(super) fn mistake(&self, reason: impl Into<String>) -> Mistake {
        Mistake { line: self.line, column: self.column, reason: reason.into() }
    }
}

/// Reads all documents of `text`; empty ones and those of comments only are left out.
pub(super) fn read(text: &str) -> Result<Vec<Node<'_>>, Mistake> {
    // Editors on Windows write it; the offsets below must count from what the parser sees.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = serde_saphyr::options! {
        // What expands: component files repeat a URL by alias at most. Plain and quoted scalars are borrowed
        // from the text, so that a replay costs a node; only folded and escaped ones are copied.
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_aliases: 1_000,
            max_recorded_anchor_events: 10_000,
            max_recorded_anchor_bytes: 64 * 1024,
            max_merge_keys: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
        },
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // A snippet would print the neighbouring lines, and with them a secret.
        with_snippet: false,
    };
    let documents: Vec<Raw<'_>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| explain(&error))?;
    documents.into_iter().map(|document| document.resolve(text)).collect()
}

/// The parser's error in words that cannot contain a value.
fn explain(error: &Error) -> Mistake {
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    let reason = match error.without_snippet() {
        // The parser's own texts are fixed; they name characters of the syntax only.
        Error::ExternalMessage { msg, .. } => &format!("not valid YAML: {msg}; correct it"),
        Error::Eof { .. } => "the file ends in the middle of a value; complete it",
        Error::DuplicateMappingKey { .. } => "this key occurs twice in its mapping; remove one",
        Error::UnknownAnchor { .. } => {
            "this alias refers to an anchor that is not defined above; put a text that begins with * into quotes"
        }
        Error::Budget { .. }
        | Error::AliasError { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            "too many nodes, levels or aliases for component files; write the values out, in several files if necessary"
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => "this alias contains itself; write the value out",
        Error::InvalidScalar { .. } | Error::TaggedScalarCannotDeserializeIntoString { .. } => {
            "the value does not fit its tag; remove the tag"
        }
        _ => "cannot be read as YAML; correct it",
    };
    Mistake { line, column, reason: reason.to_owned() }
}

/// A node before its text is looked up: the parser tells what a plain scalar looks like to YAML, and where it
/// stands; what was written is then taken from there.
#[derive(Deserialize)]
#[serde(transparent)]
struct Raw<'a>(#[serde(borrow)] Spanned<RawKind<'a>>);

enum RawKind<'a> {
    Null,
    /// Looks like a number or a boolean.
    Inferred,
    Text(Cow<'a, str>),
    List(Vec<Raw<'a>>),
    Map(Vec<(Raw<'a>, Raw<'a>)>),
}

impl<'a> Raw<'a> {
    fn resolve(self, text: &'a str) -> Result<Node<'a>, Mistake> {
        let at = self.0.defined;
        let written = || {
            let span = at.span();
            let start = usize::try_from(span.byte_offset()?).ok()?;
            let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
            // Quotes occur around a number only behind a tag (`!!int "5"`).
            Some(text.get(start..end)?.trim_matches(['"', '\'']))
        };
        let (line, column) = (self.0.referenced.line(), self.0.referenced.column());
        let kind = match self.0.value {
            RawKind::Null => Kind::Null,
            RawKind::Text(text) => Kind::Scalar(text),
            RawKind::Inferred => match written() {
                Some(written) => Kind::Scalar(Cow::Borrowed(written)),
                None => {
                    let reason = "the text of this number cannot be found; put it into quotes";
                    return Err(Mistake { line, column, reason: reason.into() });
                }
            },
            RawKind::List(items) => {
                Kind::List(items.into_iter().map(|item| item.resolve(text)).collect::<Result<_, _>>()?)
            }
            RawKind::Map(entries) => {
                let mut resolved = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = key.resolve(text)?;
                    let name = match key.kind {
                        Kind::Scalar(name) => name,
                        Kind::Null => Cow::Borrowed(""),
                        Kind::List(_) | Kind::Map(_) => {
                            return Err(Mistake {
                                line: key.line,
                                column: key.column,
                                reason: "a key must be a text; put templates such as {uuid} into quotes".into(),
                            });
                        }
                    };
                    resolved.push((name, value.resolve(text)?));
                }
                Kind::Map(resolved)
            }
        };
        Ok(Node { line, column, kind })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawKind<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = RawKind<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(RawKind::Inferred)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(RawKind::Inferred)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(RawKind::Inferred)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(RawKind::Inferred)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(RawKind::Null)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(RawKind::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(RawKind::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(RawKind::Text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(RawKind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(RawKind::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scalar(yaml: &str) -> String {
        let mut documents = read(yaml).map_err(|mistake| mistake.reason).unwrap();
        assert_eq!(documents.len(), 1);
        let Kind::Map(entries) = documents.remove(0).kind else { panic!("no map") };
        match entries.into_iter().last().unwrap().1.kind {
            Kind::Scalar(text) => text.into_owned(),
            Kind::Null => "<null>".into(),
            _ => panic!("no scalar"),
        }
    }

    fn mistake(yaml: &str) -> Mistake {
        read(yaml).err().expect("refused")
    }

    #[test]
    fn scalars_keep_their_text() {
        for text in [
            "0012",
            "1.0",
            "1",
            "-7",
            "+5",
            "true",
            "True",
            "yes",
            "on",
            "1_000",
            "0x1F",
            "1e5",
            "1e999",
            ".inf",
            ".nan",
            "12345678901234567890123",
            "0.10",
            "5s",
            "2024-01-01",
            "长城",
            "a b",
            "http://h/?a=b&c=d",
        ] {
            assert_eq!(scalar(&format!("v: {text}\n")), text);
            assert_eq!(scalar(&format!("{{v: {text}}}")), text, "in a flow mapping");
            assert_eq!(scalar(&format!("# 长\nv: &anchor {text} # comment\n")), text, "after an anchor");
            assert_eq!(scalar(&format!("x: &a {text}\nv: *a\n")), text, "by alias");
            assert_eq!(scalar(&format!("v: \"{text}\"\n")), text, "in quotes");
            assert_eq!(scalar(&format!("\u{feff}v: {text}\r\n")), text, "from Windows");
        }
        assert_eq!(scalar("v: !!str 12\n"), "12");
        assert_eq!(scalar("v: !!int \"12\"\n"), "12");
        assert_eq!(scalar("v: \"a\\/\\ud83d\\ude00\"\n"), "a/😀");
        assert_eq!(scalar("v: |\n  a\n  b\n"), "a\nb\n");
        for null in ["", "null", "~", "Null"] {
            assert_eq!(scalar(&format!("v: {null}\n")), "<null>");
        }
        assert_eq!(scalar("v: \"\"\n"), "");
    }

    #[test]
    fn documents_with_their_lines() {
        let documents =
            read("# only a comment\n---\n---\n# first\na: 1\n---\nb: 2\n...\n---\n\n---\n- 3\n---\n").ok().unwrap();
        assert_eq!(documents.iter().map(|document| document.line).collect::<Vec<_>>(), [5, 7, 12]);
        assert!(read("").ok().unwrap().is_empty());
        assert!(read("# nothing\n").ok().unwrap().is_empty());
        assert!(read("--- # nothing\n").ok().unwrap().is_empty());
    }

    #[test]
    fn mistakes_have_line_and_column_of_the_file() {
        let found = mistake("a: 1\n---\nb: 2\n---\nc: \"open\nd: 3\n");
        assert!(found.line >= 5 && found.column >= 1, "{found:?}");
        let found = mistake("a: 1\n---\nb: 2\nb: S3CR3T\n");
        assert_eq!((found.line, found.column), (4, 1));
        assert_eq!(found.reason, "this key occurs twice in its mapping; remove one");
        let found = mistake("v: {uuid}\n? {uuid}\n: 1\n");
        assert_eq!((found.line, found.column), (2, 3));
        assert_eq!(mistake("v: *nothing\n").line, 1);
        assert_eq!(mistake("a:\n\t- b\n").line, 2);
    }

    #[test]
    fn expansion_is_bounded() {
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..10 {
            let below = format!("*a{},", level - 1).repeat(10);
            laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(mistake(&laughs).reason.starts_with("too many nodes, levels or aliases"));
        assert!(mistake(&"[".repeat(100_000)).line == 1);
        let large = format!("a: &a \"{}\\n\"\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(500));
        assert!(mistake(&large).reason.starts_with("too many nodes, levels or aliases"));
        assert!(mistake("a: &a [*a]\n").line == 1);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~\n\t]{0,80}|[-:&*!|>{}\\[\\]'\"#%@,?a1 \n]{0,60}|\\PC{0,40}") { let _ = read(&text); }

        #[test]
        fn quoted_text_comes_back(text in "[^\u{0}-\u{1f}\u{7f}-\u{9f}\u{feff}\u{fffe}\u{ffff}]{0,40}") {
            let quoted = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(scalar(&format!("v: {quoted}\n")), text);
        }
    }
}
