//! What a person says, and the body of the callback in which DingTalk passes it on.
//!
//! Pure: ids, the session and the time are passed in, so that every member of a body is tested.
//!
//! Source: DingTalk open platform, "receive messages" of robots (members, types) and its samples.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::callback::Forgery;
use super::robot::RobotConfig;

/// Who speaks unless somebody else is named.
const NICK: &str = "Zhang San";
/// That person's id in the organisation.
const STAFF_ID: &str = "zhangsan";
/// The one group.
const GROUP: &str = "cidSimulatedGroup==";
/// Its name.
const GROUP_TITLE: &str = "simulated group";
/// The conversation of one person with the robot.
const SINGLE: &str = "cidSimulatedSingle==";
/// Ids of people and robots that only chat knows begin like this in DingTalk's samples.
const CHAT_ID: &str = "$:LWCP_v1:$";

/// The longest id, name or title that is taken. Ids of messages are remembered, and so must not be long.
const MAX_NAME: usize = 256;

/// How much earlier or later than "now" an old or future timestamp is by default: a minute past the window, because
/// what is to come has come closer when the callback arrives.
const OUTSIDE: u64 = super::robot::TIMESTAMP_WINDOW + 60_000;

/// How large an oversized body is by default: one byte more than Dapr's API takes by default.
const OVERSIZED: usize = 4 * 1024 * 1024 + 1;

/// The largest oversized body: one byte more than any host can be configured to take.
const MAX_OVERSIZED: usize = crate::egress::MAX_REQUEST_BODY + 1;

/// What is said, by its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Spoken {
    /// Text, without the blank that DingTalk leaves in front of it in a group.
    Text(String),
    /// Pieces of text (`{"text":…}`) and pictures (`{"downloadCode":…,"type":"picture"}`).
    RichText(Vec<Value>),
    /// `downloadCode`; a missing one is made up, here and below.
    Picture(Map<String, Value>),
    /// `duration` in milliseconds, `downloadCode`, and the words as `recognition`. Only in 1:1.
    Audio(Map<String, Value>),
    /// `duration`, `downloadCode`, `videoType`. Only in 1:1.
    Video(Map<String, Value>),
    /// `downloadCode`, `fileName`. Only in 1:1.
    File(Map<String, Value>),
    /// Nobody speaks: the notice that the organisation's quota of callbacks is used up.
    Quota,
    /// Members that are laid over the common ones: for types that do not exist yet, and for wrong bodies.
    Raw(Map<String, Value>),
}

impl Spoken {
    /// DingTalk passes these on only where a person talks to the robot alone.
    fn only_single(&self) -> bool {
        matches!(self, Self::Audio(_) | Self::Video(_) | Self::File(_))
    }

    /// The name that DingTalk has for the type. For the notice, which has no content, it is not confirmed.
    fn msgtype(&self) -> Option<&str> {
        match self {
            Self::Text(_) | Self::Quota => Some("text"),
            Self::RichText(_) => Some("richText"),
            Self::Picture(_) => Some("picture"),
            Self::Audio(_) => Some("audio"),
            Self::Video(_) => Some("video"),
            Self::File(_) => Some("file"),
            Self::Raw(members) => members.get("msgtype").and_then(Value::as_str),
        }
    }
}

/// Where somebody speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ConversationType {
    /// One person with the robot.
    #[serde(rename = "1")]
    Single,
    /// A group; the robot hears what mentions it.
    #[serde(rename = "2")]
    Group,
}

/// The order to say something. In JSON: one of `text`, `richText`, `picture`, `audio`, `video`, `file`, `quota`
/// and `raw`, and beside it any of the other members in camel case.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Wire")]
pub struct Say {
    /// What is said.
    pub spoken: Spoken,
    /// Who says it.
    pub sender_nick: String,
    /// The person's id in the organisation; outsiders have none.
    pub sender_staff_id: Option<String>,
    /// The conversation's id.
    pub conversation: Option<String>,
    /// Group or 1:1; by default what the type of the message allows, preferably the group.
    pub conversation_type: Option<ConversationType>,
    /// The group's name.
    pub conversation_title: Option<String>,
    /// The message's id; by default a new one. With an earlier one, this is a copy.
    pub msg_id: Option<String>,
    /// Instead of what DingTalk would send.
    pub forge: Option<Forgery>,
    /// For old and future timestamps: how far away, in milliseconds.
    pub skew_ms: u64,
    /// For an oversized body: its size in bytes.
    pub size: usize,
}

