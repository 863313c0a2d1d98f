//! Messages that wait → one markdown message that says what they say. Pure.
//!
//! How DingTalk reads markdown is documented as a list: headings, quotes, bold, italic, links, pictures, lists, and two spaces
//! before the end of a line that is to stay one. What it makes of a backslash before a mark, of code, of HTML and of `---` is
//! not. So a text that becomes markdown has, where it can be, nothing but characters that nobody sees against being read as
//! marks; a backslash is left for marks of pairs. Messages are parted by what parts them as a line and as three hyphens.

use dingtalk_binding::markdown;
use dingtalk_binding::message::MAX_PEOPLE;
use pulldown_cmark::{Event, Options, Parser, TagEnd};
use serde::{Deserialize, Deserializer, Serialize};

use super::split::{self, Syntax};
use super::{LARGEST, Message, json_size};

/// What stands between two messages.
const BETWEEN: &str = "\n\n---\n\n";

/// Of bodies, so many bytes are looked at in all. More than a merged message has, because a body can be written with
/// escapes and blanks; bounded, because it can be written with nothing else.
const MOST_READ: usize = 8 * LARGEST;

/// Characters of the title, before the number.
const LONGEST_TITLE: usize = 64;

/// One message, and how many it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// As DingTalk takes it, without a `msgUuid`: whose it would be, nobody could say.
    pub body: Vec<u8>,
    /// The first so many of those that wait.
    pub count: usize,
}

/// Of messages that wait, in order: one markdown message that says what the first of them say, and how many it took. As many
/// as fit into one message of DingTalk's, and call no more people than one can. Ends before a message that is neither text nor
/// markdown, that cannot be read, or that would change how the next one is read. Nothing if there are not two.
pub fn merge(bodies: &[impl AsRef<[u8]>], keywords: &[String]) -> Option<Merged> {
    let mut union = Union::new(keywords)?;
    let mut read = 0_usize;
    for body in bodies {
        let body = body.as_ref();
        read = read.saturating_add(body.len());
        if read > MOST_READ || Part::read(body).and_then(|part| union.take(part)).is_none() {
            break;
        }
    }
    union.merged()
}

/// Whom a message calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
// Whom another member would call, nobody could unite.
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct At {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    at_mobiles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    at_user_ids: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "or_default")]
    is_at_all: bool,
}

/// Clients write `null` for what they leave out.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    Option::deserialize(reader).map(Option::unwrap_or_default)
}

impl At {
    /// Nothing if one message cannot call so many.
    fn with(mut self, other: &Self) -> Option<Self> {
        for (all, more) in [(&mut self.at_mobiles, &other.at_mobiles), (&mut self.at_user_ids, &other.at_user_ids)] {
            for person in more.iter().filter(|person| !person.is_empty()) {
                if all.contains(person) {
                    continue;
                }
                if all.len() == MAX_PEOPLE {
                    return None;
                }
                all.push(person.clone());
            }
        }
        self.is_at_all |= other.is_at_all;
        Some(self)
    }
}

/// One of the messages.
struct Part {
    /// In markdown, and such that what follows begins anew.
    text: String,
    /// For a notification.
    title: String,
    /// Of those that it stands for already, all but the first.
    others: usize,
    at: At,
}

impl Part {
    fn read(body: &[u8]) -> Option<Self> {
        let message = Message::read(body)?;
        let at = message.members.get("at").map(|at| serde_json::from_str::<Option<At>>(at.get()));
        // The union with nobody: each person once, and no more than a message can call.
        let at = At::default().with(&at.transpose().ok()?.flatten().unwrap_or_default())?;
        let text = message.text?;
        // Reading it takes longer than knowing that it cannot fit. A message without a text has DingTalk's answer to come.
        if json_size(&text.text) > LARGEST || text.text.trim().is_empty() {
            return None;
        }
        match text.syntax {
            Syntax::Plain => {
                let first = text.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
                Some(Self { title: shortened(first.trim()), others: 0, text: as_markdown(&text.text, &at), at })
            }
            Syntax::Markdown => {
                let title = text.title.unwrap_or_default();
                let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
                let closed = closed(without_blank_ends(&text.text))?;
                if let Some((title, others)) = of_several(&title, &closed) {
                    return Some(Self { title: title.to_owned(), others, text: closed, at });
                }
                let first = markdown::title(&closed);
                let text = if first.starts_with(&title) { closed } else { format!("{}\n\n{closed}", bold(&title)) };
                Some(Self { title: if title.is_empty() { first } else { shortened(&title) }, others: 0, text, at })
            }
        }
    }
}

