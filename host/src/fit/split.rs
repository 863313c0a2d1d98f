//! A long text → parts that fit, broken where a reader would break it: between paragraphs, between lines, between words. In
//! markdown, code with a fence is closed at the end of a part and opened again in the next one; links, pictures, inline code
//! and the marks of lists stay whole. Pure.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// How the text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// As it stands.
    Plain,
    /// As markdown.
    Markdown,
}

/// How good a place is for a break, from the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Break {
    Paragraph,
    Line,
    Word,
    Character,
    /// Inside of what should stay whole, and is too long for that.
    Inside,
}

/// Of what fits, a part may stay so much shorter for the sake of a better break: a half.
const SHORTER: usize = 2;

/// Parts of `text`, none of which is larger than `budget`, as measured by `size` in sum over its characters. Joined, without
/// the lines that close and open fences, they are the text. `budget` must hold any character with a fence's lines. Nothing if
/// there would be more than `most`.
pub(super) fn split(
    text: &str,
    syntax: Syntax,
    budget: usize,
    most: usize,
    size: impl Fn(char) -> usize,
) -> Option<Vec<String>> {
    let marks = match syntax {
        Syntax::Markdown if !is_nested_deeply(text) => Marks::of(text),
        Syntax::Plain | Syntax::Markdown => Marks::default(),
    };
    let measure = |text: &str| text.chars().map(&size).sum::<usize>();
    // Whether a part will end inside of a fence is not known before its end is, and there may be a longer one later.
    let closing = marks.fences.iter().map(|fence| measure(&fence.closing())).max().unwrap_or_default();
    let (mut parts, mut start) = (Vec::new(), 0);
    while start < text.len() {
        if parts.len() == most {
            return None;
        }
        let opens = marks.fence_around(start).map(|fence| fence.opening(text)).unwrap_or_default();
        let room = budget.saturating_sub(measure(&opens) + closing);
        let end = marks.end(text, start, room, &size);
        let mut part = opens;
        part.push_str(text.get(start..end).unwrap_or_default());
        if end < text.len()
            && let Some(fence) = marks.fence_around(end)
        {
            part.push_str(&fence.closing());
        }
        parts.push(part);
        start = end;
    }
    Some(parts)
}

/// Quotes and lists within each other, beyond which a text is broken as if it were plain.
const DEEPEST: usize = 16;

/// Whether a line begins with more marks of quotes and lists than any text needs. Reading them takes time that grows with
/// depth and length: 380 KB of nothing else took 15 s.
pub(super) fn is_nested_deeply(text: &str) -> bool {
    text.lines().any(|line| {
        let mut depth = 0_usize;
        let mut rest = line.bytes().peekable();
        while let Some(byte) = rest.next() {
            match byte {
                b'>' => depth += 1,
                b'-' | b'+' | b'*' | b'.' | b')' if rest.peek().is_none_or(|next| b" \t".contains(next)) => depth += 1,
                b' ' | b'\t' | b'0'..=b'9' => {}
                _ => break,
            }
        }
        depth > DEEPEST
    })
}

/// What of a text should stay whole.
#[derive(Debug, Default)]
struct Marks {
    /// Not to be broken.
    atoms: Vec<Range<usize>>,
    fences: Vec<Fence>,
}

/// A block of code with a fence, and what it contains.
#[derive(Debug)]
struct Fence {
    /// Its opening line begins and ends here.
    opening: Range<usize>,
    /// The lines of code.
    code: Range<usize>,
    /// The mark, `` ``` `` or longer, or of tildes.
    mark: String,
    is_closed: bool,
}

/// A fence's info string is code's language; one that is longer is cut when it is repeated.
const LONGEST_OPENING: usize = 64;

/// A fence with a longer mark is broken as text is: its lines would leave no room for code.
const LONGEST_MARK: usize = 16;

