//! YAML text → a tree that keeps every scalar as it was written and every node's line.
//!
//! Made of the parser's events, and not by serde: a `value: 0012` would have to become a number or fail, and serde's messages
//! repeat the value that did not fit, which may be a secret. And what serde asks of each node (where it stands, what it could
//! be) took twice as long as parsing. Nothing in this file puts a value into an error.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, StrInput, Tag};

/// Levels of a document; each is one of the stack.
const MAX_DEPTH: usize = 32;

/// Nodes of a file.
const MAX_NODES: usize = 250_000;

/// Nodes that anchors keep and aliases repeat, and bytes of their texts that are copied for it: component files repeat a URL by
/// alias at most. Plain and simply quoted scalars are borrowed from the file, so that each costs a node.
const MAX_REPEATED: usize = 10_000;
const MAX_REPEATED_BYTES: usize = 64 * 1024;

/// Names of a mapping that are looked through for each other one; with more of them, there is a table.
const FEW: usize = 16;

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
    Map(Entries<'a>),
}

type Entries<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

impl Node<'_> {
    /// A mistake at this node.
    pub(super) fn mistake(&self, reason: impl Into<String>) -> Mistake {
        At { line: self.line, column: self.column }.mistake(reason)
    }
}

/// Reads all documents of `text`; empty ones and those of comments only are left out.
pub(super) fn read(text: &str) -> Result<Vec<Node<'_>>, Mistake> {
    // Editors on Windows write it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = granit_parser::options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(text, options);
    let budget = Budget { nodes: MAX_NODES, repeated: MAX_REPEATED, bytes: MAX_REPEATED_BYTES };
    let mut reader = Reader { parser, anchors: BTreeMap::new(), budget };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            // Anchors are of one document.
            (Event::DocumentEnd, _) => reader.anchors.clear(),
            (event, at) => documents.extend(Some(reader.node(event, at, 0)?).filter(|node| !node.is_null())),
        }
    }
}

/// Where an event begins.
#[derive(Clone, Copy)]
struct At {
    line: u64,
    column: u64,
}

impl At {
    fn new(marker: &Marker) -> Self {
        let number = |number| u64::try_from(number).unwrap_or(u64::MAX);
        Self { line: number(marker.line()), column: number(marker.col()).saturating_add(1) }
    }

    fn mistake(self, reason: impl Into<String>) -> Mistake {
        Mistake { line: self.line, column: self.column, reason: reason.into() }
    }

    fn too_many(self) -> Mistake {
        self.mistake(
            "too many nodes, levels or aliases for component files; write the values out, in several files if necessary",
        )
    }

    fn misfit(self) -> Mistake {
        self.mistake("the value does not fit its tag; remove the tag")
    }

    fn unreadable(self) -> Mistake {
        self.mistake("cannot be read as YAML; correct it")
    }
}

/// The parser's error in words that cannot contain a value.
fn explain(error: &ScanError) -> Mistake {
    At::new(error.marker()).mistake(match error.kind() {
        ErrorKind::UnknownAnchor => {
            "this alias refers to an anchor that is not defined above; put a text that begins with * into quotes"
                .to_owned()
        }
        // The parser's own texts are fixed; they name characters of the syntax only.
        _ => format!("not valid YAML: {}; correct it", error.info()),
    })
}

