//! The messages that a group robot can post: JSON → typed, or the reason why the robot refuses it.
//!
//! Typed once here, so that what shows a message does not look for members again and cannot meet one that
//! the rules let through by mistake.
//!
//! Source: DingTalk open platform, "custom robot message types". Unknown members are ignored. Which required
//! member DingTalk looks at first is not confirmed; the order here is that of its codes.

use serde_json::{Map, Value};

use super::refusal::{Member, Reason};

/// "At most 50 people." What DingTalk does with more is not confirmed; here they are refused.
const MAX_MENTIONED_USERS: usize = 50;

/// A message that satisfies the rules of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) content: Content,
    pub(crate) mentions: Mentions,
    /// The sender's key against duplicates.
    pub(crate) uuid: Option<String>,
}

/// What is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Text {
        content: String,
    },
    Link {
        title: String,
        text: String,
        message_url: String,
        picture_url: Option<String>,
    },
    Markdown {
        title: String,
        text: String,
    },
    ActionCard {
        title: String,
        text: String,
        /// One for a card that opens as a whole ("single"), else as many as it has; never empty.
        buttons: Vec<Button>,
        /// Buttons side by side.
        horizontal: bool,
        hide_avatar: bool,
    },
    /// Never empty.
    FeedCard(Vec<FeedLink>),
}

/// A button of an action card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Button {
    pub(crate) title: String,
    pub(crate) url: String,
}

/// A line of a feed card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FeedLink {
    pub(crate) title: String,
    pub(crate) message_url: String,
    pub(crate) picture_url: String,
}

/// Whom the sender asks to mention; whether the group sees a mention is for [`super::group`] to tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mentions {
    pub(crate) mobiles: Vec<String>,
    pub(crate) user_ids: Vec<String>,
    pub(crate) all: bool,
}

impl Content {
    /// `msgtype` as it is sent.
    pub(crate) fn msgtype(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Link { .. } => "link",
            Self::Markdown { .. } => "markdown",
            Self::ActionCard { .. } => "actionCard",
            Self::FeedCard(_) => "feedCard",
        }
    }
}

/// Checks a message and types it.
pub(crate) fn parse(message: &Map<String, Value>) -> Result<Typed, Reason> {
    // A missing `msgtype` has no known code; that it is an absent parameter is not confirmed.
    let content = match required(message, "msgtype", "msgtype")? {
        "text" => {
            let text = object(message, "text").ok_or(Reason::Member(Member::Text))?;
            Content::Text { content: member(text, "content", Member::TextContent)? }
        }
        "link" => {
            let link = object_or_absent(message, "link")?;
            Content::Link {
                text: member(link, "text", Member::LinkText)?,
                title: member(link, "title", Member::LinkTitle)?,
                message_url: member(link, "messageUrl", Member::LinkMessageUrl)?,
                picture_url: optional(link, "picUrl", "link->picUrl")?.map(str::to_owned),
            }
        }
        "markdown" => {
            let markdown = object_or_absent(message, "markdown")?;
            Content::Markdown {
                title: member(markdown, "title", Member::MarkdownTitle)?,
                text: member(markdown, "text", Member::MarkdownText)?,
            }
        }
        "actionCard" => action_card(object_or_absent(message, "actionCard")?)?,
        "feedCard" => feed_card(object_or_absent(message, "feedCard")?)?,
        // "empty" too: it exists only as the reply to a callback.
        _ => return Err(Reason::MessageType),
    };
    let mentions = mentions(message)?;
    // An empty key is taken for none; not confirmed.
    let uuid = optional(message, "msgUuid", "msgUuid")?.filter(|uuid| !uuid.is_empty()).map(str::to_owned);
    Ok(Typed { content, mentions, uuid })
}