impl Fence {
    fn opening(&self, text: &str) -> String {
        let line = text.get(self.opening.clone()).unwrap_or_default().trim_end();
        let line = if line.len() > LONGEST_OPENING { self.mark.as_str() } else { line };
        format!("{line}\n")
    }

    fn closing(&self) -> String {
        format!("\n{}\n", self.mark)
    }
}

impl Marks {
    fn of(text: &str) -> Self {
        let mut marks = Self::default();
        let mut inline: Option<(usize, Range<usize>)> = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Link { .. } | Tag::Image { .. }) => match &mut inline {
                    Some((depth, _)) => *depth += 1,
                    None => inline = Some((1, range)),
                },
                Event::End(TagEnd::Link | TagEnd::Image) => {
                    if let Some((depth, whole)) = &mut inline {
                        *depth -= 1;
                        if *depth == 0 {
                            marks.atoms.push(whole.clone());
                            inline = None;
                        }
                    }
                }
                Event::Code(_) | Event::InlineHtml(_) if inline.is_none() => marks.atoms.push(range),
                // The mark belongs to the first word of its item.
                Event::Start(Tag::Item) => {
                    let item = text.get(range.clone()).unwrap_or_default();
                    let mark = item.find([' ', '\t']).unwrap_or(item.len());
                    let word = item.get(mark..).unwrap_or_default();
                    let word = word.find(|c: char| !c.is_whitespace()).unwrap_or(word.len());
                    marks.atoms.push(range.start..range.start + mark + word);
                }
                Event::Start(Tag::Heading { .. }) => {
                    let heading = text.get(range.clone()).unwrap_or_default();
                    let mark = heading.find(|c| c != '#' && c != ' ').unwrap_or(0);
                    marks.atoms.push(range.start..range.start + mark);
                }
                Event::Start(Tag::CodeBlock(pulldown_cmark::CodeBlockKind::Fenced(_))) => {
                    marks.fences.extend(fence(text, range));
                }
                _ => {}
            }
        }
        marks.atoms.retain(|atom| !atom.is_empty());
        marks.atoms.sort_by_key(|atom| atom.start);
        marks
    }

    /// The fence whose code is on both sides of `at`.
    fn fence_around(&self, at: usize) -> Option<&Fence> {
        let next = self.fences.partition_point(|fence| fence.code.start < at);
        // One that begins at `at` has its opening in the part before, and must be opened again.
        let fence = self
            .fences
            .get(next)
            .filter(|fence| fence.code.start == at)
            .or_else(|| self.fences.get(next.checked_sub(1)?))?;
        // Before its own closing line it is still open.
        let is_within = at < fence.code.end || fence.is_closed && at == fence.code.end;
        (fence.code.start <= at && is_within).then_some(fence)
    }

    fn atom_around(&self, at: usize) -> bool {
        let next = self.atoms.partition_point(|atom| atom.start < at);
        // Atoms hardly ever overlap; a mark and a link do.
        self.atoms.get(next.saturating_sub(2)..next).unwrap_or_default().iter().any(|atom| at < atom.end)
    }

    /// Where the part that begins at `start` ends best, if `room` is what it may take.
    fn end(&self, text: &str, start: usize, room: usize, size: impl Fn(char) -> usize) -> usize {
        let rest = text.get(start..).unwrap_or_default();
        let (mut taken, mut farthest) = (0, None);
        let mut best: [Option<usize>; 5] = [None; 5];
        let mut before = ['\0'; 2];
        for (offset, c) in rest.char_indices() {
            let at = start + offset;
            if offset > 0 {
                let kind = self.kind(at, before, c);
                // The later the better, within one kind.
                if let Some(place) = best.get_mut(kind as usize) {
                    *place = Some(at);
                }
                farthest = Some(at);
            }
            taken += size(c);
            if taken > room {
                let long = start + farthest.map_or(0, |farthest| (farthest - start) / SHORTER);
                let [places @ .., inside] = best;
                let good = places.into_iter().flatten().find(|at| *at >= long);
                let any = places.into_iter().flatten().max();
                // Not even one character: the budget is what is wrong, and there must be an end.
                return good.or(any).or(inside).unwrap_or(at + c.len_utf8());
            }
            before = [before[1], c];
        }
        text.len()
    }

    fn kind(&self, at: usize, before: [char; 2], next: char) -> Break {
        // A closing line alone in the next part would be a block without code.
        let is_end_of_code = self.fence_around(at).is_some_and(|fence| fence.code.end == at);
        if self.atom_around(at) || is_end_of_code {
            return Break::Inside;
        }
        match before {
            _ if next == '\n' => Break::Character,
            ['\n', '\n'] if self.fence_around(at).is_none() => Break::Paragraph,
            [_, '\n'] => Break::Line,
            [_, last] if last.is_whitespace() => Break::Word,
            _ => Break::Character,
        }
    }
}

