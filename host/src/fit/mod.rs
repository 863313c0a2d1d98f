//! A message that its robot takes: not larger than DingTalk's limit, and with one of the robot's keywords. Pure: a request in,
//! the requests to be made of it out. Without the properties for it, and where a message fits, the request is the one that
//! came, byte for byte.

pub mod merge;
mod split;

use std::collections::BTreeMap;

use dingtalk_binding::contract::{self, InvokeRequest};
use dingtalk_binding::message::{self, Options};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use split::Syntax;

/// DingTalk's limit for a body, in bytes. "body 大小不合法 … 20000bytes"; whether it means the text alone is not documented,
/// and the body is the larger of the two.
const LARGEST: usize = 20_000;

/// Parts of one message: as many as a robot takes in a minute, so that they can be sent in one call at all.
const MOST_PARTS: usize = 20;

/// Keywords that a robot can have.
const MOST_KEYWORDS: usize = 10;

/// What becomes of a message above the limit: the property `tooLong`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// It is sent in parts.
    Split,
    /// Its end is left out.
    Truncate,
    /// It is not sent.
    Refuse,
}

/// What a binding's file says about its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    too_long: Option<TooLong>,
    keywords: Box<[String]>,
}

impl Policy {
    /// Reads the properties `tooLong` and `keywords`. The error begins with the property's name.
    pub fn parse(too_long: Option<&str>, keywords: Option<&str>) -> Result<Self, String> {
        let too_long = match too_long.map(str::trim).unwrap_or_default() {
            "" => None,
            "split" => Some(TooLong::Split),
            "truncate" => Some(TooLong::Truncate),
            "refuse" => Some(TooLong::Refuse),
            _ => return Err("property \"tooLong\" is none of \"split\", \"truncate\", \"refuse\"".into()),
        };
        let keywords = keywords.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
        let keywords: Box<[String]> = keywords.map(str::to_owned).collect();
        if keywords.len() > MOST_KEYWORDS {
            return Err(format!("property \"keywords\" has more than {MOST_KEYWORDS}, which no robot has"));
        }
        if keywords.iter().any(|word| word.len() > 256) {
            return Err("property \"keywords\" has a word of more than 256 bytes; separate words with commas".into());
        }
        Ok(Self { too_long, keywords })
    }

    /// Whether it is known, without a look into it, that there is nothing to do for `request`.
    pub fn is_satisfied_by(&self, request: &InvokeRequest) -> bool {
        // A character becomes six at most, and a message has a frame.
        const FRAME: usize = 512;
        let metadata = request.metadata.iter().map(|(_, value)| value.len()).sum::<usize>();
        let is_short = request.data.len().saturating_add(metadata).saturating_mul(6) <= LARGEST - FRAME;
        self.keywords.is_empty() && (self.too_long.is_none() || is_short)
    }

    /// One message that says what the first of these say: see [`merge::merge`].
    pub fn merge(&self, bodies: &[impl AsRef<[u8]>]) -> Option<merge::Merged> {
        merge::merge(bodies, &self.keywords)
    }

    /// What is to be sent for `request`, in this order. The error says what keeps it from being a message that the robot
    /// takes.
    pub fn apply(&self, request: InvokeRequest) -> Result<Vec<InvokeRequest>, String> {
        if self.is_satisfied_by(&request) {
            return Ok(vec![request]);
        }
        // What is no message has its error from the binding.
        let Ok(options) = Options::parse(contract::pairs(&request.metadata)) else { return Ok(vec![request]) };
        let Ok(body) = message::shape(&request.data, &options) else { return Ok(vec![request]) };
        let Some(message) = Message::read(&body) else { return Ok(vec![request]) };
        let keyword = self.keywords.first().filter(|_| !message.has_any(&self.keywords));
        let fits = self.too_long.is_none() || body.len() <= LARGEST;
        if keyword.is_none() && fits {
            return Ok(vec![request]);
        }
        if message.text.is_none() {
            return Err(match keyword {
                Some(_) => {
                    "the message has none of the robot's keywords (property \"keywords\"), and a message of its type \
                            cannot be given one; put one into it"
                        .into()
                }
                None => format!(
                    "the message has {} bytes, DingTalk takes {LARGEST}, and a message of its type cannot be made shorter",
                    body.len()
                ),
            });
        }
        let bodies = match self.too_long {
            Some(TooLong::Refuse) if !fits => {
                return Err(format!(
                    "the message has {} bytes, and DingTalk takes {LARGEST}; make it shorter",
                    body.len()
                ));
            }
            Some(how) => message.within(LARGEST, how, &self.keywords)?,
            None => vec![message.body(None, &message.with_keyword(message.text().1, &self.keywords))?],
        };
        let InvokeRequest { operation, metadata, .. } = request;
        // What shaped the message is in it by now.
        let metadata: Vec<_> = metadata.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("msgUuid")).collect();
        let parts = bodies.into_iter().map(|data| InvokeRequest {
            operation: operation.clone(),
            data,
            metadata: metadata.clone(),
        });
        Ok(parts.collect())
    }
}

