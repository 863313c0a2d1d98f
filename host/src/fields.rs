//! A message's fields, counted before anything is made of them: a few bytes can ask for a hundred in memory, and a long
//! message of nothing else for more than the process has.

/// Fields of a message beside the one that may come often, or of one of its items: more than the newest clients have.
const MAX_FIELDS: usize = 64;

/// The field of a message that may come often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Often {
    /// Its number.
    pub(crate) field: usize,
    pub(crate) most: usize,
    /// Its items are messages themselves, of a name and a value.
    pub(crate) is_map: bool,
}

/// Why a message may not be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("a field comes more than {0} times")]
    Items(usize),
    #[error("an item of metadata has more fields than a name and a value")]
    Item,
    #[error("the message has more than {MAX_FIELDS} fields")]
    Fields,
    #[error("there are no fields of wire type {0} here")]
    WireType(usize),
    #[error("a field is cut off")]
    CutOff,
    #[error(transparent)]
    Number(#[from] prost::DecodeError),
}

/// Whether `message` may be decoded, whose field `often` may come that often and no other one.
pub(crate) fn check(message: &[u8], often: Option<Often>) -> Result<(), Unfit> {
    let (mut items, mut others) = (0, 0);
    let mut rest = message;
    while let Some((field, content)) = next(&mut rest)? {
        let Some(often) = often.filter(|often| often.field == field) else {
            others += 1;
            if others > MAX_FIELDS {
                return Err(Unfit::Fields);
            }
            continue;
        };
        items += 1;
        if items > often.most {
            return Err(Unfit::Items(often.most));
        }
        let (mut content, mut parts) = (content, 0);
        while often.is_map && next(&mut content)?.is_some() {
            parts += 1;
            if parts > MAX_FIELDS {
                return Err(Unfit::Item);
            }
        }
    }
    Ok(())
}

/// The number of the next field, and what it contains, if that has a length of its own.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(usize, &'a [u8])>, Unfit> {
    if rest.is_empty() {
        return Ok(None);
    }
    let key = number(rest)?;
    let length = match key & 7 {
        0 => {
            number(rest)?;
            0
        }
        1 => 8,
        2 => number(rest)?,
        5 => 4,
        // 3 and 4 are groups, of proto2 and without a length: whoever skips one has to read it.
        kind => return Err(Unfit::WireType(kind)),
    };
    let (content, after) = rest.split_at_checked(length).ok_or(Unfit::CutOff)?;
    *rest = after;
    Ok(Some((key >> 3, content)))
}

fn number(rest: &mut &[u8]) -> Result<usize, Unfit> {
    Ok(prost::decode_length_delimiter(rest)?)
}

#[cfg(test)]
mod tests {
    use dingtalk_dapr::runtime::InvokeBindingRequest;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// Metadata of a request.
    const METADATA: Option<Often> = Some(Often { field: 3, most: 1_000, is_map: true });

    fn refused(message: &[u8]) -> String {
        check(message, METADATA).unwrap_err().to_string()
    }

    #[test]
    fn a_thousand_items_and_no_more() {
        let metadata = |items: usize| (0..items).map(|number| (number.to_string(), "x".repeat(10))).collect();
        let message = |items| InvokeBindingRequest {
            name: "robot".into(),
            data: vec![0xff; 10_000],
            metadata: metadata(items),
            operation: "create".into(),
        };
        assert_eq!(check(&message(1_000).encode_to_vec(), METADATA), Ok(()));
        assert!(refused(&message(1_001).encode_to_vec()).contains("more than 1000 times"));
        // Items without anything in them are two bytes long.
        assert!(refused(&[0x1a, 0].repeat(8 << 20)).contains("more than 1000 times"));
    }

    #[test]
    fn no_message_of_fields_that_nobody_knows() {
        // Field 15, a number.
        assert_eq!(check(&[0x78, 1].repeat(64), METADATA), Ok(()));
        assert!(refused(&[0x78, 1].repeat(65)).contains("more than 64 fields"));
        let item = |fields: &[u8]| [&[0x1a, u8::try_from(fields.len()).unwrap()], fields].concat();
        assert_eq!(check(&item(&[0x0a, 1, b'k', 0x12, 1, b'v']), METADATA), Ok(()));
        let error = refused(&[[0x1a, 0x80, 0x80, 0x40].as_slice(), &[0x78, 1].repeat(1 << 19)].concat());
        assert!(error.contains("more fields than a name and a value"), "{error}");
    }

    #[test]
    fn what_is_no_message_is_not_decoded() {
        for (message, what) in [
            (&b"\x0a\x05robo"[..], "a field is cut off"),
            (b"\xff", "invalid varint"),
            (b"\x0b\x0c", "wire type 3"),
            (b"\x1a\x01\x0a", ""),
            (b"\x09\0\0\0\0", "cut off"),
        ] {
            let error = refused(message);
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(check(b"", METADATA), Ok(()));
        assert_eq!(check(b"\x09\0\0\0\0\0\0\0\0\x0d\0\0\0\0", METADATA), Ok(()));
    }

    #[test]
    fn what_is_a_text_is_no_message_and_what_may_not_come_often_is_a_field() {
        let names = |count: usize| [0x1a, 1, 0xff].repeat(count);
        let to = |most| Some(Often { field: 3, most, is_map: false });
        assert_eq!(check(&names(16), to(16)), Ok(()));
        assert_eq!(check(&names(17), to(16)), Err(Unfit::Items(16)));
        assert_eq!((check(&names(64), None), check(&names(65), None)), (Ok(()), Err(Unfit::Fields)));
    }

    proptest! {
        #[test]
        fn what_tonic_would_take_is_taken(name: String, data: Vec<u8>, metadata: std::collections::BTreeMap<String, String>) {
            let request = InvokeBindingRequest { name, data, metadata, operation: "create".into() };
            prop_assert_eq!(check(&request.encode_to_vec(), METADATA), Ok(()));
        }

        #[test]
        fn never_panics(message: Vec<u8>) { let _ = check(&message, METADATA); }
    }
}