fn fence(text: &str, range: Range<usize>) -> Option<Fence> {
    let block = text.get(range.clone())?;
    let line = block.find('\n').map_or(block.len(), |end| end + 1);
    let sign = block.chars().next().filter(|sign| ['`', '~'].contains(sign))?;
    let mark: String = block.chars().take_while(|c| *c == sign).take(LONGEST_MARK + 1).collect();
    if mark.len() > LONGEST_MARK {
        return None;
    }
    // The closing line, if it has one.
    let lines = block.get(line..)?;
    let body = lines.trim_end_matches('\n');
    let last = body.rfind('\n').map_or(0, |end| end + 1);
    let is_closed = body.get(last..)?.trim_start().starts_with(&mark);
    let end = if is_closed { last } else { lines.len() };
    Some(Fence {
        opening: range.start..range.start + line,
        code: range.start + line..range.start + line + end,
        mark,
        is_closed,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str, syntax: Syntax, budget: usize) -> Vec<String> {
        split(text, syntax, budget, usize::MAX, char::len_utf8).unwrap()
    }

    #[test]
    fn paragraphs_before_lines_before_words_before_characters() {
        let plain = |text: &str| parts(text, Syntax::Plain, 12);
        assert_eq!(plain("short"), ["short"]);
        assert_eq!(plain("one two\n\nthree four"), ["one two\n\n", "three four"]);
        assert_eq!(plain("one two\nthree four"), ["one two\n", "three four"]);
        assert_eq!(plain("one two three"), ["one two ", "three"]);
        assert_eq!(plain("abcdefghijklmnop"), ["abcdefghijkl", "mnop"]);
        assert_eq!(plain("你好你好你好"), ["你好你好", "你好"]);
        // A better break that would leave a part nearly empty is none.
        assert_eq!(plain("a\n\nbbbb cccc dddd"), ["a\n\nbbbb ", "cccc dddd"]);
    }

    #[test]
    fn a_fence_is_closed_and_opened_again() {
        let text = "before\n\n```rust\nlet a = 1;\nlet b = 2;\nlet c = 3;\n```\n\nafter";
        assert_eq!(
            parts(text, Syntax::Markdown, 40),
            ["before\n\n```rust\nlet a = 1;\n\n```\n", "```rust\nlet b = 2;\nlet c = 3;\n```\n\n", "after"]
        );
    }

    #[test]
    fn no_more_parts_than_are_wanted_and_no_fence_that_leaves_no_room() {
        assert_eq!(split("aaaa bbbb cccc", Syntax::Plain, 5, 2, char::len_utf8), None);
        let text = format!("{0}\ncode\n{0}\n", "`".repeat(1_000));
        assert_eq!(parts(&text, Syntax::Markdown, 100).concat(), text);
    }

    #[test]
    fn a_closing_line_never_opens_anything() {
        for length in 0..60 {
            let text = format!("{}\n```\nlet a = 1;\n```\nwords and words and words", "x ".repeat(length));
            for part in parts(&text, Syntax::Markdown, 60) {
                assert_eq!(part.matches("```").count() % 2, 0, "{part:?} of {text:?}");
            }
        }
    }

    #[test]
    fn marks_within_marks_do_not_take_for_ever() {
        for mark in ["- ", "> ", "1. "] {
            let text = format!("{}a\n{}", mark.repeat(50_000), "a\n".repeat(50_000));
            assert!(is_nested_deeply(&text), "{mark}");
        }
        assert!(!is_nested_deeply("> > - a\n------------------------------------\n***\n**bold** - + * 1. 2) "));
    }

    #[test]
    fn links_code_and_marks_stay_whole() {
        let text = "see [the long title](https://example.org/a/b) now";
        assert_eq!(parts(text, Syntax::Markdown, 44), ["see ", "[the long title](https://example.org/a/b) ", "now"]);
        assert_eq!(parts("aaaa bbbb `cc dd` eeee", Syntax::Markdown, 14), ["aaaa bbbb ", "`cc dd` eeee"]);
        assert_eq!(parts("- one two\n- three\n- four", Syntax::Markdown, 12), ["- one two\n", "- three\n", "- four"]);
        assert_eq!(parts("aaaa bbbbbbbb\n1. cc dd", Syntax::Markdown, 17), ["aaaa bbbbbbbb\n", "1. cc dd"]);
        // Longer than a part can be: broken all the same.
        assert_eq!(parts("[aaaaaaaaaa](bbbbbbbbb)", Syntax::Markdown, 12).concat(), "[aaaaaaaaaa](bbbbbbbbb)");
    }

    /// Without the lines that were added.
    fn joined(text: &str, syntax: Syntax, budget: usize) -> String {
        let marks = if syntax == Syntax::Markdown { Marks::of(text) } else { Marks::default() };
        let (mut at, mut whole) = (0, String::new());
        for part in parts(text, syntax, budget) {
            let opening = marks.fence_around(at).map(|fence| fence.opening(text)).unwrap_or_default();
            let part = part.strip_prefix(&opening).unwrap();
            let rest = &text[at..];
            let same = part
                .char_indices()
                .map(|(at, c)| at + c.len_utf8())
                .chain([0])
                .filter(|end| rest.starts_with(&part[..*end]))
                .max();
            let own = match marks.fence_around(at + same.unwrap()) {
                _ if rest.starts_with(part) => part,
                _ => marks.fences.iter().find_map(|fence| part.strip_suffix(&fence.closing())).unwrap(),
            };
            whole.push_str(own);
            at += own.len();
        }
        whole
    }

    proptest! {
        #[test]
        fn parts_joined_are_the_text_and_each_of_them_fits(
            text in prop::collection::vec(prop_oneof![
                "[a-z ]{1,12}", Just("\n".to_owned()), Just("\n\n".to_owned()), Just("```\n".to_owned()), Just("~~~ x\n".to_owned()),
                Just("[a b](http://c/d e)".to_owned()), Just("- ".to_owned()), Just("`x y`".to_owned()), "[你好😀\"\\\\]{1,6}",
                Just("# ".to_owned()), Just("> ".to_owned()), Just("| a | b |\n".to_owned()), Just("![i](j)".to_owned()),
            ], 0..60).prop_map(|pieces| pieces.concat()),
            budget in 40..200_usize, markdown: bool,
        ) {
            let syntax = if markdown { Syntax::Markdown } else { Syntax::Plain };
            let all = parts(&text, syntax, budget);
            for part in &all {
                prop_assert!(part.len() <= budget, "{} > {budget}: {part:?}", part.len());
                prop_assert!(!part.is_empty());
            }
            prop_assert_eq!(joined(&text, syntax, budget), text.clone());
            if text.len() <= budget && !markdown {
                prop_assert!(all.len() <= 1);
            }
        }
    }
}
