//! A line of CommonMark → its text, without the marks that stand in it: emphasis, code, links, images, escapes.
//!
//! In one pass, and small: what a component costs is paid at every start. Read are pairs of equally many `*`, `_`, `` ` ``
//! or two `~` around text that touches them, links and images with an address, and escapes of punctuation. Everything
//! else stays as it is written: pairs that cross each other, brackets in and titles of links, links by reference, tags, entities.

use alloc::vec::Vec;

/// Stand for a mark that was taken away, and for the backslash of an escape. UTF-8 has neither.
const TAKEN: u8 = 0xff;
const ESCAPE: u8 = 0xfe;

/// The text of a line. A mark's partner is searched to the line's end, so whoever calls this bounds the line.
pub(crate) fn text(line: &[u8]) -> Vec<u8> {
    let mut text = line.to_vec();
    let mut at = 0;
    while let Some(mark) = text.get(at).copied() {
        // Where the mark ends, and where its partner begins.
        let mut next = at + 1;
        match mark {
            b'\\' if byte(&text, next).is_ascii_punctuation() => {
                fill(&mut text, at, next, ESCAPE);
                next += 1;
            }
            b'*' | b'_' | b'~' | b'`' => {
                next = at + run(&text, at);
                let mut end = next;
                if touches(&text, mark, at.wrapping_sub(1), next) && (mark != b'~' || next == at + 2) {
                    while end < text.len() {
                        let more = end + run(&text, end);
                        let here = byte(&text, end);
                        if here == mark && more - end == next - at && touches(&text, mark, more, end - 1) {
                            fill(&mut text, at, next, TAKEN);
                            fill(&mut text, end, more, TAKEN);
                            if mark == b'`' {
                                next = end;
                            }
                            break;
                        }
                        end = if here == b'\\' && mark != b'`' { end + 2 } else { more };
                    }
                }
            }
            b']' if byte(&text, next) == b'(' => {
                let mut end = next;
                while !matches!(byte(&text, end), b' ' | b')') {
                    end += 1;
                }
                let mut start = at;
                while start > 0 && (byte(&text, start) != b'[' || byte(&text, start - 1) == ESCAPE) {
                    start -= 1;
                }
                if byte(&text, end) == b')' && byte(&text, start) == b'[' {
                    next = end + 1;
                    fill(&mut text, at, next, TAKEN);
                    let image =
                        byte(&text, start.wrapping_sub(1)) == b'!' && byte(&text, start.wrapping_sub(2)) != ESCAPE;
                    fill(&mut text, start - usize::from(image), start + 1, TAKEN);
                }
            }
            _ => {}
        }
        at = next;
    }
    text.retain(|byte| *byte < ESCAPE);
    text
}

/// Emphasis touches its text on both sides, and `_` nothing else; code is whatever is between its marks.
#[inline(never)]
fn touches(text: &[u8], mark: u8, outside: usize, inside: usize) -> bool {
    mark == b'`' || (beside(text, inside) > 0 && (mark != b'_' || beside(text, outside) < 2))
}

/// How often the byte at this place stands there in a row.
#[inline(never)]
pub(crate) fn run(text: &[u8], at: usize) -> usize {
    let text = text.get(at..).unwrap_or_default();
    text.iter().take_while(|byte| text.first() == Some(byte)).count()
}

#[inline(never)]
fn fill(text: &mut [u8], from: usize, to: usize, with: u8) {
    if let Some(marks) = text.get_mut(from..to) {
        marks.fill(with);
    }
}

/// A blank where there is none.
#[inline(never)]
pub(crate) fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(b' ')
}

/// What stands beside emphasis: 0 is a blank, 1 punctuation or another mark, 2 a letter, as is everything outside ASCII.
fn beside(text: &[u8], at: usize) -> u8 {
    match byte(text, at) {
        b' ' | b'\t' => 0,
        TAKEN | ESCAPE => 1,
        byte => 2 - u8::from(byte.is_ascii_punctuation()),
    }
}