impl Say {
    /// The usual person says this in the usual conversation.
    pub fn new(spoken: Spoken) -> Self {
        Self {
            spoken,
            sender_nick: NICK.to_owned(),
            sender_staff_id: Some(STAFF_ID.to_owned()),
            conversation: None,
            conversation_type: None,
            conversation_title: None,
            msg_id: None,
            forge: None,
            skew_ms: OUTSIDE,
            size: OVERSIZED,
        }
    }

    /// Text in the group.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Spoken::Text(text.into()))
    }

    /// The same as a forgery.
    #[must_use]
    pub fn forged(self, forgery: Forgery) -> Self {
        Self { forge: Some(forgery), ..self }
    }

    /// What DingTalk would never pass on, or what could not be kept; the error says what to change.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.spoken.only_single() && self.conversation_type == Some(ConversationType::Group) {
            return Err(
                "audio, video and file reach a robot only in 1:1: leave conversationType out, or make it \"1\"".into(),
            );
        }
        for (name, value) in [
            ("senderNick", Some(&self.sender_nick)),
            ("senderStaffId", self.sender_staff_id.as_ref()),
            ("conversation", self.conversation.as_ref()),
            ("conversationTitle", self.conversation_title.as_ref()),
            ("msgId", self.msg_id.as_ref()),
        ] {
            if value.is_some_and(|value| value.is_empty() || value.len() > MAX_NAME) {
                return Err(format!("{name} has 1 to {MAX_NAME} bytes"));
            }
        }
        if self.size > MAX_OVERSIZED {
            return Err(format!("size is at most {MAX_OVERSIZED} bytes"));
        }
        Ok(())
    }

    fn conversation_type(&self) -> ConversationType {
        let usual = if self.spoken.only_single() { ConversationType::Single } else { ConversationType::Group };
        self.conversation_type.unwrap_or(usual)
    }

    /// The callback's body.
    pub(crate) fn body(&self, robot: &RobotConfig, message: &Identity) -> Map<String, Value> {
        let group = self.conversation_type() == ConversationType::Group;
        let robot_id = format!("{CHAT_ID}simulated-robot");
        let sender_id = format!("{CHAT_ID}{}", self.sender_staff_id.as_ref().unwrap_or(&self.sender_nick));
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        set("msgId", json!(message.msg_id));
        set("createAt", json!(message.created_at));
        set("conversationType", json!(if group { "2" } else { "1" }));
        set("conversationId", json!(self.conversation.as_deref().unwrap_or(if group { GROUP } else { SINGLE })));
        set("senderId", json!(sender_id));
        set("senderNick", json!(self.sender_nick));
        if let Some(id) = &self.sender_staff_id {
            set("senderStaffId", json!(id));
        }
        // A custom robot belongs to a group and has neither code nor corporation.
        if !robot.chatbot_corp_id.is_empty() {
            set("chatbotCorpId", json!(robot.chatbot_corp_id));
            // Whose organisation an outsider's is, is not known here.
            if self.sender_staff_id.is_some() {
                set("senderCorpId", json!(robot.chatbot_corp_id));
            }
        }
        if !robot.robot_code.is_empty() {
            set("robotCode", json!(robot.robot_code));
        }
        set("chatbotUserId", json!(robot_id));
        set("isAdmin", json!(false));
        set("sessionWebhook", json!(message.session_webhook));
        set("sessionWebhookExpiredTime", json!(message.session_expires));
        // In 1:1 nobody needs to be mentioned. That DingTalk leaves these out there is not confirmed.
        if group {
            set("conversationTitle", json!(self.conversation_title.as_deref().unwrap_or(GROUP_TITLE)));
            set("isInAtList", json!(true));
            set("atUsers", json!([{ "dingtalkId": robot_id }]));
        }
        if let Some(msgtype) = self.spoken.msgtype() {
            set("msgtype", json!(msgtype));
        }
        match &self.spoken {
            // What follows the mention, its blank included: DingTalk cuts out the name and nothing else.
            Spoken::Text(text) if group => set("text", json!({ "content": format!(" {text}") })),
            Spoken::Text(text) => set("text", json!({ "content": text })),
            Spoken::RichText(pieces) => set("content", json!({ "richText": pieces })),
            Spoken::Picture(given) => set("content", over(json!({}), given)),
            Spoken::Audio(given) => set("content", over(json!({ "duration": 4_000, "recognition": "" }), given)),
            Spoken::Video(given) => {
                set("content", over(json!({ "duration": 4_000, "videoType": "mp4" }), given));
            }
            Spoken::File(given) => set("content", over(json!({ "fileName": "report.pdf" }), given)),
            Spoken::Quota => {
                set("errorCode", json!(20_001));
                // The text is not confirmed.
                set("errorMessage", json!("the quota of callbacks is used up"));
            }
            Spoken::Raw(members) => body.extend(members.clone()),
        }
        body
    }

    /// What the group sees: nothing for a notice, which nobody says.
    pub(crate) fn shown(&self) -> Option<String> {
        let member = |content: &Map<String, Value>, name: &str| match content.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        };
        let lines = match &self.spoken {
            Spoken::Quota => return None,
            Spoken::Text(text) => vec![text.clone()],
            Spoken::RichText(pieces) => pieces
                .iter()
                .map(|piece| match piece.get("text").and_then(Value::as_str) {
                    Some(text) => text.to_owned(),
                    None => "(a picture)".to_owned(),
                })
                .collect(),
            Spoken::Picture(_) => vec!["(a picture)".to_owned()],
            Spoken::Audio(content) => vec![member(content, "recognition")],
            Spoken::Video(_) => vec!["(a video)".to_owned()],
            Spoken::File(content) => vec![member(content, "fileName")],
            Spoken::Raw(members) => vec![Value::Object(members.clone()).to_string()],
        };
        Some(super::group::said(&self.sender_nick, self.spoken.msgtype().unwrap_or("raw"), &lines))
    }
}

