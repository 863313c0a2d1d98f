//! Whether a text says `@person`: only then does DingTalk notify somebody.
//!
//! One rule for the component, which adds what is missing, and for the simulator, which tells whom a message notifies.
//! Where a text may be read in two ways it says nothing: a mention that stands there twice does no harm, a missing one
//! notifies nobody.

/// Whether `@person` stands in the text as a whole. "@1801" and "@180.x" do not mention 180, and neither does the
/// address ops@180.com.
#[inline(never)]
pub fn stands_in(text: &str, person: &str) -> bool {
    let (text, person) = (text.as_bytes(), person.as_bytes());
    let mut before = b' ';
    for (at, byte) in text.iter().enumerate() {
        let is_apart = !in_id(before) && !matches!(before, b'.' | b'%' | b'+');
        before = *byte;
        if before == b'@'
            && is_apart
            && let Some(rest) = text.get(at + 1..).and_then(|after| after.strip_prefix(person))
        {
            let next = match rest {
                [b'.', next, ..] | [next, ..] => *next,
                [] => b' ',
            };
            // Chinese follows a number without a space, but may go on with a Chinese name.
            if !in_id(next) && (next.is_ascii() || person.last().is_some_and(u8::is_ascii)) {
                return !person.is_empty();
            }
        }
    }
    false
}

/// What a number, an id or a host name goes on with.
fn in_id(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mention_is_the_whole_id_and_no_part_of_a_mail_address() {
        for (text, person) in [
            ("@180", "180"),
            ("@180, look", "180"),
            ("look, @180.", "180"),
            ("@180... what", "180"),
            ("@180你好", "180"),
            ("你好@180", "180"),
            ("(@180)", "180"),
            ("@1801 @180", "180"),
            ("ops@180.com and @180", "180"),
            ("@+1-1234567890!", "+1-1234567890"),
            ("@+86-13800000000\n", "+86-13800000000"),
            ("@a.b", "a.b"),
            ("@user_1 @x", "user_1"),
            ("@@180", "180"),
            ("**@180**", "180"),
            ("@张三", "张三"),
            ("@张三, hi", "张三"),
        ] {
            assert!(stands_in(text, person), "{text:?} mentions {person}");
        }
        for (text, person) in [
            ("180", "180"),
            ("@ 180", "180"),
            ("@1801", "180"),
            ("@180-2", "180"),
            ("@180_", "180"),
            ("@180a", "180"),
            ("@180.com", "180"),
            ("ops@180.com", "180"),
            ("ops@180", "180"),
            ("ops.@180", "180"),
            ("o+p%@180", "180"),
            ("a_@180", "180"),
            ("@a.b", "a"),
            ("@User", "user"),
            ("@", ""),
            ("@张三丰", "张三"),
            ("@1-1234567890", "+1-1234567890"),
        ] {
            assert!(!stands_in(text, person), "{text:?} mentions {person}");
        }
    }

    proptest! {
        #[test]
        fn what_is_set_apart_is_a_mention(before in "(.* )?", person in "[^\\s@]{1,8}", after in "([ ,!?].*)?") {
            let text = [&before, "@", &person, &after].concat();
            prop_assert!(stands_in(&text, &person));
        }

        /// The rule once more, as a search for everything that could be an id.
        #[test]
        fn an_id_is_read_to_its_end(text in "[a1.@ _+你-]{0,20}", person in "[a1]([a1.+-]{0,3}[a1])?") {
            let expected = text.char_indices().filter(|(_, c)| *c == '@').any(|(at, _)| {
                let before = text[..at].chars().next_back().unwrap_or(' ');
                let (after, rest) = (&text[at + 1..], text[at + 1..].get(person.len()..).unwrap_or_default());
                let rest = rest.strip_prefix('.').filter(|rest| !rest.is_empty()).unwrap_or(rest);
                !"a1._+-".contains(before) && after.starts_with(&person) && !rest.starts_with(['a', '1', '_', '-'])
            });
            prop_assert_eq!(stands_in(&text, &person), expected);
        }
    }
}