/// All text of a message, however malformed, in which a keyword counts: title, text, content and the labels
/// of buttons. DingTalk says "in the message"; that URLs do not count is not confirmed.
pub(crate) fn texts(message: &Map<String, Value>) -> Vec<&str> {
    fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(text)
                            if matches!(name.as_str(), "content" | "title" | "text" | "singleTitle") =>
                        {
                            found.push(text);
                        }
                        Value::Object(_) | Value::Array(_) => collect(value, found),
                        _ => {}
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    if let Some(content) = message.get("msgtype").and_then(Value::as_str).and_then(|msgtype| message.get(msgtype)) {
        collect(content, &mut found);
    }
    found
}

fn action_card(card: &Map<String, Value>) -> Result<Content, Reason> {
    let text = member(card, "text", Member::ActionCardText)?;
    let title = required(card, "title", "actionCard->title")?.to_owned();
    let single_title = optional(card, "singleTitle", "actionCard->singleTitle")?.filter(|s| !s.is_empty());
    let single_url = optional(card, "singleURL", "actionCard->singleURL")?.filter(|s| !s.is_empty());
    let buttons = match (single_title, single_url, present(card, "btns")) {
        // "If singleTitle and singleURL are set, btns is ignored."
        (Some(title), Some(url), _) => vec![Button { title: title.to_owned(), url: url.to_owned() }],
        (_, _, Some(Value::Array(buttons))) if !buttons.is_empty() => {
            items(buttons, "actionCard->btns", |button, path| {
                Ok(Button {
                    title: required(button, "title", &path("->title"))?.to_owned(),
                    url: required(button, "actionURL", &path("->actionURL"))?.to_owned(),
                })
            })?
        }
        (Some(_), None, None) => return Err(Reason::Absent("actionCard->singleURL".into())),
        (None, Some(_), None) => return Err(Reason::Absent("actionCard->singleTitle".into())),
        (_, _, None | Some(Value::Array(_))) => return Err(Reason::Absent("actionCard->btns".into())),
        (_, _, Some(_)) => return Err(Reason::Invalid("actionCard->btns".into())),
    };
    Ok(Content::ActionCard {
        title,
        text,
        buttons,
        horizontal: switch(card, "btnOrientation")?,
        hide_avatar: switch(card, "hideAvatar")?,
    })
}

/// Reads the objects of a list; `read` gets each with what makes the path of one of its members.
fn items<T>(
    list: &[Value],
    name: &str,
    read: impl Fn(&Map<String, Value>, &dyn Fn(&str) -> String) -> Result<T, Reason>,
) -> Result<Vec<T>, Reason> {
    let read = |(index, item): (usize, &Value)| {
        let path = |member: &str| format!("{name}[{index}]{member}");
        read(item.as_object().ok_or_else(|| Reason::Invalid(path("")))?, &path)
    };
    list.iter().enumerate().map(read).collect()
}

fn feed_card(card: &Map<String, Value>) -> Result<Content, Reason> {
    let links = match present(card, "links") {
        Some(Value::Array(links)) if !links.is_empty() => links,
        _ => return Err(Reason::Member(Member::FeedCardLinks)),
    };
    let links = items(links, "feedCard->links", |link, path| {
        Ok(FeedLink {
            title: required(link, "title", &path("->title"))?.to_owned(),
            message_url: required(link, "messageURL", &path("->messageURL"))?.to_owned(),
            picture_url: required(link, "picURL", &path("->picURL"))?.to_owned(),
        })
    })?;
    Ok(Content::FeedCard(links))
}

/// `at` of any message type; link and feed cards take none, and there it is checked and then ignored. Codes
/// for a wrong shape are not confirmed.
fn mentions(message: &Map<String, Value>) -> Result<Mentions, Reason> {
    let at = match present(message, "at") {
        None => return Ok(Mentions::default()),
        Some(Value::Object(at)) => at,
        Some(_) => return Err(Reason::Invalid("at".into())),
    };
    let names = |name: &str| -> Result<Vec<String>, Reason> {
        let wrong = || Reason::Invalid(format!("at->{name}"));
        match present(at, name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    };
    let mentions = Mentions {
        mobiles: names("atMobiles")?,
        user_ids: names("atUserIds")?,
        all: match present(at, "isAtAll") {
            None => false,
            Some(Value::Bool(all)) => *all,
            Some(_) => return Err(Reason::Invalid("at->isAtAll".into())),
        },
    };
    if mentions.user_ids.len() > MAX_MENTIONED_USERS {
        return Err(Reason::Invalid("at->atUserIds".into()));
    }
    Ok(mentions)
}

/// A member that is there: `null` is taken for absent.
fn present<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn object<'a>(message: &'a Map<String, Value>, name: &str) -> Option<&'a Map<String, Value>> {
    message.get(name)?.as_object()
}

