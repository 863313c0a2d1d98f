use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde_json::{Value, json};

use super::*;

fn text(content: &str) -> Value {
    json!({"msgtype": "text", "text": {"content": content}})
}

fn markdown(title: &str, text: &str) -> Value {
    json!({"msgtype": "markdown", "markdown": {"title": title, "text": text}})
}

fn calling(mut message: Value, at: Value) -> Value {
    message["at"] = at;
    message
}

fn merged(messages: &[Value], keywords: &[&str]) -> Option<(usize, Value)> {
    let bodies: Vec<String> = messages.iter().map(Value::to_string).collect();
    let keywords: Vec<String> = keywords.iter().map(|word| (*word).to_owned()).collect();
    let Merged { body, count } = merge(&bodies, &keywords)?;
    Some((count, serde_json::from_slice(&body).unwrap()))
}

/// The texts of the first messages, as they stand in the merged one.
fn texts(messages: &[Value]) -> Vec<String> {
    let (count, whole) = merged(messages, &[]).unwrap();
    assert_eq!(count, messages.len());
    whole["markdown"]["text"].as_str().unwrap().split(BETWEEN).map(str::to_owned).collect()
}

/// How a text is written, as one of two messages.
fn written(content: &str) -> String {
    texts(&[text("first"), text(content)]).remove(1)
}

/// What a reader of markdown makes of a text: texts that follow each other are one.
fn events(markdown: &str) -> Vec<Event<'static>> {
    let mut events: Vec<Event<'static>> = Vec::new();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match (events.last_mut(), event.into_static()) {
            (Some(Event::Text(before)), Event::Text(more)) => *before = format!("{before}{more}").into(),
            (Some(Event::Text(code)), event @ Event::End(TagEnd::CodeBlock)) => {
                // Its last line may have an end or not.
                *code = code.trim_end_matches('\n').to_owned().into();
                if code.is_empty() {
                    events.pop();
                }
                events.push(event);
            }
            (_, Event::Html(html)) if html.trim_end().is_empty() => {}
            (_, Event::Html(html)) => events.push(Event::Html(html.trim_end_matches('\n').to_owned().into())),
            (_, event) => events.push(event),
        }
    }
    events
}

/// The lines of a text that is nothing but one paragraph.
fn lines(events: &[Event]) -> Option<Vec<String>> {
    let [Event::Start(Tag::Paragraph), inner @ .., Event::End(TagEnd::Paragraph)] = events else { return None };
    let mut lines = vec![String::new()];
    for event in inner {
        match event {
            Event::Text(text) => lines.last_mut().unwrap().push_str(text),
            Event::HardBreak => lines.push(String::new()),
            _ => return None,
        }
    }
    Some(lines)
}

/// What can be seen of a line, where all blanks look alike.
fn seen(line: &str) -> String {
    line.replace('\t', "    ").replace(SPACE, " ").replace(NOTHING, "").replace('\0', "\u{fffd}").trim_end().to_owned()
}

/// The lines of a text, without blank ones at both ends.
fn seen_lines(content: &str) -> Vec<String> {
    let content = content.replace("\r\n", "\n");
    let lines: Vec<&str> = content.split(['\n', '\r']).collect();
    let is_blank = |line: &&&str| line.trim_matches([' ', '\t']).is_empty();
    let first = lines.iter().take_while(is_blank).count();
    let last = lines.iter().rev().take_while(is_blank).count();
    lines[first..lines.len() - last]
        .iter()
        .map(|line| if line.trim().is_empty() { String::new() } else { seen(line) })
        .collect()
}

/// A text as it was before it became markdown, by the characters alone.
fn undone(written: &str) -> Vec<String> {
    let written =
        PAIRED.iter().fold(written.to_owned(), |text, mark| text.replace(&format!("\\{mark}"), &mark.to_string()));
    written.split("  \n").map(seen).collect()
}