/// Given members over those that DingTalk always has.
fn over(usual: Value, given: &Map<String, Value>) -> Value {
    let mut content = Map::new();
    content.insert("downloadCode".to_owned(), json!(Uuid::new_v4().simple().to_string()));
    if let Value::Object(usual) = usual {
        content.extend(usual);
    }
    content.extend(given.clone());
    Value::Object(content)
}

/// What makes one message out of something said.
pub(crate) struct Identity {
    pub(crate) msg_id: String,
    /// In milliseconds since the Unix epoch, like the next.
    pub(crate) created_at: u64,
    pub(crate) session_expires: u64,
    pub(crate) session_webhook: String,
}

/// A new message's id, with the look of DingTalk's.
pub(crate) fn new_msg_id() -> String {
    format!("msg{}==", Uuid::new_v4().simple())
}

/// [`Say`] as it stands in JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    text: Option<String>,
    rich_text: Option<Vec<Value>>,
    picture: Option<Map<String, Value>>,
    audio: Option<Map<String, Value>>,
    video: Option<Map<String, Value>>,
    file: Option<Map<String, Value>>,
    #[serde(default)]
    quota: bool,
    raw: Option<Map<String, Value>>,
    sender_nick: Option<String>,
    /// Outer `None`: not there. Inner: `null`, an outsider.
    #[serde(default, deserialize_with = "nullable")]
    sender_staff_id: Option<Option<String>>,
    conversation: Option<String>,
    conversation_type: Option<ConversationType>,
    conversation_title: Option<String>,
    msg_id: Option<String>,
    forge: Option<Forgery>,
    skew_ms: Option<u64>,
    size: Option<usize>,
}

fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl TryFrom<Wire> for Say {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let mut spoken: Vec<Spoken> = [
            wire.text.map(Spoken::Text),
            wire.rich_text.map(Spoken::RichText),
            wire.picture.map(Spoken::Picture),
            wire.audio.map(Spoken::Audio),
            wire.video.map(Spoken::Video),
            wire.file.map(Spoken::File),
            wire.quota.then_some(Spoken::Quota),
            wire.raw.map(Spoken::Raw),
        ]
        .into_iter()
        .flatten()
        .collect();
        let spoken = match (spoken.pop(), spoken.is_empty(), wire.forge) {
            (Some(one), true, _) => one,
            // What is sent again is there already.
            (None, _, Some(Forgery::Replay)) => Spoken::Text(String::new()),
            _ => {
                return Err("exactly one of text, richText, picture, audio, video, file, quota and raw is said".into());
            }
        };
        let usual = Self::new(spoken);
        let say = Self {
            // A stranger's default id would be another person's.
            sender_staff_id: match (wire.sender_staff_id, &wire.sender_nick) {
                (Some(given), _) => given,
                (None, Some(nick)) if nick != NICK => Some(nick.clone()),
                (None, _) => usual.sender_staff_id,
            },
            sender_nick: wire.sender_nick.unwrap_or(usual.sender_nick),
            conversation: wire.conversation,
            conversation_type: wire.conversation_type,
            conversation_title: wire.conversation_title,
            msg_id: wire.msg_id,
            forge: wire.forge,
            skew_ms: wire.skew_ms.unwrap_or(usual.skew_ms),
            size: wire.size.unwrap_or(usual.size),
            spoken: usual.spoken,
        };
        say.check()?;
        Ok(say)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn say(order: Value) -> Result<Say, String> {
        serde_json::from_value(order).map_err(|error| error.to_string())
    }

    fn body(order: Value) -> Value {
        let message = Identity {
            msg_id: "msg1==".into(),
            created_at: 1_700_000_000_000,
            session_expires: 1_700_005_400_000,
            session_webhook: "http://simulator/session".into(),
        };
        let robot = RobotConfig { robot_code: "code".into(), chatbot_corp_id: "corp".into(), ..RobotConfig::default() };
        Value::Object(say(order).unwrap().body(&robot, &message))
    }

    #[test]
    fn a_text_in_the_group_has_every_common_member() {
        let expected = json!({
            "msgtype": "text", "text": {"content": " hello"}, "msgId": "msg1==", "createAt": 1_700_000_000_000_u64,
            "conversationType": "2", "conversationId": "cidSimulatedGroup==", "conversationTitle": "simulated group",
            "senderId": "$:LWCP_v1:$zhangsan", "senderNick": "Zhang San", "senderStaffId": "zhangsan",
            "senderCorpId": "corp", "sessionWebhook": "http://simulator/session",
            "sessionWebhookExpiredTime": 1_700_005_400_000_u64, "isAdmin": false, "isInAtList": true,
            "chatbotCorpId": "corp", "chatbotUserId": "$:LWCP_v1:$simulated-robot", "robotCode": "code",
            "atUsers": [{"dingtalkId": "$:LWCP_v1:$simulated-robot"}],
        });
        assert_eq!(body(json!({"text": "hello"})), expected);
    }

    #[test]
    fn alone_with_the_robot_nobody_is_mentioned() {
        let body = body(json!({"text": "hello", "conversationType": "1"}));
        assert_eq!((&body["conversationType"], &body["text"]), (&json!("1"), &json!({"content": "hello"})));
        for absent in ["conversationTitle", "isInAtList", "atUsers"] {
            assert!(body.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn every_type_has_its_content() {
        let pieces = json!([{"text": "a"}, {"downloadCode": "d", "type": "picture"}]);
        for (order, msgtype, conversation, content) in [
            (json!({"richText": pieces}), "richText", "2", json!({"richText": pieces})),
            (json!({"picture": {"downloadCode": "d"}}), "picture", "2", json!({"downloadCode": "d"})),
            (
                json!({"audio": {"duration": 7, "downloadCode": "d", "recognition": "hi"}}),
                "audio",
                "1",
                json!({"duration": 7, "downloadCode": "d", "recognition": "hi"}),
            ),
            (
                json!({"video": {"downloadCode": "d"}}),
                "video",
                "1",
                json!({"duration": 4000, "downloadCode": "d", "videoType": "mp4"}),
            ),
            (
                json!({"file": {"downloadCode": "d", "fileName": "f"}}),
                "file",
                "1",
                json!({"downloadCode": "d", "fileName": "f"}),
            ),
        ] {
            let body = body(order);
            assert_eq!((&body["msgtype"], &body["conversationType"]), (&json!(msgtype), &json!(conversation)));
            assert_eq!(body["content"], content, "{msgtype}");
            assert!(body.get("text").is_none());
        }
        // A code that nobody chose is made up, and never the same.
        let code = || body(json!({"picture": {}}))["content"]["downloadCode"].as_str().unwrap().to_owned();
        assert_ne!(code(), code());
    }

    #[test]
    fn notices_and_types_to_come() {
        let notice = body(json!({"quota": true}));
        assert_eq!(notice["errorCode"], json!(20_001));
        assert!(notice["errorMessage"].is_string() && notice.get("text").is_none() && notice.get("content").is_none());
        let new = body(json!({"raw": {"msgtype": "hologram", "content": {"x": 1}, "msgId": 7}}));
        assert_eq!(
            (&new["msgtype"], &new["content"], &new["msgId"]),
            (&json!("hologram"), &json!({"x": 1}), &json!(7))
        );
        assert_eq!(new["robotCode"], "code");
        assert!(body(json!({"raw": {}})).get("msgtype").is_none());
    }

    #[test]
    fn people() {
        let outsider = body(json!({"text": "x", "senderNick": "Eve", "senderStaffId": null}));
        assert!(outsider.get("senderStaffId").is_none() && outsider.get("senderCorpId").is_none());
        assert_eq!((&outsider["senderNick"], &outsider["senderId"]), (&json!("Eve"), &json!("$:LWCP_v1:$Eve")));
        let colleague = body(json!({"text": "x", "senderNick": "Li Si"}));
        assert_eq!(colleague["senderStaffId"], "Li Si");
        let named = body(json!({"text": "x", "conversation": "c", "conversationTitle": "t", "senderStaffId": "s"}));
        let found = ["conversationId", "conversationTitle", "senderStaffId"].map(|name| named[name].clone());
        assert_eq!(found, [json!("c"), json!("t"), json!("s")]);
    }

    #[test]
    fn a_custom_robot_has_neither_code_nor_corporation() {
        let message =
            Identity { msg_id: String::new(), created_at: 0, session_expires: 0, session_webhook: String::new() };
        let robot = RobotConfig { robot_code: String::new(), chatbot_corp_id: String::new(), ..RobotConfig::default() };
        let body = Say::text("x").body(&robot, &message);
        for absent in ["robotCode", "chatbotCorpId", "senderCorpId"] {
            assert!(!body.contains_key(absent), "{absent}");
        }
    }

    #[test]
    fn orders_that_cannot_be_carried_out_say_why() {
        let long = "x".repeat(MAX_NAME + 1);
        for (order, reason) in [
            (json!({}), "exactly one of"),
            (json!({"text": "a", "picture": {}}), "exactly one of"),
            (json!({"quota": false}), "exactly one of"),
            (json!({"text": "a", "who": "b"}), "unknown field `who`"),
            (json!({"text": "a", "forge": "magic"}), "wrong-key"),
            (json!({"text": "a", "conversationType": "3"}), "conversationType"),
            (json!({"audio": {}, "conversationType": "2"}), "only in 1:1"),
            (json!({"text": "a", "msgId": ""}), "msgId has 1 to 256 bytes"),
            (json!({"text": "a", "msgId": long}), "msgId has 1 to 256 bytes"),
            (json!({"text": "a", "size": 16_777_218}), "size is at most"),
        ] {
            let error = say(order.clone()).unwrap_err();
            // serde names the variants, not the member.
            assert!(error.contains(reason) || error.contains("`1` or `2`"), "{order}: {error}");
        }
        assert!(say(json!({"forge": "replay"})).is_ok());
    }

    #[test]
    fn what_is_said_can_be_read() {
        let shown = |order: Value| say(order).unwrap().shown();
        assert_eq!(shown(json!({"text": "hello\nyou"})).unwrap(), "[Zhang San] text\n    hello\n    you");
        let pieces = json!({"richText": [{"text": "a"}, {"downloadCode": "d", "type": "picture"}]});
        assert_eq!(shown(pieces).unwrap(), "[Zhang San] richText\n    a\n    (a picture)");
        assert_eq!(shown(json!({"file": {"fileName": "f"}})).unwrap(), "[Zhang San] file\n    f");
        assert_eq!(
            shown(json!({"raw": {"msgtype": "n\u{1b}"}})).unwrap(),
            "[Zhang San] n\\u{1b}\n    {\"msgtype\":\"n\\u001b\"}"
        );
        assert_eq!(shown(json!({"quota": true})), None);
    }

    proptest! {
        #[test]
        fn any_order_is_said_as_it_is_or_refused(
            nick in "[ -~\u{0}-\u{20}é\u{202e}]{0,9}", text in "[ -~\u{0}-\u{20}é你\u{202e}]{0,40}", kind in 0..6,
        ) {
            let spoken = match kind {
                0 => json!({"text": text}),
                1 => json!({"richText": [{"text": text}, text, {}]}),
                2 => json!({"audio": {"recognition": text}}),
                3 => json!({"file": {"fileName": [text]}}),
                4 => json!({"raw": {"msgtype": text, (nick.clone()): text}}),
                _ => json!({"quota": true}),
            };
            let mut order = spoken.as_object().unwrap().clone();
            order.insert("senderNick".into(), json!(nick));
            let Ok(say) = say(Value::Object(order.clone())) else {
                prop_assert!(nick.is_empty());
                return Ok(());
            };
            let shown = say.shown().unwrap_or_default();
            prop_assert!(shown.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')), "{:?}", shown);
            let body = body(Value::Object(order));
            prop_assert!(kind == 4 || body["senderNick"] == json!(nick));
            let blank_first = [" ", text.as_str()].concat();
            prop_assert!(kind != 0 || body["text"]["content"] == json!(blank_first));
        }
    }

    #[test]
    fn ids_of_messages_are_unique_and_look_like_dingtalks() {
        let id = new_msg_id();
        assert!(id.starts_with("msg") && id.ends_with("=="), "{id}");
        assert_ne!(id, new_msg_id());
    }
}
