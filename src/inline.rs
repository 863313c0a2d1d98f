//! A line of CommonMark → its text, without the marks that stand in it: emphasis, code, links, images, escapes.
//!
//! In one pass, with a stack of what is open. Emphasis that opens and closes with runs of different length, titles of
//! links, and tags are left as they stand: the specification's algorithm is five times as large as all of this.

use alloc::vec::Vec;

use crate::markdown::run;

/// How many marks may be open: what a line costs would grow with the square of its length.
const MAX_OPEN: usize = 64;

/// Stands for a mark that was taken away; no text has it.
const TAKEN: u8 = 0;

/// The text of a line.
pub(crate) fn text(line: &[u8]) -> Vec<u8> {
    let mut text = line.to_vec();
    // Where marks stand that may open something, and how many.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let mark = byte(line, at);
        let marks = run(line, at);
        let next = byte(line, at + 1);
        let mut length = 1;
        let mut opens = mark == b'[';
        match mark {
            b'\\' if next.is_ascii_punctuation() => {
                take(&mut text, at, 1);
                length = 2;
            }
            b'!' if next == b'[' => (length, opens) = (2, true),
            b'`' => {
                length = marks;
                let mut end = at + marks;
                while end < line.len() {
                    let more = run(line, end);
                    if more == marks && byte(line, end) == mark {
                        take(&mut text, at, marks);
                        take(&mut text, end, marks);
                        length = end + marks - at;
                        break;
                    }
                    end += more;
                }
            }
            b'*' | b'_' => {
                length = marks;
                let before = beside(byte(line, at.wrapping_sub(1)));
                let after = beside(byte(line, at + marks));
                let word = if mark == b'_' { 2 } else { 3 };
                // Emphasis begins before a letter and ends behind one; `_` does neither inside of a word.
                opens = after > 0 && (after > 1 || before < 2) && before < word;
                let closes = before > 0 && (before > 1 || after < 2) && after < word;
                let same = |start: usize, length| length == marks && byte(line, start) == mark;
                if closes && let Some(index) = open.iter().rposition(|(start, length)| same(*start, *length)) {
                    end(&mut text, &mut open, index);
                    take(&mut text, at, marks);
                    opens = false;
                }
            }
            b']' => {
                if let Some(index) = open.iter().rposition(|(start, length)| byte(line, start + length - 1) == b'[') {
                    let address =
                        line.iter().skip(at).position(|byte| *byte == b' ' || *byte == b')').unwrap_or_default();
                    if next == b'(' && byte(line, at + address) == b')' {
                        length = address + 1;
                        take(&mut text, at, length);
                        end(&mut text, &mut open, index);
                    } else {
                        open.remove(index);
                    }
                }
            }
            _ => {}
        }
        if opens && open.len() < MAX_OPEN {
            open.push((at, length));
        }
        at += length;
    }
    text.retain(|byte| *byte != TAKEN);
    text
}

/// Takes an opening mark away, and forgets what was opened behind it.
fn end(text: &mut [u8], open: &mut Vec<(usize, usize)>, index: usize) {
    if let Some((at, marks)) = open.get(index) {
        take(text, *at, *marks);
    }
    open.truncate(index);
}

#[inline(never)]
fn take(text: &mut [u8], at: usize, length: usize) {
    text.iter_mut().skip(at).take(length).for_each(|byte| *byte = TAKEN);
}

/// A blank where there is none.
#[inline(never)]
fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(b' ')
}

/// What stands beside emphasis: 0 is a blank, 1 punctuation, 2 a letter.
fn beside(byte: u8) -> u8 {
    if byte.is_ascii_whitespace() { 0 } else { 2 - u8::from(byte.is_ascii_punctuation()) }
}
