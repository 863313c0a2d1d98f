//! A message's fields, counted before anything is made of them: a few bytes can ask for a hundred in memory, and a long
//! message of nothing else for more than the process has.

use dingtalk_api::grpc::{self, Status};
use dingtalk_api::problem::Problem;
use dingtalk_api::request::{MAX_METADATA, too_many};

/// The field `metadata` of `InvokeBindingRequest`. No other request has so high a number.
const METADATA: usize = 3;

/// Fields of a message beside `metadata`, or of one of its items: more than the newest clients have.
const MAX_FIELDS: usize = 64;

/// Whether tonic may decode `message`.
pub(super) fn check(message: &[u8]) -> Result<(), Status> {
    let (mut items, mut others) = (0, 0);
    let mut rest = message;
    while let Some((field, content)) = next(&mut rest)? {
        if field == METADATA {
            items += 1;
            let mut content = content;
            let mut parts = 0;
            while next(&mut content)?.is_some() {
                parts += 1;
                if parts > MAX_FIELDS {
                    return Err(grpc::undecodable("an item of metadata has more fields than a name and a value"));
                }
            }
        } else {
            others += 1;
        }
        if items > MAX_METADATA {
            return Err(Problem::malformed(too_many()).into());
        }
        if others > MAX_FIELDS {
            return Err(grpc::undecodable(&format!("the message has more than {MAX_FIELDS} fields")));
        }
    }
    Ok(())
}

/// The number of the next field, and what it contains, if that has a length of its own.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(usize, &'a [u8])>, Status> {
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
        kind => return Err(grpc::undecodable(&format!("there are no fields of wire type {kind} here"))),
    };
    let (content, after) = rest.split_at_checked(length).ok_or_else(|| grpc::undecodable("a field is cut off"))?;
    *rest = after;
    Ok(Some((key >> 3, content)))
}

fn number(rest: &mut &[u8]) -> Result<usize, Status> {
    prost::decode_length_delimiter(rest).map_err(|error| grpc::undecodable(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use dingtalk_dapr::runtime::InvokeBindingRequest;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn refused(message: &[u8]) -> String {
        check(message).unwrap_err().message
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
        assert_eq!(check(&message(1_000).encode_to_vec()), Ok(()));
        assert!(refused(&message(1_001).encode_to_vec()).contains("metadata has more than 1000 items"));
        // Items without anything in them are two bytes long.
        assert!(refused(&[0x1a, 0].repeat(8 << 20)).contains("more than 1000 items"));
    }

    #[test]
    fn no_message_of_fields_that_nobody_knows() {
        // Field 15, a number.
        assert_eq!(check(&[0x78, 1].repeat(64)), Ok(()));
        assert!(refused(&[0x78, 1].repeat(65)).contains("more than 64 fields"));
        let item = |fields: &[u8]| [&[0x1a, u8::try_from(fields.len()).unwrap()], fields].concat();
        assert_eq!(check(&item(&[0x0a, 1, b'k', 0x12, 1, b'v'])), Ok(()));
        let error = refused(&[[0x1a, 0x80, 0x80, 0x40].as_slice(), &[0x78, 1].repeat(1 << 19)].concat());
        assert!(error.contains("more fields than a name and a value"), "{error}");
    }

    #[test]
    fn what_is_no_message_is_told_as_go_tells_it() {
        for (message, what) in [
            (&b"\x0a\x05robo"[..], "a field is cut off"),
            (b"\xff", "invalid varint"),
            (b"\x0b\x0c", "wire type 3"),
            (b"\x1a\x01\x0a", ""),
            (b"\x09\0\0\0\0", "cut off"),
        ] {
            let error = refused(message);
            assert!(error.starts_with("grpc: error unmarshalling request: ") && error.contains(what), "{error}");
        }
        assert_eq!(check(b""), Ok(()));
        assert_eq!(check(b"\x09\0\0\0\0\0\0\0\0\x0d\0\0\0\0"), Ok(()));
    }

    proptest! {
        #[test]
        fn what_tonic_would_take_is_taken(name: String, data: Vec<u8>, metadata: std::collections::BTreeMap<String, String>) {
            let request = InvokeBindingRequest { name, data, metadata, operation: "create".into() };
            prop_assert_eq!(check(&request.encode_to_vec()), Ok(()));
        }

        #[test]
        fn never_panics(message: Vec<u8>) { let _ = check(&message); }
    }
}
