//! Whether a text is an IP address. The standard library's parsers say the same and take 3 KB more of the component,
//! because they compute the address too.

use crate::text;

/// Four decimal numbers, as every parser reads them: no leading zeros, no other bases, none left out.
pub fn is_ipv4(text: &str) -> bool {
    let mut count = 0_u8;
    text.split('.').all(|number| {
        count = count.saturating_add(1);
        count <= 4 && is_octet(number.as_bytes())
    }) && count == 4
}

fn is_octet(number: &[u8]) -> bool {
    match number {
        [digit] => digit.is_ascii_digit(),
        [] | [b'0', ..] | [_, _, _, _, ..] => false,
        _ => number.iter().all(u8::is_ascii_digit) && (number.len() < 3 || number <= b"255".as_slice()),
    }
}

/// Eight groups of at most four hexadecimal digits, some of them left out at one `::`, the last two perhaps as IPv4.
pub fn is_ipv6(text: &str) -> bool {
    match text::find(text, "::") {
        None => groups(text, true) == Some(8),
        Some(at) => {
            let before = groups(text.get(..at).unwrap_or_default(), false);
            let after = groups(text.get(at + 2..).unwrap_or_default(), true);
            matches!((before, after), (Some(before), Some(after)) if before + after < 8)
        }
    }
}

/// How many groups; `None` if one is none.
fn groups(text: &str, ends_the_address: bool) -> Option<usize> {
    let mut count = 0;
    let mut left = text;
    while !left.is_empty() {
        let (group, rest) = match left.split_once(':') {
            Some((_, "")) => return None,
            Some((group, rest)) => (group, rest),
            None if ends_the_address && is_ipv4(left) => return Some(count + 2),
            None => (left, ""),
        };
        if !(1..=4).contains(&group.len()) || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        count += 1;
        left = rest;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    fn as_the_standard_library_says(text: &str) {
        assert_eq!(is_ipv4(text), text.parse::<Ipv4Addr>().is_ok(), "{text}");
        assert_eq!(is_ipv6(text), text.parse::<Ipv6Addr>().is_ok(), "{text}");
    }

    #[test]
    fn forms_of_addresses() {
        for text in [
            "",
            ".",
            ":",
            "::",
            ":::",
            "::1",
            "1::",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::2:3:4:5:6:7:8",
            "1:2:3:4::5:6:7:8",
            "1:2:3:4:5:6:7:8:9",
            "1:2:3:4:5:6:1.2.3.4",
            "1:2:3:4:5:6:7:1.2.3.4",
            "::1.2.3.4",
            "1.2.3.4::",
            "::1.2.3.4:5",
            "1::2::3",
            "12345::",
            "::g",
            "fe80::1%eth0",
            "1.2.3.4",
            "1.2.3",
            "1.2.3.4.5",
            "01.2.3.4",
            "0.0.0.0",
            "255.255.255.255",
            "256.1.1.1",
            "1..2.3",
            "1.2.3.4.",
            "0x1.2.3.4",
            "+1.2.3.4",
            "000.0.0.0",
            "1.2.3.999",
            "::ffff:255.255.255.255",
            ":1",
            "1:",
            "1:2",
            "::١",
        ] {
            as_the_standard_library_says(text);
        }
    }

    proptest! {
        #[test]
        fn what_looks_like_an_address(text in "[0-9a-f:.]{0,24}|(([0-9]{1,3}\\.){3}[0-9]{1,3})|(([0-9a-f]{1,4}:){0,8}(:[0-9a-f]{1,4}){0,8}(:[0-9]{1,3}(\\.[0-9]{1,3}){3})?)") {
            as_the_standard_library_says(&text);
        }
    }
}