/// What is left.
struct Budget {
    nodes: usize,
    repeated: usize,
    bytes: usize,
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What has an anchor, once all of it is read.
    anchors: BTreeMap<usize, Node<'a>>,
    budget: Budget,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, At), Mistake> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, At::new(&span.start))),
            Some(Err(error)) => Err(explain(&error)),
            None => {
                let at = At { line: 0, column: 0 };
                Err(at.mistake("the file ends in the middle of a value; complete it"))
            }
        }
    }

    /// The node that begins with `event`, at this depth.
    fn node(&mut self, event: Event<'a>, at: At, depth: usize) -> Result<Node<'a>, Mistake> {
        self.budget.nodes = self.budget.nodes.checked_sub(1).ok_or_else(|| at.too_many())?;
        let is_collection = matches!(event, Event::SequenceStart(..) | Event::MappingStart(..));
        if is_collection && depth >= MAX_DEPTH {
            return Err(at.too_many());
        }
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(text, style, tag.as_deref(), at)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                fits(tag.as_deref(), "seq", at)?;
                (Kind::List(self.list(depth + 1)?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                fits(tag.as_deref(), "map", at)?;
                (Kind::Map(self.map(depth + 1)?), anchor)
            }
            Event::Alias(anchor) => {
                // One that is not known at all is the parser's error.
                let meant = self.anchors.get(&anchor);
                let meant = meant.ok_or_else(|| at.mistake("this alias contains itself; write the value out"))?;
                return self.budget.repeat(meant, Some(at));
            }
            _ => return Err(at.unreadable()),
        };
        let node = Node { line: at.line, column: at.column, kind };
        if anchor != 0 {
            self.anchors.insert(anchor, self.budget.repeat(&node, None)?);
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node<'a>>, Mistake> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Entries<'a>, Mistake> {
        let (mut entries, mut table) = (Vec::new(), HashSet::new());
        // What `<<` brings in stands behind what is written, which comes before it.
        let mut merged = Vec::new();
        loop {
            let (event, at) = match self.next()? {
                (Event::MappingEnd, _) => break,
                begun => begun,
            };
            let is_merge = is_merge(&event);
            let key = self.node(event, at, depth)?;
            let name = match key.kind {
                Kind::Scalar(name) => name,
                Kind::Null => Cow::Borrowed(""),
                Kind::List(_) | Kind::Map(_) => {
                    return Err(at.mistake("a key must be a text; put templates such as {uuid} into quotes"));
                }
            };
            if !is_merge && is_known(&entries, &mut table, &name) {
                return Err(at.mistake("this key occurs twice in its mapping; remove one"));
            }
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth)?;
            if !is_merge {
                entries.push((name, value));
                continue;
            }
            match value.kind {
                Kind::Null => {}
                Kind::Map(more) => merged.extend(more),
                Kind::List(items) => {
                    for item in items {
                        let Kind::Map(more) = item.kind else {
                            return Err(item.mistake("cannot be read as YAML; correct it"));
                        };
                        merged.extend(more);
                    }
                }
                Kind::Scalar(_) => return Err(at.unreadable()),
            }
        }
        for (name, value) in merged {
            if !is_known(&entries, &mut table, &name) {
                entries.push((name, value));
            }
        }
        Ok(entries)
    }
}

/// Whether a mapping has `name` already. `table` has the names of one that is not small.
fn is_known<'a>(entries: &Entries<'a>, table: &mut HashSet<Cow<'a, str>>, name: &str) -> bool {
    if entries.len() < FEW {
        return entries.iter().any(|(known, _)| known == name);
    }
    // Each is there once.
    table.extend(entries.iter().skip(table.len()).map(|(known, _)| known.clone()));
    table.contains(name)
}

impl Budget {
    /// `node` once more; where an alias stands, if it is there for one.
    fn repeat<'a>(&mut self, node: &Node<'a>, at: Option<At>) -> Result<Node<'a>, Mistake> {
        let Node { line, column, ref kind } = *node;
        let place = at.unwrap_or(At { line, column });
        self.repeated = self.repeated.checked_sub(1).ok_or_else(|| place.too_many())?;
        let kind = match kind {
            Kind::Null => Kind::Null,
            Kind::Scalar(text) => Kind::Scalar(self.text(text, place)?),
            Kind::List(items) => Kind::List(items.iter().map(|item| self.repeat(item, at)).collect::<Result<_, _>>()?),
            Kind::Map(entries) => {
                let repeat =
                    |(name, value): &(Cow<'a, str>, Node<'a>)| Ok((self.text(name, place)?, self.repeat(value, at)?));
                Kind::Map(entries.iter().map(repeat).collect::<Result<_, Mistake>>()?)
            }
        };
        Ok(Node { line: place.line, column: place.column, kind })
    }

    fn text<'a>(&mut self, text: &Cow<'a, str>, place: At) -> Result<Cow<'a, str>, Mistake> {
        if let Cow::Owned(copied) = text {
            self.bytes = self.bytes.checked_sub(copied.len()).ok_or_else(|| place.too_many())?;
        }
        Ok(text.clone())
    }
}

impl Node<'_> {
    fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }
}

/// What YAML itself gives a meaning to; `!int` is taken for `!!int`. Of others, nobody asks.
fn name_of(tag: Option<&Tag>) -> Option<Cow<'_, str>> {
    let tag = tag?;
    tag.suffix_in_namespace("tag:yaml.org,2002:").or_else(|| tag.suffix_in_namespace("!"))
}

/// Whether a key has the entries of another mapping in its place.
fn is_merge(event: &Event<'_>) -> bool {
    let Event::Scalar(text, style, _, tag) = event else { return false };
    text == "<<"
        && if tag.is_none() {
            *style == ScalarStyle::Plain
        } else {
            name_of(tag.as_deref()).as_deref() == Some("merge")
        }
}

/// A list or a mapping with the tag of something else.
fn fits(tag: Option<&Tag>, own: &str, at: At) -> Result<(), Mistake> {
    const KINDS: [&str; 9] = ["seq", "map", "str", "null", "bool", "int", "float", "binary", "timestamp"];
    match name_of(tag) {
        Some(name) if name != own && KINDS.contains(&&*name) => Err(at.misfit()),
        _ => Ok(()),
    }
}