#[test]
fn messages_that_wait_become_one() {
    let messages = [
        calling(text("disk full on a\nsince 10:00 @180"), json!({"atMobiles": ["180"]})),
        markdown("Build 7", "**failed** @u1"),
        json!({"msgtype": "markdown", "markdown": {"title": "Deployed", "text": "# Deployed\n- a\n- b"}, "msgUuid": "u",
               "at": {"atUserIds": ["u1"], "isAtAll": true}}),
    ];
    let whole = json!({
        "msgtype": "markdown",
        "markdown": {
            "title": "disk full on a (+2)",
            "text": "disk full on a  \nsince 10:00 @180\n\n---\n\n**Build 7**\n\n**failed** @u1\n\n---\n\n# Deployed\n- a\n- b",
        },
        "at": {"atMobiles": ["180"], "atUserIds": ["u1"], "isAtAll": true},
    });
    assert_eq!(merged(&messages, &[]), Some((3, whole)));
    assert_eq!(merged(&messages[..1], &[]), None, "one is not several");
    assert_eq!(merged(&[], &[]), None);
}

#[test]
fn a_text_looks_as_it_was_written() {
    for content in [
        "# no heading",
        "## none",
        "#1234",
        "> no quote",
        "- no item",
        "+ none",
        "* none",
        "1. none",
        "12) none",
        "-5 °C",
        "a\n- b\n- c",
        "title\n===",
        "title\n---",
        "***",
        "___",
        "```\ncode\n```",
        "~~~\ncode",
        "`` ` ``",
        "*a* **b** ***c***",
        "_a_ __b__ a_b_c",
        "2 * 3 * 4",
        "*/5 * * * *",
        "`a` and `b`",
        "[a](http://b) ![c](d)",
        "[a]: http://b\n\n[a]",
        "<b>a</b>",
        "<!-- a",
        "<http://a.b>",
        "a <- b",
        "&amp; &#42; &x",
        "https://h/a?b=1&copy=2&_c=_d_",
        r"\*a\* \# C:\_a\b",
        "a\\",
        "a\\\nb",
        "| a | b |\n|---|---|\n| c | d |",
        "a | b\n--|--",
        "    indented\n\tcode",
        "a\n\n\n\nb",
        "a  b   c",
        "a\r\nb\rc",
        "\n\n  a\nb \n\n",
        "@180 *a*@180*b*",
        "~~a~~",
        "长*长*长_长_",
        "__init__",
        "a\n    - b\n  1. c",
        "[x] y",
        "\u{3000}# a",
        ":-- | --:",
        "a**b**c`d`",
    ] {
        let written = written(content);
        assert_eq!(
            lines(&events(&written)).map(|lines| lines.iter().map(|line| seen(line)).collect()),
            Some(seen_lines(content)),
            "{written:?}"
        );
        assert_eq!(undone(&written), seen_lines(content), "{written:?}");
    }
}

#[test]
fn a_text_is_changed_no_more_than_it_must_be() {
    for content in [
        "disk full (90%) on db_main_1: 5 * 3, see https://h/a_b?c=1&d=~e#f",
        "[ALERT] is no link (really)",
        "a < b & c; d > e!",
        r"C:\dir\x",
        "一，二。「三」",
        "lone *mark, lone `tick",
        "@user_name, look",
    ] {
        assert_eq!(written(content).trim_start_matches(NOTHING), content);
    }
    assert_eq!(written("a  b   c \t\n\n~~d~~"), "a \u{a0}b \u{a0}\u{a0}c  \n\u{a0}  \n\u{200b}~\u{200b}~d~\u{200b}~");
    assert_eq!(written("*a* b\n  - c"), "\u{200b}\\*a\\* b  \n\u{a0}\u{a0}\u{200b}- c");
}

#[test]
fn who_is_called_stands_in_the_text_as_he_did() {
    let people = ["_a_", "b*", "c_", "c_d_"];
    let content = "@_a_ @b* *x* _y_ @c_d_ @c_!";
    let whole = texts(&[text("first"), calling(text(content), json!({"atUserIds": people}))]).remove(1);
    assert_eq!(whole, "@_a_ @b* \\*x\\* \\_y\\_ @c_d_ @c_!");
}

