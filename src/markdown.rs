//! What a message must know of markdown: a title for it, and where a paragraph can be added.
//!
//! Blocks and lines are read as CommonMark 0.31 reads them. Left out is what would cost the component more than it
//! gives: marks that end on another line than they began on, links by reference, entities and blocks of HTML stay as
//! they are written. Outside ASCII everything is a letter, which helps Chinese: CommonMark takes the second `**` of
//! `**注意：**请` for no mark.

use alloc::string::String;

use crate::inline;

/// In characters, about what a notification shows.
const LONGEST: usize = 64;

/// The title of a text: the first line that has text, without marks. Empty only if the text is blank.
pub(crate) fn title(text: &str) -> String {
    let mut title = without_marks(text);
    if title.is_empty() {
        // Nothing but marks.
        title = String::from(text.trim().split(['\n', '\r']).next().unwrap_or_default());
    }
    if let Some((end, _)) = title.char_indices().nth(LONGEST) {
        title.truncate(end);
        title.push('…');
    }
    title
}

fn without_marks(text: &str) -> String {
    // The mark of the code that a line stands in.
    let mut fence = 0;
    for line in text.as_bytes().split(|byte| matches!(byte, b'\n' | b'\r')) {
        let (text, is_code) = block(line, &mut fence);
        let text = if is_code { text.to_vec() } else { inline::text(text) };
        let text = String::from_utf8(text).unwrap_or_default();
        let text = text.trim();
        if !text.is_empty() {
            return text.into();
        }
    }
    String::new()
}

/// Whether the last block of a text may go on after a blank line, as code in fences and HTML do where their end is
/// missing. Then a paragraph is safe only before the text; where the end stands is not looked for.
pub(crate) fn ends_open(text: &str) -> bool {
    let text = text.as_bytes();
    text.contains(&b'<') || text.windows(3).any(|marks| marks == b"```" || marks == b"~~~")
}

/// The text of a line without what makes it a heading, a quote or an item of a list, and whether it is code.
fn block<'a>(mut line: &'a [u8], fence: &mut u8) -> (&'a [u8], bool) {
    loop {
        let indent = line.iter().take_while(|byte| **byte == b' ').count();
        let text = line.get(indent..).unwrap_or_default();
        let mark = text.first().copied().unwrap_or_default();
        let marks = run(text, 0);
        let rest = text.get(marks..).unwrap_or_default();
        if marks >= 3 && indent <= 3 && matches!(mark, b'`' | b'~') {
            if *fence == 0 && (mark == b'~' || !rest.contains(&mark)) {
                *fence = mark;
                return (&[], true);
            } else if *fence == mark && rest.trim_ascii().is_empty() {
                *fence = 0;
                return (&[], true);
            }
        }
        let is_break = || text.iter().all(|byte| *byte == mark || *byte == b' ') && text.len() >= 3;
        let mut length = 1;
        match mark {
            b'>' if indent <= 3 => {}
            _ if *fence != 0 || indent > 3 || mark == b'\t' => return (text, true),
            b'*' | b'-' | b'_' if is_break() => return (&[], false),
            b'*' | b'-' | b'+' => {}
            b'#' if marks <= 6 => length = marks,
            b'0'..=b'9' => {
                length = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(10) + 1;
                if length > 10 || !matches!(text.get(length - 1), Some(b'.' | b')')) {
                    return (text, false);
                }
            }
            _ => return (text, false),
        }
        line = text.get(length..).unwrap_or_default();
        if mark != b'>' && !matches!(line.first(), None | Some(b' ' | b'\t')) {
            return (text, false);
        }
        if mark == b'#' {
            return (without_end(line), false);
        }
        line = line.strip_prefix(b" ").or(line.strip_prefix(b"\t")).unwrap_or(line);
    }
}

/// A heading without the `#` at its end.
fn without_end(heading: &[u8]) -> &[u8] {
    let mut text = heading.trim_ascii_end();
    while let [start @ .., b'#'] = text {
        text = start;
    }
    if let [.., b' ' | b'\t'] | [] = text { text } else { heading }
}