/// For the types whose code for a missing object is not confirmed.
fn object_or_absent<'a>(message: &'a Map<String, Value>, name: &str) -> Result<&'a Map<String, Value>, Reason> {
    object(message, name).ok_or_else(|| Reason::Absent(name.into()))
}

/// A required text with a code of its own. An empty one is missing too (seen for markdown, taken for granted
/// elsewhere), and so is another type: "缺失，或者参数格式不正确".
fn member(object: &Map<String, Value>, name: &str, member: Member) -> Result<String, Reason> {
    match object.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        _ => Err(Reason::Member(member)),
    }
}

/// A required text without a code of its own.
fn required<'a>(object: &'a Map<String, Value>, name: &str, path: &str) -> Result<&'a str, Reason> {
    match optional(object, name, path)? {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(Reason::Absent(path.into())),
    }
}

fn optional<'a>(object: &'a Map<String, Value>, name: &str, path: &str) -> Result<Option<&'a str>, Reason> {
    match present(object, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Reason::Invalid(path.into())),
    }
}

/// The card's switches are documented as texts, "0" and "1". Clients also send numbers, and an empty text where
/// nothing was set. What DingTalk does with those is not confirmed; here they are taken.
fn switch(card: &Map<String, Value>, name: &str) -> Result<bool, Reason> {
    let on = match present(card, name) {
        None => Some(false),
        Some(Value::String(text)) => match text.as_str() {
            "" | "0" => Some(false),
            "1" => Some(true),
            _ => None,
        },
        Some(Value::Number(number)) => match number.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Some(_) => None,
    };
    on.ok_or_else(|| Reason::Invalid(format!("actionCard->{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(message: Value) -> Result<Typed, Reason> {
        super::parse(message.as_object().unwrap())
    }

    fn absent(path: &str) -> Result<Typed, Reason> {
        Err(Reason::Absent(path.into()))
    }

    fn invalid(path: &str) -> Result<Typed, Reason> {
        Err(Reason::Invalid(path.into()))
    }

    /// One complete message of each type.
    fn complete() -> [Value; 6] {
        [
            json!({"msgtype": "text", "text": {"content": "c"}}),
            json!({"msgtype": "link", "link": {"title": "t", "text": "x", "messageUrl": "https://m"}}),
            json!({"msgtype": "markdown", "markdown": {"title": "t", "text": "x"}}),
            json!({"msgtype": "actionCard", "actionCard":
                {"title": "t", "text": "x", "singleTitle": "s", "singleURL": "https://s"}}),
            json!({"msgtype": "actionCard", "actionCard":
                {"title": "t", "text": "x", "btns": [{"title": "b", "actionURL": "https://b"}]}}),
            json!({"msgtype": "feedCard", "feedCard":
                {"links": [{"title": "t", "messageURL": "https://m", "picURL": "https://p"}]}}),
        ]
    }

    #[test]
    fn complete_messages_are_taken() {
        for message in complete() {
            let msgtype = message["msgtype"].as_str().unwrap().to_owned();
            let typed = parse(message.clone()).unwrap();
            assert_eq!(typed.content.msgtype(), msgtype);
            assert_eq!((typed.mentions, typed.uuid), (Mentions::default(), None));
            // Members that nobody knows change nothing.
            let mut more = message;
            more["x"] = json!(1);
            more[&msgtype]["y"] = json!(2);
            assert_eq!(parse(more).unwrap().content, typed.content);
        }
    }

    /// Takes each required member away, empties it, and gives it another type.
    #[test]
    fn every_required_member_is_required() {
        let [text, link, markdown, single, buttons, feed] = complete();
        for (message, pointer, name, missing) in [
            (&text, "", "text", Reason::Member(Member::Text)),
            (&text, "/text", "content", Reason::Member(Member::TextContent)),
            (&link, "", "link", Reason::Absent("link".into())),
            (&link, "/link", "text", Reason::Member(Member::LinkText)),
            (&link, "/link", "title", Reason::Member(Member::LinkTitle)),
            (&link, "/link", "messageUrl", Reason::Member(Member::LinkMessageUrl)),
            (&markdown, "", "markdown", Reason::Absent("markdown".into())),
            (&markdown, "/markdown", "title", Reason::Member(Member::MarkdownTitle)),
            (&markdown, "/markdown", "text", Reason::Member(Member::MarkdownText)),
            (&single, "", "actionCard", Reason::Absent("actionCard".into())),
            (&single, "/actionCard", "text", Reason::Member(Member::ActionCardText)),
            (&single, "/actionCard", "title", Reason::Absent("actionCard->title".into())),
            (&single, "/actionCard", "singleTitle", Reason::Absent("actionCard->singleTitle".into())),
            (&single, "/actionCard", "singleURL", Reason::Absent("actionCard->singleURL".into())),
            (&buttons, "/actionCard", "btns", Reason::Absent("actionCard->btns".into())),
            (&buttons, "/actionCard/btns/0", "title", Reason::Absent("actionCard->btns[0]->title".into())),
            (&buttons, "/actionCard/btns/0", "actionURL", Reason::Absent("actionCard->btns[0]->actionURL".into())),
            (&feed, "", "feedCard", Reason::Absent("feedCard".into())),
            (&feed, "/feedCard", "links", Reason::Member(Member::FeedCardLinks)),
            (&feed, "/feedCard/links/0", "title", Reason::Absent("feedCard->links[0]->title".into())),
            (&feed, "/feedCard/links/0", "messageURL", Reason::Absent("feedCard->links[0]->messageURL".into())),
            (&feed, "/feedCard/links/0", "picURL", Reason::Absent("feedCard->links[0]->picURL".into())),
            (&text, "", "msgtype", Reason::Absent("msgtype".into())),
        ] {
            let change = |value: Option<Value>| {
                let mut message = message.clone();
                let object = message.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
                let old = object.remove(name).unwrap();
                let empty = match old {
                    Value::Array(_) => json!([]),
                    Value::String(_) => json!(""),
                    _ => Value::Null,
                };
                if let Some(value) = value {
                    object.insert(name.into(), if value == json!("empty") { empty } else { value });
                }
                parse(message).unwrap_err()
            };
            assert_eq!(change(None), missing, "{pointer}/{name}");
            assert_eq!(change(Some(Value::Null)), missing, "{pointer}/{name}");
            assert_eq!(change(Some(json!("empty"))), missing, "{pointer}/{name}");
            let wrong_type = change(Some(json!(7)));
            match (&missing, wrong_type) {
                (Reason::Member(_), reason) => assert_eq!(reason, missing, "{pointer}/{name}"),
                (Reason::Absent(path), Reason::Invalid(other) | Reason::Absent(other)) => assert_eq!(*path, other),
                other => panic!("{pointer}/{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn only_the_five_types() {
        for msgtype in ["empty", "image", "Text", "oa", "actioncard"] {
            assert_eq!(parse(json!({"msgtype": msgtype, msgtype: {}})), Err(Reason::MessageType), "{msgtype}");
        }
    }

    #[test]
    fn cards() {
        let card = |extra: Value| {
            let mut message = json!({"msgtype": "actionCard", "actionCard": {"title": "t", "text": "x"}});
            message["actionCard"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            parse(message)
        };
        let buttons = |extra: Value| match card(extra).unwrap().content {
            Content::ActionCard { buttons, horizontal, hide_avatar, .. } => {
                (buttons.into_iter().map(|b| b.title).collect::<Vec<_>>().join(","), horizontal, hide_avatar)
            }
            other => panic!("{other:?}"),
        };
        let two = json!([{"title": "a", "actionURL": "u"}, {"title": "b", "actionURL": "u"}]);
        assert_eq!(buttons(json!({"btns": two, "btnOrientation": "1"})), ("a,b".into(), true, false));
        assert!(buttons(json!({"btns": two, "hideAvatar": "1", "btnOrientation": "0"})).2);
        // The single button wins over the list, half of one does not.
        assert_eq!(buttons(json!({"btns": two, "singleTitle": "s", "singleURL": "u"})).0, "s");
        assert_eq!(buttons(json!({"btns": two, "singleTitle": "s"})).0, "a,b");
        assert_eq!(card(json!({})), absent("actionCard->btns"));
        assert_eq!(card(json!({"btns": {}})), invalid("actionCard->btns"));
        assert_eq!(card(json!({"btns": [1]})), invalid("actionCard->btns[0]"));
        // As numbers too, as DingtalkChatbot and dingtalk-robot-sender send them, and empty, as Go's structs are.
        assert_eq!(buttons(json!({"btns": two, "btnOrientation": "", "hideAvatar": ""})), ("a,b".into(), false, false));
        assert_eq!(buttons(json!({"btns": two, "btnOrientation": 1, "hideAvatar": 0})), ("a,b".into(), true, false));
        assert_eq!(buttons(json!({"btns": two, "btnOrientation": 0, "hideAvatar": 1})), ("a,b".into(), false, true));
        for wrong in [json!(2), json!(-1), json!(1.0), json!("2"), json!(" "), json!(true), json!([])] {
            let extra = json!({"btns": two, "btnOrientation": wrong});
            assert_eq!(card(extra), invalid("actionCard->btnOrientation"), "{wrong}");
            let extra = json!({"btns": two, "hideAvatar": wrong});
            assert_eq!(card(extra), invalid("actionCard->hideAvatar"), "{wrong}");
        }
    }

    #[test]
    fn mentions_and_uuid() {
        let with = |at: Value, uuid: Value| {
            parse(json!({"msgtype": "text", "text": {"content": "c"}, "at": at, "msgUuid": uuid}))
        };
        let typed = with(json!({"atMobiles": ["1"], "atUserIds": ["u"], "isAtAll": true}), json!("key")).unwrap();
        let expected = Mentions { mobiles: vec!["1".into()], user_ids: vec!["u".into()], all: true };
        assert_eq!((typed.mentions, typed.uuid), (expected, Some("key".into())));
        assert_eq!(with(json!(null), json!(null)).unwrap().mentions, Mentions::default());
        assert_eq!(with(json!({"atMobiles": null}), json!("")).unwrap().uuid, None);
        assert_eq!(with(json!({"atUserIds": vec!["u"; 50]}), json!(null)).unwrap().mentions.user_ids.len(), 50);
        for (at, path) in [
            (json!([]), "at"),
            (json!("all"), "at"),
            (json!({"atMobiles": "1"}), "at->atMobiles"),
            (json!({"atMobiles": [1]}), "at->atMobiles"),
            (json!({"atUserIds": {}}), "at->atUserIds"),
            (json!({"atUserIds": vec!["u"; 51]}), "at->atUserIds"),
            (json!({"isAtAll": "true"}), "at->isAtAll"),
            (json!({"isAtAll": 1}), "at->isAtAll"),
        ] {
            assert_eq!(with(at.clone(), json!(null)), invalid(path), "{at}");
        }
        assert_eq!(with(json!(null), json!(7)), invalid("msgUuid"));
    }

    #[test]
    fn keywords_are_looked_for_in_text_only() {
        let message = json!({"msgtype": "actionCard", "text": {"content": "elsewhere"}, "actionCard": {
            "title": "a", "text": "b", "singleTitle": "c", "singleURL": "url",
            "btns": [{"title": "d", "actionURL": "url"}]}});
        let mut found = texts(message.as_object().unwrap());
        found.sort_unstable();
        assert_eq!(found, ["a", "b", "c", "d"]);
        assert!(texts(json!({"msgtype": "msgtype"}).as_object().unwrap()).is_empty());
    }
}
