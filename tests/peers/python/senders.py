"""Every message that DingtalkChatbot and apprise offer, sent to the simulator."""

from apprise import Apprise, NotifyFormat
from apprise.plugins.dingtalk import NotifyDingTalk
from dingtalkchatbot.chatbot import ActionCard, CardItem, DingtalkChatbot, FeedLink

from group import BASE, SECRET, TOKEN, outcome


def case(client, name, expected, send):
    got = outcome(send)
    print("\t".join(["ok" if got == expected else f"FAILED, expected {expected}", client, name, got]), flush=True)


def seen(msgtype):
    return f"{msgtype} signed" if SECRET else msgtype


def chatbot():
    bot = DingtalkChatbot(f"{BASE}/robot/send?access_token={TOKEN}", secret=SECRET or None)
    one, two = (CardItem(title=f"button {n}", url="https://example.com/") for n in (1, 2))
    feed = CardItem(title="feed", url="https://example.com/", pic_url="https://example.com/p.png")
    for name, expected, send in [
        ("text", seen("text"), lambda: bot.send_text("hello")),
        ("text to everybody", seen("text"), lambda: bot.send_text("hello", is_at_all=True)),
        (
            "text with mentions",
            seen("text"),
            lambda: bot.send_text("hello", at_mobiles=[13800000000], at_dingtalk_ids=["manager1"]),
        ),
        # Undocumented, and not among the types that a robot's webhook takes.
        ("image", "refused 400105", lambda: bot.send_image("https://example.com/p.png")),
        ("link", seen("link"), lambda: bot.send_link("title", "text", "https://example.com/")),
        (
            "link with a picture",
            seen("link"),
            lambda: bot.send_link("title", "text", "https://example.com/", "https://example.com/p.png"),
        ),
        ("markdown", seen("markdown"), lambda: bot.send_markdown("title", "# text\n[a](https://example.com/)")),
        (
            "markdown with mentions",
            seen("markdown"),
            lambda: bot.send_markdown("title", "text", at_mobiles=["13800000000"]),
        ),
        ("action card, one button", seen("actionCard"), lambda: bot.send_action_card(ActionCard("title", "text", [one]))),
        (
            "action card, switches as numbers",
            seen("actionCard"),
            lambda: bot.send_action_card(ActionCard("title", "text", [one, two], btn_orientation=1, hide_avatar=1)),
        ),
        ("feed card", seen("feedCard"), lambda: bot.send_feed_card([feed])),
        (
            "feed card of the old class",
            seen("feedCard"),
            lambda: bot.send_feed_card([FeedLink("feed", "https://example.com/", "https://example.com/p.png")]),
        ),
    ]:
        case("DingtalkChatbot", name, expected, send)


def apprise():
    NotifyDingTalk.notify_url = BASE + "/robot/send?access_token={token}"
    # It waits some seconds before each message, for the real robot's limit.
    NotifyDingTalk.request_rate_per_sec = 0
    # It percent-encodes the signature, and its HTTP client does so again.
    expected = (lambda msgtype: "refused 310000") if SECRET else seen
    sender = Apprise()
    assert sender.add(f"dingtalk://{SECRET + '@' if SECRET else ''}{TOKEN}/13800000000")
    case("apprise", "text", expected("text"), lambda: sender.notify(title="title", body="text"))
    markdown = NotifyFormat.MARKDOWN
    plugin = sender[0]
    case("apprise", "markdown", expected("markdown"), lambda: plugin.send("text", "title", body_format=markdown))


chatbot()
apprise()