fn scalar<'a>(text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>, at: At) -> Result<Kind<'a>, Mistake> {
    let is_null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
    let begins_as_number = || {
        let digits = text.trim_start_matches(['+', '-', '.']);
        digits.starts_with(|c: char| c.is_ascii_digit()) || ["inf", "nan"].contains(&&*digits.to_ascii_lowercase())
    };
    let fits = match name_of(tag).as_deref() {
        Some("null") => return Ok(Kind::Null),
        Some("str" | "" | "!") => true,
        Some("binary") => {
            let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            let bytes = STANDARD.decode(packed).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| at.misfit())?;
            return Ok(Kind::Scalar(Cow::Owned(text)));
        }
        Some("int" | "float") => begins_as_number(),
        Some("bool") => {
            const WORDS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "y", "n"];
            WORDS.contains(&&*text.to_ascii_lowercase())
        }
        Some("seq" | "map" | "timestamp") => false,
        _ if is_null => return Ok(Kind::Null),
        _ => true,
    };
    if fits { Ok(Kind::Scalar(text)) } else { Err(at.misfit()) }
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

    /// As the reader in the error of a wrong value sees it.
    fn shown(node: &Node<'_>) -> String {
        let text = match &node.kind {
            Kind::Null => "null".into(),
            Kind::Scalar(text) => text.to_string(),
            Kind::List(items) => format!("{:?}", items.iter().map(shown).collect::<Vec<_>>()),
            Kind::Map(entries) => {
                format!(
                    "{:?}",
                    entries.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect::<Vec<_>>()
                )
            }
        };
        format!("{}:{} {text}", node.line, node.column).replace('"', "").replace('\\', "")
    }

    #[test]
    fn what_an_alias_repeats_stands_where_the_alias_does() {
        let documents = read("a: &a\n  b: [c]\nd: *a\ne: {f: *a}\n").ok().unwrap();
        assert_eq!(
            shown(&documents[0]),
            "1:1 [a=2:3 [b=2:6 [2:7 c]], d=3:4 [b=3:4 [3:4 c]], e=4:4 [f=4:8 [b=4:8 [4:8 c]]]]"
        );
        assert_eq!(mistake("a: &a b\n---\nc: *a\n").line, 3);
        assert_eq!(mistake("a: &a {b: *a}\n").reason, "this alias contains itself; write the value out");
    }

    #[test]
    fn what_is_merged_stands_behind_what_is_written_and_counts_less() {
        for (text, merged) in [
            ("m: &m {a: 1, b: 2}\nn:\n  <<: *m\n  b: 3\n", "n=3:3 [b=4:6 3, a=3:7 1]"),
            ("n: {<<: [{a: 1}, {a: 2, c: 3}], z: 1}\n", "n=1:4 [z=1:36 1, a=1:14 1, c=1:28 3]"),
            ("n: {<<: ~, '<<': 1}\n", "n=1:4 [<<=1:18 1]"),
        ] {
            let documents = read(text).ok().unwrap();
            assert!(shown(&documents[0]).ends_with(&format!("{merged}]")), "{}", shown(&documents[0]));
        }
        for text in ["<<: 5\n", "<<: [5]\n"] {
            assert_eq!(mistake(text).reason, "cannot be read as YAML; correct it");
        }
    }

    #[test]
    fn what_a_tag_says_is_kept_to() {
        for (value, text) in [
            ("!!str null", "null"),
            ("! ~", "~"),
            ("!!null x", "<null>"),
            ("!!int 0x1F", "0x1F"),
            ("!!float .inf", ".inf"),
            ("!!bool TRUE", "TRUE"),
            ("!!binary aGFsbG8=", "hallo"),
            ("!foo bar", "bar"),
            ("!foo", "<null>"),
        ] {
            assert_eq!(scalar(&format!("v: {value}\n")), text, "{value}");
        }
        for value in
            ["!!int abc", "!!float x", "!!bool maybe", "!!binary '%'", "!!timestamp 2020-01-01", "!!seq x", "!!map [1]"]
        {
            assert_eq!(
                mistake(&format!("v: {value}\n")).reason,
                "the value does not fit its tag; remove the tag",
                "{value}"
            );
        }
    }

    /// In a time that is not felt, too.
    #[test]
    fn of_very_many_keys_the_one_that_occurs_twice_is_found() {
        let mut text: String = (0..50_000).map(|number| format!("k{number}: 1\n")).collect();
        assert_eq!(read(&text).ok().unwrap().len(), 1);
        text.push_str("k49999: 1\n");
        assert_eq!((mistake(&text).line, mistake(&text).column), (50_001, 1));
        assert!(mistake(&"- 1\n".repeat(MAX_NODES)).reason.starts_with("too many nodes"));
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
