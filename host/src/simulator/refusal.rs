//! What the simulated robot says when it refuses a message: DingTalk's codes, and both of the texts that its
//! servers have been seen to use.
//!
//! Kept apart from the rules because clients read these texts: 310000 is four different mistakes, and only
//! the text tells which.
//!
//! Sources: DingTalk open platform ("custom robots", "global error codes") and answers quoted in the issues
//! of other clients. Where no answer has been seen, the comment says "not confirmed".

use std::net::IpAddr;

/// Which generation of texts the robot answers with. Codes are the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ErrorTexts {
    /// `description:…;solution:…`, in Chinese: seen since about 2022.
    #[default]
    Current,
    /// `keywords not in content`, `miss param : …`: the older ones, still in DingTalk's documentation.
    English,
}

/// A refusal as it stands in the answer: `{"errcode":…,"errmsg":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// DingTalk's code.
    pub errcode: i64,
    /// DingTalk's text.
    pub errmsg: String,
}

/// Why the robot refuses; [`Reason::refusal`] is how it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Another method than POST.
    Method,
    /// Another content type than JSON.
    ContentType,
    /// A parameter without a code of its own is missing; the path of it, such as "link->picUrl".
    Absent(String),
    /// A parameter without a code of its own has the wrong type or value.
    Invalid(String),
    /// A required member that has a code of its own.
    Member(Member),
    /// The access token belongs to no robot.
    Token,
    /// The session of a `sessionWebhook` does not exist, or not any more.
    Session,
    /// More than 20 000 bytes.
    TooLong,
    /// The sender is not in the robot's list.
    Address(IpAddr),
    /// Signed too long ago, or too far in the future.
    Timestamp,
    /// No signature, or the one of another secret or time.
    Signature,
    /// None of the robot's keywords occurs.
    Keyword,
    /// A `msgtype` that a robot cannot send.
    MessageType,
    /// More than this many messages in a minute, or sent during the penalty for that.
    TooFast(u32),
}

/// The required members for which DingTalk's code is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    Text,
    TextContent,
    LinkText,
    LinkTitle,
    LinkMessageUrl,
    MarkdownTitle,
    MarkdownText,
    ActionCardText,
    FeedCardLinks,
}

impl Member {
    fn errcode(self) -> i64 {
        match self {
            Self::Text => 400_201,
            Self::TextContent => 400_202,
            Self::LinkText => 400_302,
            Self::LinkTitle => 400_303,
            Self::LinkMessageUrl => 400_304,
            Self::MarkdownTitle => 400_402,
            Self::MarkdownText => 400_403,
            Self::ActionCardText => 400_503,
            Self::FeedCardLinks => 400_602,
        }
    }

    /// The message's object and, unless that is what is missing, its member.
    fn path(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Text => ("text", None),
            Self::TextContent => ("text", Some("content")),
            Self::LinkText => ("link", Some("text")),
            Self::LinkTitle => ("link", Some("title")),
            Self::LinkMessageUrl => ("link", Some("messageUrl")),
            Self::MarkdownTitle => ("markdown", Some("title")),
            Self::MarkdownText => ("markdown", Some("text")),
            Self::ActionCardText => ("actionCard", Some("text")),
            Self::FeedCardLinks => ("feedCard", Some("links")),
        }
    }
}

impl Reason {
    /// The answer in the given generation of texts.
    pub(crate) fn refusal(&self, texts: ErrorTexts) -> Refusal {
        let either = |current: &str, english: &str| match texts {
            ErrorTexts::Current => current.to_owned(),
            ErrorTexts::English => english.to_owned(),
        };
        let (errcode, errmsg) = match self {
            Self::Method => (43_002, "需要POST请求".to_owned()),
            Self::ContentType => (43_004, "无效的HTTP HEADER Content-Type".to_owned()),
            // The code and "缺少参数 json", "缺少参数 access_token" are known. That it also stands for members
            // without a code of their own is not confirmed.
            Self::Absent(path) => (40_035, format!("缺少参数 {path}")),
            // "不合法的参数" is the code's text in the global table; that the name follows is not confirmed.
            Self::Invalid(path) => (40_035, format!("不合法的参数 {path}")),
            Self::Member(member) => (member.errcode(), missing(*member, texts)),
            Self::Token => (300_005, "token is not exist".to_owned()),
            Self::Session => (300_001, "session 不存在".to_owned()),
            Self::TooLong => (
                460_101,
                either(
                    "description: body 大小不合法;solution:请保持大小在 20000bytes 以内;",
                    "message too long, exceed 20000 bytes",
                ),
            ),
            Self::Address(ip) => (
                310_000,
                either(
                    "description:ip 不在白名单中;solution:请联系对应群的管理员，设置机器人安全ip地址段",
                    &format!("ip {ip} not in whitelist"),
                ),
            ),
            Self::Timestamp => (
                310_000,
                either(
                    "description:机器人发送签名过期;solution:签名生成时间和发送时间请保持在 timestampms 以内;",
                    "invalid timestamp",
                ),
            ),
            Self::Signature => (
                310_000,
                either(
                    "description:机器人发送签名不匹配;solution:请确认签名和生成签名的时间戳必须都放在调用的网址中，\
                     请确认机器人的密钥加密和填写正确;link:请参考本接口对应文档获得具体要求，\
                     或者在https://open.dingtalk.com/document/  搜索相关文档;",
                    "sign not match",
                ),
            ),
            Self::Keyword => (
                310_000,
                either(
                    "description:关键词不匹配;solution:请联系群管理员查看此机器人的关键词，\
                     并在发送的信息中包含此关键词;",
                    "keywords not in content",
                ),
            ),
            Self::MessageType => (400_105, "不支持的消息类型".to_owned()),
            // The one text seen, with DingTalk's limit of 20 in it.
            Self::TooFast(limit) => (130_101, format!("send too fast, exceed {limit} times per minute")),
        };
        Refusal { errcode, errmsg }
    }
}

