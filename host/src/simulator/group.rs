//! What the group sees of a message, as lines of text for a terminal.
//!
//! A message that is accepted is not yet a message that shows what its author meant: a mention without its
//! name in the text mentions nobody, and that must be seen here rather than in the real group.
//!
//! The text comes from outside and goes to a terminal: characters that would move the cursor, recolour or
//! reorder what stands there are escaped.

use std::fmt::Write;

use dingtalk_binding::mention;
use dingtalk_binding::secret::is_hidden;

use super::message::{Content, Mentions};

/// One or more lines, without a line break at the end. The first names robot and type, the others are
/// indented and belong to the message.
pub(crate) fn render(robot: &str, content: &Content, mentions: &Mentions) -> String {
    let mut lines = Lines(String::new());
    let _ = write!(lines.0, "[{}] {}", escape(robot), content.msgtype());
    match content {
        Content::Text { content } => {
            lines.text(content);
            lines.mentions(content, mentions);
        }
        Content::Link { title, text, message_url, picture_url } => {
            lines.text(title);
            lines.text(text);
            lines.labelled("picture", picture_url.as_deref().unwrap_or_default());
            lines.labelled("opens", message_url);
        }
        Content::Markdown { title, text } => {
            // Shown in the list of conversations and in notifications, not in the message.
            lines.labelled("notification", title);
            lines.text(text);
            lines.mentions(text, mentions);
        }
        Content::ActionCard { title, text, buttons, horizontal, hide_avatar } => {
            if *hide_avatar {
                lines.0.push_str(", without the sender's picture");
            }
            lines.labelled("notification", title);
            lines.text(text);
            // That only two buttons fit side by side is not confirmed, and so shown as asked for.
            if *horizontal && buttons.len() > 1 {
                lines.text("buttons side by side:");
            }
            for button in buttons {
                lines.line(&format!("[{}] opens {}", escape(&button.title), escape(&button.url)));
            }
            lines.mentions(text, mentions);
        }
        Content::FeedCard(links) => {
            for (index, link) in links.iter().enumerate() {
                let (title, url) = (escape(&link.title), escape(&link.message_url));
                lines.line(&format!("{}. {title} opens {url}, picture: {}", index + 1, escape(&link.picture_url)));
            }
        }
    }
    lines.0
}

/// The same for what a person says: texts that come from outside too.
pub(crate) fn said(nick: &str, msgtype: &str, texts: &[String]) -> String {
    let mut lines = Lines(format!("[{}] {}", escape(nick), escape(msgtype)));
    for text in texts {
        lines.text(text);
    }
    lines.0
}

/// Builds the message's part.
struct Lines(String);

impl Lines {
    /// A line that is escaped already.
    fn line(&mut self, line: &str) {
        self.0.push_str("\n    ");
        self.0.push_str(line);
    }

    fn text(&mut self, text: &str) {
        for line in text.split('\n') {
            self.line(&escape(line.strip_suffix('\r').unwrap_or(line)));
        }
    }

    /// A member of one line; nothing if there is nothing to show.
    fn labelled(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            self.line(&format!("{label}: {}", escape(value)));
        }
    }

    /// DingTalk mentions somebody only where the text also says `@mobile` or `@userId`. For `isAtAll`,
    /// whether the text must say so is not confirmed.
    fn mentions(&mut self, text: &str, mentions: &Mentions) {
        let everybody = mentions.mobiles.iter().chain(&mentions.user_ids).map(String::as_str);
        let (shown, unseen): (Vec<&str>, Vec<&str>) = everybody.partition(|name| mention::stands_in(text, name));
        let list = |names: &[&str]| names.iter().map(|name| format!("@{}", escape(name))).collect::<Vec<_>>();
        let mut mentioned = list(&shown);
        if mentions.all {
            mentioned.insert(0, "everybody".into());
        }
        if !mentioned.is_empty() {
            self.line(&format!("mentions {}", mentioned.join(", ")));
        }
        if !unseen.is_empty() {
            self.line(&format!("does not mention, because the text does not say it: {}", list(&unseen).join(", ")));
        }
    }
}