fn too_long(length: usize) -> String {
    format!("the message has {length} bytes, and DingTalk takes {LARGEST}; make it shorter")
}

/// A message as DingTalk takes it, apart as far as it has to be.
struct Message {
    members: BTreeMap<String, Box<RawValue>>,
    /// Of the types that are a text.
    text: Option<Text>,
    /// Every text in it, for keywords.
    all: String,
}

/// Where the text stands, and how it is read.
struct Text {
    syntax: Syntax,
    text: String,
    title: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    content: String,
}

#[derive(Deserialize)]
struct Markdown {
    #[serde(default)]
    title: String,
    text: String,
}

/// Which of several, and of how many, both from 1.
#[derive(Debug, Clone, Copy)]
struct Number {
    which: usize,
    of: usize,
}

impl Message {
    fn read(body: &[u8]) -> Option<Self> {
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).ok()?;
        let member = |name: &str| members.get(name).map(|value| value.get());
        let kind: String = serde_json::from_str(member("msgtype")?).ok()?;
        let text = match kind.as_str() {
            "text" => serde_json::from_str(member("text")?).ok().map(|Content { content }| Text {
                syntax: Syntax::Plain,
                text: content,
                title: None,
            }),
            "markdown" => serde_json::from_str(member("markdown")?).ok().map(|Markdown { title, text }| Text {
                syntax: Syntax::Markdown,
                text,
                title: Some(title),
            }),
            _ => None,
        };
        let mut all = String::new();
        for (name, value) in &members {
            if !["at", "msgUuid", "msgtype"].contains(&name.as_str()) {
                texts(&serde_json::from_str(value.get()).ok()?, &mut all);
            }
        }
        Some(Self { members, text, all })
    }

    fn has_any(&self, keywords: &[String]) -> bool {
        keywords.iter().any(|word| self.all.contains(word.as_str()))
    }

    /// How the text is read, and the text; nothing, for a message of another type.
    fn text(&self) -> (Syntax, &str) {
        self.text.as_ref().map_or((Syntax::Plain, ""), |text| (text.syntax, &text.text))
    }

    /// `text` with the first keyword behind it, if it has none.
    fn with_keyword(&self, text: &str, keywords: &[String]) -> String {
        let (syntax, _) = self.text();
        // A title is searched too, but whether it is in each part is not for it to say.
        match keywords.first().filter(|_| !keywords.iter().any(|word| text.contains(word.as_str()))) {
            Some(word) => format!("{}{}{word}", text.trim_end(), syntax.paragraph()),
            None => text.to_owned(),
        }
    }

    /// Bodies of at most `limit` bytes.
    fn within(&self, limit: usize, how: TooLong, keywords: &[String]) -> Result<Vec<Vec<u8>>, String> {
        let (syntax, text) = self.text();
        let whole = self.body(None, &self.with_keyword(text, keywords))?;
        if whole.len() <= limit {
            return Ok(vec![whole]);
        }
        if how == TooLong::Refuse {
            return Err(too_long(whole.len()));
        }
        // The most that a part can have beside its text: the first one has `at` as it came, later ones without everybody.
        let of = MOST_PARTS;
        let numbers = [None, Some(Number { which: 1, of }), Some(Number { which: of, of })];
        let frames = numbers.iter().map(|number| self.body(*number, "").map(|body| body.len()));
        let frame = frames.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or_default();
        // "1" is a digit shorter than the longest number.
        let frame = frame + 2 * (MOST_PARTS.ilog10() as usize + 1);
        let word = keywords.first().map(|word| json_size(&format!("{}{word}", syntax.paragraph()))).unwrap_or_default();
        let beside = frame + word + json_size(syntax.ellipsis());
        let budget = limit.checked_sub(beside).filter(|budget| *budget >= limit / 2).ok_or_else(|| {
            format!("the message has more than {} bytes beside its text; DingTalk takes {limit} in all", limit / 2)
        })?;
        let too_many = || {
            format!(
                "the message has {} bytes of text, more than {MOST_PARTS} messages can have; make it shorter, or write \
                 tooLong: truncate",
                text.len()
            )
        };
        // Before it is searched for places to break it.
        if how == TooLong::Split && text.len() > budget * MOST_PARTS {
            return Err(too_many());
        }
        let start = if how == TooLong::Truncate {
            text.get(..text.floor_char_boundary(2 * limit)).unwrap_or(text)
        } else {
            text
        };
        let most = if how == TooLong::Truncate { usize::MAX } else { MOST_PARTS };
        let parts = split::split(start, syntax, budget, most, json_size_of).ok_or_else(too_many)?;
        if how == TooLong::Truncate {
            let first = parts.first().map(String::as_str).unwrap_or_default();
            let cut = format!("{}{}", first.trim_end(), syntax.ellipsis());
            return Ok(vec![self.body(None, &self.with_keyword(&cut, keywords))?]);
        }
        let of = parts.len();
        let bodies = parts
            .iter()
            .enumerate()
            .map(|(index, part)| self.body(Some(Number { which: index + 1, of }), &self.with_keyword(part, keywords)));
        bodies.collect()
    }

    /// The body with `text` in place of its own.
    fn body(&self, number: Option<Number>, text: &str) -> Result<Vec<u8>, String> {
        let raw = |value: &serde_json::Value| to_raw_value(value).map_err(|error| error.to_string());
        let mut members = self.members.clone();
        let (syntax, _) = self.text();
        let label = number.map(|Number { which, of }| format!("({which}/{of})"));
        let text = match &label {
            Some(label) => format!("{label}{}{text}", syntax.paragraph()),
            None => text.to_owned(),
        };
        let content = match self.text.as_ref().and_then(|text| text.title.as_ref()) {
            Some(title) => {
                let title = label.map_or_else(|| title.clone(), |label| format!("{title} {label}"));
                ("markdown", raw(&serde_json::json!({"title": title, "text": text}))?)
            }
            None => ("text", raw(&serde_json::json!({"content": text}))?),
        };
        members.insert(content.0.to_owned(), content.1);
        if let Some(Number { which, .. }) = number {
            // Each part is a message of its own to DingTalk, which shows one of each id.
            if let Some(uuid) = members.get("msgUuid") {
                // What is no text, and is taken for one, must be another one for each part, too.
                let uuid = serde_json::from_str::<String>(uuid.get()).unwrap_or_else(|_| uuid.get().to_owned());
                members.insert("msgUuid".to_owned(), raw(&format!("{uuid}-{which}").into())?);
            }
            // Everybody is called once.
            if which > 1
                && let Some(at) = members.get("at")
            {
                let mut at: serde_json::Value = serde_json::from_str(at.get()).map_err(|error| error.to_string())?;
                if let Some(all) = at.get_mut("isAtAll") {
                    *all = false.into();
                    members.insert("at".to_owned(), raw(&at)?);
                }
            }
        }
        serde_json::to_vec(&members).map_err(|error| error.to_string())
    }
}

impl Syntax {
    /// What stands for the rest. In markdown a paragraph of its own: behind a fence it would keep it open.
    fn ellipsis(self) -> &'static str {
        match self {
            Self::Plain => " …",
            Self::Markdown => "\n\n…",
        }
    }

    /// What begins a new line, or paragraph.
    fn paragraph(self) -> &'static str {
        match self {
            Self::Plain => "\n",
            Self::Markdown => "\n\n",
        }
    }
}

/// Each text within `value`.
fn texts(value: &serde_json::Value, into: &mut String) {
    match value {
        serde_json::Value::String(text) => {
            into.push_str(text);
            into.push('\n');
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        serde_json::Value::Object(members) => members.values().for_each(|member| texts(member, into)),
        _ => {}
    }
}

/// The bytes that a character takes within a JSON string, as it is written here.
fn json_size_of(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

fn json_size(text: &str) -> usize {
    text.chars().map(json_size_of).sum()
}

#[cfg(test)]
mod tests;