#[test]
fn no_more_people_than_a_message_can_call() {
    let at = |name: &str, range: std::ops::Range<usize>| {
        calling(text("x"), json!({name: range.map(|number| format!("{number}")).collect::<Vec<_>>()}))
    };
    for name in ["atMobiles", "atUserIds"] {
        let all = [at(name, 0..30), at(name, 10..50), at(name, 49..51), text("y")];
        let (count, whole) = merged(&all, &[]).unwrap();
        assert_eq!((count, whole["at"][name].as_array().unwrap().len()), (2, 50), "{name}");
        assert_eq!(merged(&[text("x"), at(name, 0..51)], &[]), None, "{name}");
    }
    let both = [at("atMobiles", 0..50), at("atUserIds", 0..50)];
    assert_eq!(merged(&both, &[]).unwrap().0, 2);
    let null = json!({"atMobiles": null, "atUserIds": [""], "isAtAll": false});
    let (_, whole) = merged(&[calling(text("x"), null), calling(text("y"), Value::Null)], &[]).unwrap();
    assert_eq!(whole.get("at"), None);
}

#[test]
fn what_cannot_be_merged_ends_what_is() {
    let link = json!({"msgtype": "link", "link": {"title": "t", "text": "x", "messageUrl": "http://h"}});
    for (last, why) in [
        (link.to_string(), "another type"),
        ("{".to_owned(), "no JSON"),
        ("\"text\"".to_owned(), "no message"),
        (json!({"msgtype": "text", "text": "x"}).to_string(), "no content"),
        (text(" \n ").to_string(), "a blank text"),
        (markdown("t", "").to_string(), "a blank text"),
        (markdown("t", "a\n\n<!-- b").to_string(), "HTML that goes on"),
        (markdown("t", "<pre>\na").to_string(), "HTML that goes on"),
        (markdown("t", "- <!-- a").to_string(), "HTML that may go on"),
        (markdown("t", "[a]: http://b").to_string(), "a link's address"),
        (markdown("t", &("> ".repeat(17) + "a")).to_string(), "nested deeply"),
        (calling(text("x"), json!({"atMobiles": [180]})).to_string(), "a number that is none"),
        (calling(text("x"), json!({"atDepartments": ["1"]})).to_string(), "others called"),
        (text(&"x".repeat(20_000)).to_string(), "too long"),
        (text(&"`x".repeat(10_000)).to_string(), "too long as markdown"),
        (format!("{}{}", text("x"), " ".repeat(200_000)), "too much to read"),
    ] {
        let bodies = [text("a").to_string(), text("b").to_string(), last, text("c").to_string()];
        assert_eq!(merge(&bodies, &[]).map(|merged| merged.count), Some(2), "{why}");
        assert_eq!(merge(&bodies[1..], &[]), None, "{why}");
        assert_eq!(merge(&bodies[2..], &[]), None, "{why}");
    }
}

#[test]
fn as_many_as_fit_to_the_byte() {
    // What the second message may have at most, by serde_json's own count.
    let at = json!({"atMobiles": ["180"], "atUserIds": ["长\""], "isAtAll": true});
    for (keywords, at, added) in
        [(vec![], None, 0), (vec!["key"], None, 7), (vec!["x"], None, 0), (vec![], Some(at), 0)]
    {
        let mut frame = markdown("a\"长 (+1)", &format!("a\"长{BETWEEN}"));
        let mut first = text("a\"长");
        if let Some(at) = at {
            (frame, first) = (calling(frame, at.clone()), calling(first, at));
        }
        let room = LARGEST - frame.to_string().len() - added;
        let two = |length: usize| merged(&[first.clone(), text(&"x".repeat(length))], &keywords);
        assert_eq!(two(room).unwrap().1.to_string().len(), LARGEST, "{keywords:?}");
        assert_eq!(two(room + 1), None, "{keywords:?}");
    }
}

#[test]
fn a_keyword_is_added_only_where_none_came() {
    let text_of =
        |messages: &[Value], keywords: &[&str]| merged(messages, keywords).unwrap().1["markdown"]["text"].clone();
    let two = [text("disk full"), markdown("t", "- an alert")];
    assert_eq!(text_of(&two, &["告警", "alert"]), "disk full\n\n---\n\n**t**\n\n- an alert");
    assert_eq!(text_of(&two, &["告警", "warning"]), "disk full\n\n---\n\n**t**\n\n- an alert\n\n告警");
    // As it must be written, it is another word.
    assert_eq!(text_of(&[text("a"), text("*b* *c*")], &["*b*"]), "a\n\n---\n\n\u{200b}\\*b\\* \\*c\\*\n\n*b*");
    let code = [text("a"), markdown("t", "t\n```\ncode")];
    assert_eq!(text_of(&code, &["key"]), "a\n\n---\n\nt\n```\ncode\n```\n\nkey");
}