/// On one line, and with everything visible that a terminal would obey instead of showing.
fn escape(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && c != JOINER {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Without it an emoji falls apart into those that it is made of.
const JOINER: char = '\u{200d}';

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(message: Value) -> String {
        let typed = super::super::message::parse(message.as_object().unwrap()).unwrap();
        render("ops", &typed.content, &typed.mentions)
    }

    fn text(content: &str, at: Value) -> String {
        shown(json!({"msgtype": "text", "text": {"content": content}, "at": at}))
    }

    #[test]
    fn every_type() {
        assert_eq!(text("one\r\ntwo\n", json!(null)), "[ops] text\n    one\n    two\n    ");
        let link = json!({"msgtype": "link", "link": {"title": "T", "text": "x", "messageUrl": "https://m"}});
        assert_eq!(shown(link), "[ops] link\n    T\n    x\n    opens: https://m");
        let link = json!({"msgtype": "link",
            "link": {"title": "T", "text": "x", "messageUrl": "https://m", "picUrl": "https://p"}});
        assert_eq!(shown(link), "[ops] link\n    T\n    x\n    picture: https://p\n    opens: https://m");
        let markdown = json!({"msgtype": "markdown", "markdown": {"title": "T", "text": "# H\n- x"}});
        assert_eq!(shown(markdown), "[ops] markdown\n    notification: T\n    # H\n    - x");
        let single = json!({"msgtype": "actionCard", "actionCard":
            {"title": "T", "text": "x", "singleTitle": "Read", "singleURL": "https://s", "hideAvatar": "1"}});
        assert_eq!(
            shown(single),
            "[ops] actionCard, without the sender's picture\n    notification: T\n    x\n    [Read] opens https://s"
        );
        let buttons = json!({"msgtype": "actionCard", "actionCard": {"title": "T", "text": "x",
            "btns": [{"title": "A", "actionURL": "a:"}, {"title": "B", "actionURL": "b:"}], "btnOrientation": "1"}});
        assert_eq!(
            shown(buttons),
            "[ops] actionCard\n    notification: T\n    x\n    buttons side by side:\n    [A] opens a:\n    [B] opens b:"
        );
        let feed = json!({"msgtype": "feedCard", "feedCard": {"links": [
            {"title": "A", "messageURL": "a:", "picURL": "p:"}, {"title": "B", "messageURL": "b:", "picURL": "q:"}]}});
        assert_eq!(shown(feed), "[ops] feedCard\n    1. A opens a:, picture: p:\n    2. B opens b:, picture: q:");
    }

    #[test]
    fn a_mention_needs_its_name_in_the_text() {
        let at = json!({"atMobiles": ["138", "+1-139"], "atUserIds": ["user1"]});
        assert_eq!(
            text("@138你好 @+1-139 @user1", at.clone()),
            "[ops] text\n    @138你好 @+1-139 @user1\n    mentions @138, @+1-139, @user1"
        );
        assert_eq!(
            text("@1380 138 @user12 @+1-139.", at),
            "[ops] text\n    @1380 138 @user12 @+1-139.\n    mentions @+1-139\n    \
             does not mention, because the text does not say it: @138, @user1"
        );
        assert_eq!(text("x", json!({"isAtAll": true})), "[ops] text\n    x\n    mentions everybody");
        assert!(text("@", json!({"atMobiles": [""]})).contains("does not mention"));
        let card = json!({"msgtype": "actionCard", "at": {"atUserIds": ["u"]}, "actionCard":
            {"title": "T", "text": "@u", "singleTitle": "s", "singleURL": "s:"}});
        assert!(shown(card).ends_with("\n    mentions @u"));
        let link = json!({"msgtype": "link", "link": {"title": "T", "text": "@u", "messageUrl": "m:"},
            "at": {"atUserIds": ["u"], "isAtAll": true}});
        assert!(!shown(link).contains("mention"));
    }

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        let evil = "a\u{1b}[2Jb\u{7}\u{9b}31m\tc\u{202e}d\rforged\u{2028}x\u{85}y\u{200b}\u{feff}\u{ad}\u{e0041}z";
        let message = json!({"msgtype": "actionCard", "at": {"atUserIds": [evil]}, "actionCard": {"title": evil,
            "text": evil, "btns": [{"title": "l1\nl2", "actionURL": evil}]}});
        let shown = shown(message);
        assert!(shown.chars().all(|c| c == '\n' || !is_hidden(c)), "{shown:?}");
        assert!(shown.contains("a\\u{1b}[2Jb\\u{7}\\u{9b}31m\\tc\\u{202e}d\\rforged\\u{2028}x\\u{85}y\\u{200b}\\u{feff}\\u{ad}\\u{e0041}z"), "{shown}");
        assert_eq!(said("n", "t", &["👩\u{200d}🚒".into()]), "[n] t\n    👩\u{200d}🚒", "one picture");
        assert!(shown.contains("[l1\\nl2] opens "), "{shown}");
        assert_eq!(said("n\u{1b}", "t\r", &["x\ny\u{7}".into()]), "[n\\u{1b}] t\\r\n    x\n    y\\u{7}");
        assert!(
            render("r\u{1b}", &Content::Text { content: "x".into() }, &Mentions::default()).starts_with("[r\\u{1b}]")
        );
    }
}
