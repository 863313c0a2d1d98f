//! What a message must know of markdown: a title for it, and where a paragraph can be added.
//!
//! Blocks and lines are read as CommonMark 0.31 reads them. Left out is what would cost the component more than it
//! gives: marks that end on another line than they began on, links by reference, entities and blocks of HTML stay as
//! they are written. Outside ASCII everything is a letter, which helps Chinese: CommonMark takes the second `**` of
//! `**注意：**请` for no mark.

use alloc::string::String;
use alloc::vec::Vec;

use crate::inline::{self, byte, run};

/// In characters, about what a notification shows.
const LONGEST: usize = 64;

/// How much of a line is read, in bytes: reading costs the square of it at worst. An address in a link has room.
const READ: usize = 1024;

/// The title of a text: the first line that has text, without marks; of a block of code, its first line as it is
/// written. Empty only if the text is blank.
pub fn title(text: &str) -> String {
    // Stands for a text of nothing but marks.
    let mut first = "";
    // The mark of the code that a line stands in.
    let mut fence = 0;
    let mut title = String::new();
    for line in text.split(ends_line) {
        let line = line.get(..line.floor_char_boundary(READ)).unwrap_or_default();
        title = String::from_utf8(without_marks(line.as_bytes(), &mut fence)).unwrap_or_default();
        if !title.trim().is_empty() {
            break;
        }
        if first.is_empty() {
            first = line.trim();
        }
    }
    let title = match title.trim() {
        "" => first,
        title => title,
    };
    let mut cut = String::from(title);
    if let Some((end, _)) = title.char_indices().nth(LONGEST) {
        cut.truncate(end);
        cut.push('…');
    }
    cut
}

/// Whether the last block of a text may go on after a blank line, as code in fences and HTML do where their end is
/// missing. Then a paragraph is safe only before the text; where the end stands is not looked for.
pub(crate) fn ends_open(text: &str) -> bool {
    let text = text.as_bytes();
    text.contains(&b'<') || text.windows(3).any(|marks| marks == b"```" || marks == b"~~~")
}

/// A line without what makes it a heading, a quote or an item of a list, and without the marks in it. Empty if it is a
/// fence or a break.
fn without_marks(line: &[u8], fence: &mut u8) -> Vec<u8> {
    let mut at = 0;
    loop {
        let start = at;
        while matches!(line.get(at), Some(b' ' | b'\t')) {
            at += 1;
        }
        let is_indented = at > start + 3;
        let mark = byte(line, at);
        let marks = run(line, at);
        let mut text = line.get(at..).unwrap_or_default().trim_ascii_end();
        let mut length = 1;
        match mark {
            b'>' if !is_indented => {
                at += 1 + usize::from(is_blank(line, at + 1));
                continue;
            }
            b'`' | b'~' if marks >= 3 && !is_indented && (*fence == mark || *fence == 0) => {
                let is_fence = if *fence == 0 {
                    mark == b'~' || !text.iter().skip(marks).any(|byte| *byte == mark)
                } else {
                    text.len() == marks
                };
                if is_fence {
                    *fence ^= mark;
                    return Vec::new();
                }
            }
            _ => {}
        }
        if is_indented || *fence != 0 {
            return text.to_vec();
        }
        match mark {
            b'*' | b'-' | b'_' if text.len() >= 3 && text.iter().all(|byte| *byte == mark || *byte == b' ') => {
                return Vec::new();
            }
            b'*' | b'-' | b'+' => {}
            b'#' if marks <= 6 => length = marks,
            b'0'..=b'9' => {
                while byte(text, length).is_ascii_digit() {
                    length += 1;
                }
                length += usize::from(length < 10 && matches!(byte(text, length), b'.' | b')'));
                if byte(text, length - 1).is_ascii_digit() {
                    length = 0;
                }
            }
            _ => length = 0,
        }
        if length == 0 || !is_blank(text, length) {
            return inline::text(text);
        }
        at += length + 1;
        if mark == b'#' {
            text = line.get(at..).unwrap_or_default().trim_ascii_end();
            let mut end = text.len();
            while byte(text, end.wrapping_sub(1)) == b'#' {
                end -= 1;
            }
            if is_blank(text, end.wrapping_sub(1)) {
                text = text.get(..end).unwrap_or_default();
            }
            return inline::text(text);
        }
    }
}