#[test]
fn code_without_an_end_ends_with_its_message() {
    for (open, closed) in [
        ("```\ncode", "```\ncode\n```"),
        ("a\n~~~~ rust\n~~~\n\ncode\n\n", "a\n~~~~ rust\n~~~\n\ncode\n~~~~"),
        ("  ```\n  code", "  ```\n  code\n```"),
        ("```", "```\n```"),
        // With their end comes that of the code in them.
        ("> ```\n> code", "> ```\n> code"),
        ("- a\n\n  ```\n  code", "- a\n\n  ```\n  code"),
        ("```\ncode\n```", "```\ncode\n```"),
        ("a `b", "a `b"),
        ("<div>\na", "<div>\na"),
    ] {
        assert_eq!(texts(&[markdown("", open), text("next")]), [closed, "next"]);
    }
}

#[test]
fn a_title_is_seen_once() {
    let shown = |title: &str, content: &str| texts(&[markdown(title, content), text("next")]).remove(0);
    for (title, text) in [("Build", "# Build"), ("Build", "\n**Build** 7"), ("a\nb", "a b"), ("", "x")] {
        assert_eq!(shown(title, text), text.trim_start());
    }
    let long = "长".repeat(100);
    assert_eq!(shown(&("长".repeat(64) + "…"), &long), long, "the title that the binding gives it");
    assert_eq!(shown(&long, &long), format!("**{long}**\n\n{long}"), "more than is looked at");
    assert_eq!(shown("a\n b", "x"), "**a b**\n\nx");
    assert_eq!(shown("t", "\n\n    code\n"), "**t**\n\n    code");
    for title in ["a*b", "*a*", "_a", "`a", "a\\", "[a](b)", "# a", "(a)", "长。", "1. a", "&lt;", "a\\*"] {
        let whole = shown(title, "x");
        let line = events(whole.strip_suffix("\n\nx").unwrap());
        let [_, Event::Start(Tag::Strong), Event::Text(text), Event::End(_), _] = &line[..] else { panic!("{line:?}") };
        assert_eq!(seen(text), title);
    }
    let whole_title =
        |message: Value| merged(&[message, text("x"), text("y")], &[]).unwrap().1["markdown"]["title"].clone();
    assert_eq!(whole_title(text("\n *a* b \nc")), "*a* b (+2)");
    assert_eq!(whole_title(markdown("", "# *a*\nb")), "a (+2)");
    assert_eq!(whole_title(markdown(&long, "x")), format!("{}… (+2)", "长".repeat(64)));
}

#[test]
fn what_waits_is_looked_at_no_further_than_it_fits() {
    struct Body<'a>(&'a str, &'a Cell<usize>);
    impl AsRef<[u8]> for Body<'_> {
        fn as_ref(&self) -> &[u8] {
            self.1.set(self.1.get() + 1);
            self.0.as_bytes()
        }
    }
    for body in [text("x").to_string(), text("x").to_string() + &" ".repeat(10_000)] {
        let looked_at = Cell::new(0);
        let bodies: Vec<Body> = (0..400_000).map(|_| Body(&body, &looked_at)).collect();
        let Merged { count, .. } = merge(&bodies, &[]).unwrap();
        assert_eq!(looked_at.get(), count + 1);
        assert!(count < 2_000, "{count}");
    }
}

#[test]
fn no_message_takes_for_ever() {
    for part in [
        "`", "`` ` ", "> ", "- ", "1. ", "[", "](", "*a ", "**a* ", "_", "_a ", "<", "<a ", "&a", "\\", "@", "@18",
        "~", "\n", " \n", "a|", "|-", "![", "\t", "1", "<!--",
    ] {
        for all in [19_000, 75_000, 380_000] {
            let long = part.repeat(all / part.len());
            // What is open on each of many lines.
            let deep = part.repeat(all / 2 / part.len()) + "a\n" + &"a\n".repeat(all / 4);
            let at = json!({"atUserIds": (10..60).map(|number| format!("1{number}")).collect::<Vec<_>>()});
            for message in [text(&long), markdown("t", &long), markdown(&long, "t"), markdown("t", &deep)] {
                let bodies = [calling(message, at.clone()).to_string(), text("x").to_string()];
                let start = std::time::Instant::now();
                merge(&bodies, &[]);
                let took = start.elapsed();
                // Milliseconds. Where marks were searched for their partners, or depth cost its square, it would be minutes.
                assert!(took < std::time::Duration::from_secs(20), "{part:?} took {took:?}");
            }
        }
    }
}