/// Both sentences have been seen for members of text and markdown; that the others follow them is not
/// confirmed.
fn missing(member: Member, texts: ErrorTexts) -> String {
    let (object, name) = member.path();
    match texts {
        ErrorTexts::Current => {
            let path = name.map_or_else(|| object.to_owned(), |name| format!("{object} --》 {name}"));
            format!(
                "description:参数 {path} 缺失，或者参数格式不正确; solution:请填充上对应参数;\
                 link:请参考本接口对应文档查看参数获取方式，\
                 或者在https://open.dingtalk.com/document/  搜索对应文档;"
            )
        }
        ErrorTexts::English => {
            let path = name.map_or_else(|| object.to_owned(), |name| format!("{object}->{name}"));
            format!("miss param : {path}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(reason: Reason) -> [(i64, String); 2] {
        [ErrorTexts::Current, ErrorTexts::English].map(|texts| {
            let refusal = reason.refusal(texts);
            (refusal.errcode, refusal.errmsg)
        })
    }

    #[test]
    fn texts_as_seen_in_both_styles() {
        for (reason, errcode, current, english) in [
            (Reason::Method, 43_002, "需要POST请求", "需要POST请求"),
            (Reason::ContentType, 43_004, "无效的HTTP HEADER Content-Type", "无效的HTTP HEADER Content-Type"),
            (Reason::Absent("json".into()), 40_035, "缺少参数 json", "缺少参数 json"),
            (Reason::Token, 300_005, "token is not exist", "token is not exist"),
            (Reason::Session, 300_001, "session 不存在", "session 不存在"),
            (
                Reason::TooLong,
                460_101,
                "description: body 大小不合法;solution:请保持大小在 20000bytes 以内;",
                "message too long, exceed 20000 bytes",
            ),
            (
                Reason::Address([10, 0, 0, 1].into()),
                310_000,
                "description:ip 不在白名单中;solution:请联系对应群的管理员，设置机器人安全ip地址段",
                "ip 10.0.0.1 not in whitelist",
            ),
            (
                Reason::Timestamp,
                310_000,
                "description:机器人发送签名过期;solution:签名生成时间和发送时间请保持在 timestampms 以内;",
                "invalid timestamp",
            ),
            (
                Reason::Signature,
                310_000,
                "description:机器人发送签名不匹配;solution:请确认签名和生成签名的时间戳必须都放在调用的网址中，请确认机器人的密钥加密和填写正确;link:请参考本接口对应文档获得具体要求，或者在https://open.dingtalk.com/document/  搜索相关文档;",
                "sign not match",
            ),
            (
                Reason::Keyword,
                310_000,
                "description:关键词不匹配;solution:请联系群管理员查看此机器人的关键词，并在发送的信息中包含此关键词;",
                "keywords not in content",
            ),
            (Reason::MessageType, 400_105, "不支持的消息类型", "不支持的消息类型"),
            (
                Reason::Member(Member::MarkdownTitle),
                400_402,
                "description:参数 markdown --》 title 缺失，或者参数格式不正确; solution:请填充上对应参数;link:请参考本接口对应文档查看参数获取方式，或者在https://open.dingtalk.com/document/  搜索对应文档;",
                "miss param : markdown->title",
            ),
            (
                Reason::TooFast(20),
                130_101,
                "send too fast, exceed 20 times per minute",
                "send too fast, exceed 20 times per minute",
            ),
        ] {
            let expected = [(errcode, current.to_owned()), (errcode, english.to_owned())];
            assert_eq!(both(reason.clone()), expected, "{reason:?}");
        }
    }

    #[test]
    fn every_member_has_its_code() {
        for (member, errcode, text) in [
            (Member::Text, 400_201, "miss param : text"),
            (Member::TextContent, 400_202, "miss param : text->content"),
            (Member::LinkText, 400_302, "miss param : link->text"),
            (Member::LinkTitle, 400_303, "miss param : link->title"),
            (Member::LinkMessageUrl, 400_304, "miss param : link->messageUrl"),
            (Member::MarkdownTitle, 400_402, "miss param : markdown->title"),
            (Member::MarkdownText, 400_403, "miss param : markdown->text"),
            (Member::ActionCardText, 400_503, "miss param : actionCard->text"),
            (Member::FeedCardLinks, 400_602, "miss param : feedCard->links"),
        ] {
            let [(current, _), english] = both(Reason::Member(member));
            assert_eq!((current, english), (errcode, (errcode, text.to_owned())));
        }
    }
}