/// Of a message that several have become, and that has not gone out yet: the first one's title, and the number of the others.
fn of_several<'a>(title: &'a str, text: &str) -> Option<(&'a str, usize)> {
    let (title, number) = title.strip_suffix(')')?.rsplit_once(" (+")?;
    let others = number.parse().ok()?;
    (others > 0 && text.matches(BETWEEN).count() >= others).then_some((title, others))
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LONGEST_TITLE) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// Blanks before the first line's own are kept: they may make it code.
fn without_blank_ends(text: &str) -> &str {
    // Others are written to be seen as space.
    const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];
    let text = text.trim_end_matches(BLANKS);
    let blank = text.len() - text.trim_start_matches(BLANKS).len();
    let line = text.get(..blank).and_then(|blank| blank.rfind(['\n', '\r']));
    text.get(line.map_or(0, |end| end + 1)..).unwrap_or_default()
}

/// A markdown text, with its last fence closed if it is open. Nothing if what follows would be read as a part of it all the
/// same, as after HTML without an end, if it says where links of others lead, or if it is nested so deeply that reading it
/// takes long.
fn closed(text: &str) -> Option<String> {
    // Within a quote or a list it ends with that, but not for who makes a page of HTML of it.
    let comment = text.rfind("<!--").and_then(|start| text.get(start..));
    if comment.is_some_and(|comment| !comment.contains("-->")) || split::is_nested_deeply(text) {
        return None;
    }
    let followed = [text, BETWEEN].concat();
    let parser = Parser::new_ext(&followed, Options::ENABLE_TABLES);
    if parser.reference_definitions().iter().next().is_some() {
        return None;
    }
    match parser.into_offset_iter().last()? {
        (Event::Rule, _) => Some(text.to_owned()),
        (Event::End(TagEnd::CodeBlock), block) => {
            let block = text.get(block.start..)?.trim_start();
            let sign = block.chars().next().filter(|sign| ['`', '~'].contains(sign))?;
            let mark = block.get(..block.len() - block.trim_start_matches(sign).len())?;
            Some(format!("{text}\n{mark}"))
        }
        _ => None,
    }
}

/// Nobody sees it, and at the beginning of a line, or between two characters that are a mark together, nobody reads a mark.
const NOTHING: char = '\u{200b}';

/// A space that stays one where spaces before a line and behind each other would not be seen.
const SPACE: char = '\u{a0}';

/// Marks of pairs, around what they mark.
const PAIRED: [char; 3] = ['*', '_', '`'];

/// A text in markdown that shows it as it was written, line by line. Blanks at both ends are left out.
fn as_markdown(text: &str, at: &At) -> String {
    let text = without_blank_ends(text).replace("\r\n", "\n");
    let inline = Inline::of(&text, at);
    let mut written = String::with_capacity(text.len() + text.len() / 8);
    for (index, line) in text.split(['\n', '\r']).enumerate() {
        if index > 0 {
            written.push_str("  \n");
        }
        let line = line.trim_end();
        let start = line.trim_start_matches([' ', '\t']);
        for blank in line.chars().take(line.len() - start.len()) {
            (0..if blank == '\t' { 4 } else { 1 }).for_each(|_| written.push(SPACE));
        }
        // An empty line would be one of any number.
        if start.is_empty() {
            written.push(SPACE);
        }
        if begins_block(start) {
            written.push(NOTHING);
        }
        inline.write(start, &mut written);
    }
    written
}

/// Whether a line may be read as something else than a line because of what it begins with.
fn begins_block(line: &str) -> bool {
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    line.starts_with(['#', '>', '-', '+', '*', '_', '=', '`', '~', '|', ':', '[', '<'])
        || number.len() < line.len() && number.starts_with(['.', ')'])
}

/// A title, which is no markdown, as a bold line.
fn bold(title: &str) -> String {
    let inline = Inline { paired: PAIRED.to_vec(), people: Vec::new() };
    let mut written = "**".to_owned();
    inline.write(title, &mut written);
    // Of the mark behind it, it would make a character.
    if title.ends_with('\\') {
        written.push(NOTHING);
    }
    written + "**"
}

/// How lines of a text are written, so that they are read as they stand.
struct Inline<'a> {
    /// The marks that may be read as pairs.
    paired: Vec<char>,
    /// Who is called stands there as DingTalk looks for it.
    people: Vec<&'a str>,
}

impl<'a> Inline<'a> {
    fn of(text: &str, at: &'a At) -> Self {
        // One that stands there once has no other to be read with.
        let is_paired = |mark: &char| text.split(|c| c != *mark).filter(|run| !run.is_empty()).nth(1).is_some();
        let people = at.at_mobiles.iter().chain(&at.at_user_ids).map(String::as_str);
        Self { paired: PAIRED.into_iter().filter(is_paired).collect(), people: people.collect() }
    }