/// Texts of what markdown is made of, and of anything.
fn content() -> impl Strategy<Value = String> {
    let marks = prop::sample::select(vec![
        "*", "**", "_", "__", "`", "```", "~~", "~~~", "#", "> ", "- ", "+ ", "1. ", "2) ", "[", "](", ")", "![", "<",
        ">", "&amp;", "&", ";", "\\", "|", "---", "===", ":", "\n", "\n", "\n\n", "\r\n", " ", "  ", "    ", "\t", "a",
        "b c", "长", "。", "@180", "@u_1", "<b>", "<!--", "-->", "<pre>", "[a]: b", "\u{a0}", "\u{3000}", "!",
    ]);
    prop_oneof![
        4 => prop::collection::vec(marks, 0..24).prop_map(|marks| marks.concat()),
        1 => "(?s).{0,40}",
        1 => "[ -~\n]{0,60}",
    ]
}

fn message() -> impl Strategy<Value = Value> {
    let people = || prop::collection::vec(prop::sample::select(vec!["180", "u_1", "a", "b", ""]), 0..4);
    let many = (0..60_usize, 0..30_usize)
        .prop_map(|(from, more)| (from..from + more).map(|number| number.to_string()).collect::<Vec<_>>());
    let at = prop_oneof![
        4 => Just(None),
        3 => (people(), people(), any::<bool>()).prop_map(|(mobiles, ids, all)| Some(json!({"atMobiles": mobiles, "atUserIds": ids, "isAtAll": all}))),
        1 => many.prop_map(|ids| Some(json!({"atUserIds": ids}))),
    ];
    let long =
        || (content(), prop_oneof![5 => Just(1), 1 => 1..400_usize]).prop_map(|(content, times)| content.repeat(times));
    let message = prop_oneof![
        4 => long().prop_map(|content| text(&content)),
        4 => ("[a-z*_`\\\\ ]{0,6}", long()).prop_map(|(title, content)| markdown(&title, &content)),
        1 => Just(json!({"msgtype": "link", "link": {}})),
    ];
    (message, at).prop_map(|(message, at)| match at {
        Some(at) => calling(message, at),
        None => message,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_text_looks_as_it_was_written(content in content()) {
        prop_assume!(!content.trim().is_empty());
        let written = as_markdown(&content, &At::default());
        let lines = lines(&events(&written)).map(|lines| lines.iter().map(|line| seen(line)).collect());
        prop_assert_eq!(lines, Some(seen_lines(&content)), "{:?}", written);
        prop_assert_eq!(undone(&written), seen_lines(&content));
    }

    #[test]
    fn any_title_is_a_bold_line(title in content()) {
        let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
        prop_assume!(!title.is_empty());
        let line = events(&bold(&title));
        let [Event::Start(Tag::Paragraph), Event::Start(Tag::Strong), Event::Text(text), Event::End(_), Event::End(_)] = &line[..] else {
            return Err(TestCaseError::fail(format!("{line:?}")));
        };
        prop_assert_eq!(seen(text), seen(&title));
    }
}

proptest! {
    #[test]
    fn one_message_says_what_they_said(messages in prop::collection::vec(message(), 0..12), keyword: bool) {
        let keywords: &[&str] = if keyword { &["KEY", "a"] } else { &[] };
        let bodies: Vec<String> = messages.iter().map(Value::to_string).collect();
        let parts: Vec<Option<Part>> = bodies.iter().map(|body| Part::read(body.as_bytes())).collect();
        let readable = parts.iter().map_while(Option::as_ref).count();
        let (count, whole) = merged(&messages, keywords).unwrap_or_default();
        prop_assert!(count <= readable && count != 1);

        // One more would not have fitted, by another count.
        let people = |count: usize, name: &str| -> BTreeSet<String> {
            let all = messages[..count].iter().filter_map(|message| message["at"][name].as_array()).flatten();
            all.map(|person| person.as_str().unwrap().to_owned()).filter(|person| !person.is_empty()).collect()
        };
        let naive = |count: usize| {
            let taken: Vec<&Part> = parts[..count].iter().flatten().collect();
            let mut text = taken.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(BETWEEN);
            if keyword && !text.contains("KEY") && !text.contains('a') {
                text.push_str("\n\nKEY");
            }
            let title = format!("{} (+{})", taken[0].title, count - 1);
            let mut whole = markdown(&title, &text);
            let all = messages[..count].iter().any(|message| message["at"]["isAtAll"] == true);
            for name in ["atMobiles", "atUserIds"] {
                if !people(count, name).is_empty() {
                    whole["at"][name] = json!(people(count, name));
                }
            }
            if all {
                whole["at"]["isAtAll"] = true.into();
            }
            whole
        };
        let fits = |count: usize| {
            naive(count).to_string().len() <= LARGEST && people(count, "atMobiles").len() <= 50 && people(count, "atUserIds").len() <= 50
        };
        let longest = (2..=readable).take_while(|count| fits(*count)).last().unwrap_or(0);
        prop_assert_eq!(count, longest);
        if count == 0 {
            return Ok(());
        }

        // The same message, whoever puts it together; people in whatever order.
        let mut sorted = whole.clone();
        for name in ["atMobiles", "atUserIds"] {
            if let Some(list) = sorted["at"].get_mut(name) {
                let list = list.as_array_mut().unwrap();
                list.sort_by_key(|person| person.as_str().unwrap().to_owned());
            }
        }
        if whole.get("at").is_none() {
            sorted.as_object_mut().unwrap().remove("at");
        }
        prop_assert_eq!(&sorted, &naive(count));

        // Read as a whole, it is what each of them is alone, and nothing of one is in another.
        let text = whole["markdown"]["text"].as_str().unwrap();
        let mut expected = Vec::new();
        for (message, part) in messages[..count].iter().zip(parts.iter().flatten()) {
            if !expected.is_empty() {
                expected.push(Event::Rule);
            }
            let alone = events(&part.text);
            match message["text"]["content"].as_str() {
                Some(content) => {
                    let lines = lines(&alone).map(|lines| lines.iter().map(|line| seen(line)).collect());
                    prop_assert_eq!(lines, Some(seen_lines(content)), "{:?}", part.text);
                }
                None => {
                    let written = message["markdown"]["text"].as_str().unwrap();
                    let written = written.trim_end_matches([' ', '\t', '\r', '\n']);
                    prop_assert!(part.text.contains(written.trim_start()), "{:?}", part.text);
                    prop_assert!(alone.ends_with(&events(written)), "{:?}", part.text);
                }
            }
            expected.extend(alone);
        }
        if keyword && !parts[..count].iter().flatten().any(|part| part.text.contains("KEY") || part.text.contains('a')) {
            expected.extend(events("KEY"));
        }
        prop_assert_eq!(events(text), expected, "{:?}", text);

        // Such a message can be one of several, too.
        let again = Part::read(whole.to_string().as_bytes()).unwrap();
        prop_assert!(again.text.ends_with(text));
    }
}

#[test]
fn what_became_one_before_has_one_title_and_one_number() {
    let (_, one) = merged(&[text("a*b*c is full"), text("second"), text("third")], &[]).unwrap();
    let (_, other) = merged(&[text("fourth"), text("fifth")], &[]).unwrap();
    let (count, all) = merged(&[one.clone(), text("between"), other], &[]).unwrap();
    assert_eq!((count, &all["markdown"]["title"]), (3, &json!("a*b*c is full (+5)")));
    let expected = [one["markdown"]["text"].as_str().unwrap(), "between", "fourth", "fifth"].join(BETWEEN);
    assert_eq!(all["markdown"]["text"], json!(expected));
    // A title that only looks so stays what it is.
    let (_, own) = merged(&[markdown("disk (+2)", "disk"), text("x")], &[]).unwrap();
    assert_eq!(own["markdown"]["title"], json!("disk (+2) (+1)"));
    assert_eq!(own["markdown"]["text"], json!(["**disk (+2)**\n\ndisk", "x"].join(BETWEEN)));
}