/// How often the byte at this place stands there in a row.
#[inline(never)]
pub(crate) fn run(text: &[u8], at: usize) -> usize {
    let text = text.get(at..).unwrap_or_default();
    text.iter().take_while(|byte| text.first() == Some(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Parser, Tag, TagEnd};

    /// The first line of text, by another parser.
    fn first_text(text: &str) -> String {
        let mut line = String::new();
        for event in Parser::new(text) {
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
            ("    # indented *code*", "# indented *code*"),
            ("###### six ######", "six"),
            ("####### seven", "####### seven"),
            ("# C#", "C#"),
            ("#", "#"),
            ("- item", "item"),
            ("* item", "item"),
            ("+ item", "item"),
            ("1. first", "first"),
            ("12) twelfth", "twelfth"),
            ("1.5 million", "1.5 million"),
            ("> > - 1. # deep", "deep"),
            ("---\n\n* * *\n___\nafter", "after"),
            ("--\nx", "--"),
            ("Title\n===", "Title"),
            ("[text](https://example.com/a_b) and ![alt](p.png)", "text and alt"),
            ("[a *b* `c`](u)", "a b c"),
            ("[x](see below)", "[x](see below)"),
            ("[ALERT] disk full", "[ALERT] disk full"),
            ("[ALERT][1] (sda)", "[ALERT][1] (sda)"),
            ("![](only.png)\ntext", "text"),
            ("*a **b** c*", "a b c"),
            ("***both*** __strong__ _em_", "both strong em"),
            ("snake_case_name 2*3*4", "snake_case_name 234"),
            ("2 * 3 * 4", "2 * 3 * 4"),
            ("**open", "**open"),
            ("\\*no\\* \\# C:\\Dir", "*no* # C:\\Dir"),
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
    fn an_end_is_open_where_a_fence_or_html_may_go_on() {
        for text in ["```\ncode", "~~~\ncode", "- a\n\n  ```\n  code\n```", "<!-- comment"] {
            assert!(ends_open(text), "{text:?}");
        }
        for text in ["x", "# heading", "| a |\n|---|\n| b |", "> quote", "- item", "    code", "`code` ~~x~~"] {
            assert!(!ends_open(text), "{text:?}");
        }
    }

    /// Lines of marks and words. Without what the module's introduction leaves out.
    fn line() -> impl Strategy<Value = String> {
        let start = prop::collection::vec(
            prop::sample::select(vec![
                "", "", "", "# ", "## ", "#", "####### ", "> ", ">", "- ", "+ ", "* ", "-", "+", "1. ", "12) ", "1.",
                " ", "   ", "    ",
            ]),
            0..3,
        );
        // Runs of one length in a line, and none beside another.
        let marks = prop::sample::select(vec![["*", "_", "`"], ["**", "__", "``"], ["***", "_", "`"]]);
        marks.prop_flat_map(move |[star, low, tick]| {
            let part = prop_oneof![
                3 => "[a-z0-9]{1,3}",
                1 => prop::sample::select(vec!["长", "é"]).prop_map(str::to_owned),
                3 => prop::sample::select(vec![star, low, tick]).prop_map(str::to_owned),
                3 => prop::sample::select(vec![" ", "[", "](u)", "![", "\\[", "\\+", ".", "(", ")", "-", "+", "#", "]", "!", ": ", " > "])
                    .prop_map(str::to_owned),
            ];
            (start.clone(), prop::collection::vec(part, 0..12)).prop_map(|(start, mut parts)| {
                parts.dedup_by(|a, b| a.starts_with(['*', '_', '`']) && b.starts_with(['*', '_', '`']));
                start.concat() + &parts.concat()
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_line_reads_as_in_another_parser(line in line()) {
            let bare = |text: String| text.replace(' ', "");
            // The blanks inside of code's marks stay.
            prop_assert_eq!(bare(without_marks(&line)), bare(first_text(&line)), "{:?}", line);
        }

        #[test]
        fn a_fence_reads_as_in_another_parser(
            quote in prop_oneof![Just(""), Just("> "), Just("> > ")],
            lines in prop::collection::vec("(```|~~~|  ```|    ```|``` x|#* [a-z]{0,2})", 0..6),
        ) {
            let text: String = lines.iter().map(|line| [quote, line, "\n"].concat()).collect();
            prop_assert_eq!(without_marks(&text), first_text(&text), "{:?}", text);
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