    fn write(&self, line: &str, into: &mut String) {
        let mut before = '\0';
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '@' => self.mention(rest),
                mark if PAIRED.contains(&mark) => rest.len() - rest.trim_start_matches(mark).len(),
                c => c.len_utf8(),
            };
            let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
            let next = after.chars().next().unwrap_or('\0');
            // In a word, as in a name of a program's, it is none.
            let is_in_word = first == '_' && before.is_alphanumeric() && next.is_alphanumeric();
            match first {
                // There is nothing unseen against a pair. A backslash is what markdown has, and what others send DingTalk;
                // should DingTalk show it, the text can still be read.
                mark if self.paired.contains(&mark) && !is_in_word => {
                    token.chars().for_each(|mark| into.extend(['\\', mark]));
                }
                ' ' if before == ' ' => into.push(SPACE),
                '~' if before == '~' => into.extend([NOTHING, first]),
                '(' if before == ']' => into.extend([NOTHING, first]),
                _ => into.push_str(token),
            }
            let is_mark = match first {
                '\\' => next.is_ascii_punctuation(),
                // Tags, comments, and addresses of all kinds.
                '<' => next.is_ascii_graphic(),
                '&' => is_entity(after),
                _ => false,
            };
            if is_mark {
                into.push(NOTHING);
            }
            before = token.chars().next_back().unwrap_or(first);
            rest = after;
        }
    }

    /// The length of the mention that `text` begins with, at least that of its `@`.
    fn mention(&self, text: &str) -> usize {
        let name = text.get(1..).unwrap_or_default();
        let lengths = self.people.iter().filter(|person| name.starts_with(**person)).map(|person| person.len());
        1 + lengths.max().unwrap_or_default()
    }
}

/// Whether `&` before this is read with it as one character.
fn is_entity(after: &str) -> bool {
    const LONGEST: usize = 33;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'#';
    let name = after.bytes().take(LONGEST).take_while(is_name).count();
    name > 0 && after.as_bytes().get(name) == Some(&b';')
}

/// What has been taken so far.
struct Union<'a> {
    keywords: &'a [String],
    count: usize,
    /// What some of them stand for beside themselves.
    others: usize,
    /// Of the first one.
    title: String,
    text: String,
    has_keyword: bool,
    at: At,
    /// Bytes of the body beside title and text, and of the text in it.
    frame: usize,
    size: usize,
}

#[derive(Serialize)]
struct Body<'a> {
    msgtype: &'static str,
    markdown: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a At>,
}

#[derive(Serialize)]
struct Content<'a> {
    title: &'a str,
    text: &'a str,
}

impl<'a> Union<'a> {
    fn new(keywords: &'a [String]) -> Option<Self> {
        let (at, title, text) = (At::default(), String::new(), String::new());
        let frame = body("", "", &at)?.len();
        Some(Self { keywords, count: 0, others: 0, title, text, has_keyword: keywords.is_empty(), at, frame, size: 0 })
    }

    /// With one more. Nothing, and unchanged, if it does not fit.
    fn take(&mut self, part: Part) -> Option<()> {
        let is_first = self.count == 0;
        let at = self.at.clone().with(&part.at)?;
        let frame = if at == self.at { self.frame } else { body("", "", &at)?.len() };
        let between = if is_first { "" } else { BETWEEN };
        let size = self.size + json_size(between) + json_size(&part.text);
        let has_keyword = self.has_keyword || self.keywords.iter().any(|word| part.text.contains(word.as_str()));
        let title = if is_first { &part.title } else { &self.title };
        let beside = json_size(&numbered(title, self.count + 1 + self.others + part.others))
            + json_size(&self.keyword(has_keyword));
        if frame + size + beside > LARGEST {
            return None;
        }
        self.text.push_str(between);
        self.text.push_str(&part.text);
        if is_first {
            self.title = part.title;
        }
        self.count += 1;
        self.others += part.others;
        (self.has_keyword, self.at, self.frame, self.size) = (has_keyword, at, frame, size);
        Some(())
    }

    /// What is added for the robot to take the message.
    fn keyword(&self, has_keyword: bool) -> String {
        let word = self.keywords.first().filter(|_| !has_keyword);
        word.map(|word| format!("{}{word}", Syntax::Markdown.paragraph())).unwrap_or_default()
    }

    fn merged(mut self) -> Option<Merged> {
        if self.count < 2 {
            return None;
        }
        self.text += &self.keyword(self.has_keyword);
        let body = body(&numbered(&self.title, self.count + self.others), &self.text, &self.at)?;
        Some(Merged { body, count: self.count })
    }
}

/// The title of so many messages, of which it is the first one's.
fn numbered(title: &str, count: usize) -> String {
    format!("{title} (+{})", count.saturating_sub(1))
}

fn body(title: &str, text: &str, at: &At) -> Option<Vec<u8>> {
    let at = Some(at).filter(|at| **at != At::default());
    serde_json::to_vec(&Body { msgtype: "markdown", markdown: Content { title, text }, at }).ok()
}

#[cfg(test)]
mod tests;