fn ends_line(c: char) -> bool {
    c == '\n' || c == '\r'
}

/// The end of a line counts as one.
#[inline(never)]
fn is_blank(line: &[u8], at: usize) -> bool {
    matches!(byte(line, at), b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

    /// The first line of text, by the module.
    fn read(text: &str) -> String {
        let mut fence = 0;
        let lines = text.lines().map(|line| String::from_utf8(without_marks(line.as_bytes(), &mut fence)).unwrap());
        lines.map(|line| line.trim().to_owned()).find(|line| !line.is_empty()).unwrap_or_default()
    }

    /// The first line of text, by another parser.
    fn first_text(text: &str) -> String {
        let mut line = String::new();
        for event in Parser::new_ext(text, Options::ENABLE_STRIKETHROUGH) {
            match &event {
                Event::Text(text) | Event::Code(text) => line.push_str(text),
                Event::SoftBreak | Event::HardBreak | Event::End(_) => {}
                _ => continue,
            }
            let ends = matches!(
                event,
                Event::SoftBreak
                    | Event::HardBreak
                    | Event::End(TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::Item | TagEnd::CodeBlock)
            );
            if ends || line.contains('\n') {
                if let Some(line) = line.lines().map(str::trim).find(|line| !line.is_empty()) {
                    return line.into();
                }
                line.clear();
            }
        }
        line.trim().into()
    }

    #[test]
    fn a_title_is_the_first_line_with_text_without_marks() {
        for (text, title) in [
            ("# Build\n\nfailed", "Build"),
            ("-5 °C outside", "-5 °C outside"),
            ("+8613800000000 called", "+8613800000000 called"),
            ("#1234 is fixed", "#1234 is fixed"),
            ("**bold** text", "bold text"),
            ("```\ncode\n```", "code"),
            ("```rust\n\n# no heading *x*\n```", "# no heading *x*"),
            ("~~~\n~~~\n\nafter", "after"),
            ("> ```\n> code\n> ```", "code"),
            ("```\n```x\n```", "```x"),
            ("```code``` in a line", "code in a line"),
            ("~~~ a~b\n**code**\n~~~", "**code**"),
            (">    **bold**", "bold"),
            (">     *code*", "*code*"),
            ("```\n```\n**bold**", "bold"),
            ("~~~\n```\n~~~\n**bold**", "```"),
            ("    # indented *code*", "# indented *code*"),
            ("    > indented *code*", "> indented *code*"),
            ("    ```\n**bold**", "```"),
            ("   # heading", "heading"),
            ("###### six ######", "six"),
            ("####### seven", "####### seven"),
            ("# C#", "C#"),
            ("#", "#"),
            ("- item", "item"),
            ("* item", "item"),
            ("+ item", "item"),
            ("1. first", "first"),
            ("12) twelfth", "twelfth"),
            ("123456789. item", "item"),
            ("1234567890. no item", "1234567890. no item"),
            ("1. 5 apples", "5 apples"),
            ("12 monkeys", "12 monkeys"),
            ("1.5 million", "1.5 million"),
            ("> > - 1. # deep", "deep"),
            ("---\n\n* * *\n___\nafter", "after"),
            ("--\nx", "--"),
            ("-- \nx", "--"),
            ("Title\n===", "Title"),
            ("[text](https://example.com/a_b) and ![alt](p.png)", "text and alt"),
            ("[a *b* `c`](u)", "a b c"),
            ("[x](see below)", "[x](see below)"),
            ("[ALERT] disk full", "[ALERT] disk full"),
            ("[ALERT]: sda) full", "[ALERT]: sda) full"),
            ("[ALERT]:sda) full", "[ALERT]:sda) full"),
            ("[ALERT][1] (sda)", "[ALERT][1] (sda)"),
            ("![](only.png)\ntext", "text"),
            ("*a **b** c*", "a b c"),
            ("***both*** __strong__ _em_", "both strong em"),
            ("snake_case_name 2*3*4", "snake_case_name 234"),
            ("2 * 3 * 4", "2 * 3 * 4"),
            ("**open", "**open"),
            ("~~done~~ ~5 ~~~", "done ~5 ~~~"),
            ("[![build](b.svg)](u) ok", "build ok"),
            ("\\*no\\* \\# C:\\Dir", "*no* # C:\\Dir"),
            ("\\*a*", "*a*"),
            ("`*code*` ``x`y``", "*code* x`y"),
            ("`open", "`open"),
            ("<b>Alert</b>!", "<b>Alert</b>!"),
            ("a < b, c > d <3 x", "a < b, c > d <3 x"),
            ("**注意：**请看", "注意：请看"),
            ("***", "***"),
            ("***\n---", "***"),
            ("\r\n  \r\nx\ry", "x"),
            ("\u{3000}\n\u{3000}x", "x"),
        ] {
            assert_eq!(super::title(text), title, "{text:?}");
        }
    }

    #[test]
    fn a_title_is_cut_after_64_characters_and_never_inside_of_one() {
        assert_eq!(title(&"长".repeat(64)), "长".repeat(64));
        assert_eq!(title(&"长".repeat(65)), "长".repeat(64) + "…");
        assert_eq!(title(&format!("**{}**", "长".repeat(64))), "长".repeat(64));
        assert_eq!(title(&"长".repeat(100_000)), "长".repeat(64) + "…");
    }

    #[test]
    fn reading_a_line_costs_the_same_however_long_it_is() {
        // What is behind the first kilobyte is neither read nor searched for a partner.
        for part in ["[](", "* ", "> ", "- ", " *a", "`a``b", "]( ", "\\", "1. "] {
            let line = part.repeat(100_000);
            let start = std::time::Instant::now();
            title(&line);
            // Without the limit, every mark's partner would be searched through all of it.
            assert!(start.elapsed() < std::time::Duration::from_secs(20), "{part:?}");
        }
        let far = format!("**{}** x", "a".repeat(READ));
        assert_eq!(title(&far), format!("**{}…", "a".repeat(LONGEST - 2)));
    }

    #[test]
    fn an_end_is_open_where_a_fence_or_html_may_go_on() {
        for text in ["```\ncode", "~~~\ncode", "- a\n\n  ```\n  code\n```", "<!-- comment"] {
            assert!(ends_open(text), "{text:?}");
        }
        for text in ["x", "# heading", "| a |\n|---|\n| b |", "> quote", "- item", "    code", "`code` ~~x~~"] {
            assert!(!ends_open(text), "{text:?}");
        }
    }

    /// Lines of what is read: marks around whole words, at most one pair in another.
    fn line() -> impl Strategy<Value = String> {
        let start = prop::collection::vec(
            prop::sample::select(vec![
                "", "", "", "# ", "## ", "#", "####### ", "> ", ">", "- ", "+ ", "* ", "-", "+", "1. ", "12) ", "1.",
                " ", "   ", "    ",
            ]),
            0..3,
        );
        let text = || {
            prop_oneof![
                4 => "[a-z0-9]{1,3}( [a-z0-9]{1,3}|_[a-z]|-[0-9]|\\\\[*_`\\[\\]#+-]| [*-] x)?",
                1 => prop::sample::select(vec!["长", "é", "x 注意：", "[ALERT]", "C#", "a\\b"]).prop_map(str::to_owned),
            ]
        };
        let pair = prop::sample::select(vec!["*", "**", "***", "_", "__", "~~"]);
        let part = prop_oneof![
            3 => text(),
            2 => (pair, text()).prop_map(|(mark, text)| [mark, &text, mark].concat()),
            1 => (prop::sample::select(vec!["*", "**", "_"]), text())
                .prop_map(|(mark, text)| [mark, "~~", &text, "~~", mark].concat()),
            1 => (prop::sample::select(vec!["`", "``"]), "[a-z*_\\[\\\\]{1,6}").prop_map(|(mark, text)| [mark, &text, "x", mark].concat()),
            1 => (prop::sample::select(vec!["", "!", "\\!"]), text().prop_filter("brackets in a link", |text| !text.contains("[A")), "[a-z]{1,4}(_x_|\\*)?")
                .prop_map(|(mark, text, address)| [mark, "[", &text, "](", &address, ")"].concat()),
            1 => prop::sample::select(vec!["x_y_z", "* x", "-5 °C", "+86138", "#1234", "(x)", "2 * 3", "!"]).prop_map(str::to_owned),
        ];
        (start, prop::collection::vec(part, 0..5)).prop_map(|(start, parts)| start.concat() + &parts.join(" "))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_line_reads_as_in_another_parser(line in line()) {
            let bare = |text: &str| text.replace(' ', "");
            // The blanks inside of code's marks stay.
            prop_assert_eq!(bare(&read(&line)), bare(&first_text(&line)), "{:?}", line);
        }

        #[test]
        fn of_any_line_nothing_but_marks_is_taken(line in "([*_`~\\[\\]()!\\\\ ]|a|长|\u{0}){0,60}") {
            let text = String::from_utf8(inline::text(line.as_bytes())).unwrap();
            let mut rest = line.chars();
            for c in text.chars() {
                prop_assert!(rest.any(|other| other == c), "{:?} of {:?}", text, line);
            }
            if !line.contains(['*', '_', '`', '~', '[', '\\']) {
                prop_assert_eq!(text, line);
            }
        }

        #[test]
        fn a_fence_reads_as_in_another_parser(
            quote in prop_oneof![Just(""), Just("> "), Just("> > ")],
            lines in prop::collection::vec("(```|~~~|  ```|    ```|``` x|#* [a-z]{0,2})", 0..6),
        ) {
            let text: String = lines.iter().map(|line| [quote, line, "\n"].concat()).collect();
            prop_assert_eq!(read(&text), first_text(&text), "{:?}", text);
        }

        #[test]
        fn a_paragraph_that_is_added_is_one(lines in prop::collection::vec(prop_oneof![
            line(), "[ >-]{0,5}(```|````|~~~|```x|<!--|-->|<pre>|</pre>|<div>|\\| a \\||\\|--\\||===|---)[ x]{0,2}", "( |\t){0,5}[a-z]{0,2}",
        ], 0..8)) {
            let text = lines.join("\n");
            let whole = if ends_open(&text) { ["@180 @u1\n\n", &text].concat() } else { [&text, "\n\n@180 @u1"].concat() };
            let (mut paragraph, mut found, mut depth) = (None, false, 0);
            for event in Parser::new(&whole) {
                match event {
                    Event::Start(Tag::Paragraph) if depth == 0 => { (paragraph, depth) = (Some(String::new()), 1); }
                    Event::Start(_) => depth += 1,
                    Event::Text(text) => if let Some(paragraph) = &mut paragraph { paragraph.push_str(&text) },
                    Event::End(end) => {
                        depth -= 1;
                        found |= end == TagEnd::Paragraph && paragraph.as_deref() == Some("@180 @u1");
                        if depth == 0 { paragraph = None; }
                    }
                    _ => if let Some(paragraph) = &mut paragraph { paragraph.push('\u{0}') },
                }
            }
            prop_assert!(found, "{whole:?}");
        }

        #[test]
        fn a_title_is_a_line_that_is_not_blank(text in "(?s).*", marks in "[*_`\\[\\]()!<>#\\\\ \n-]{0,40}") {
            for text in [text, marks] {
                let title = title(&text);
                prop_assert_eq!(title.trim().is_empty(), text.trim().is_empty());
                prop_assert!(!title.contains(['\n', '\r']) && title.chars().count() <= LONGEST + 1);
            }
        }
    }
}
