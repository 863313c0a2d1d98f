//! Acknowledgements before they are decoded.
//!
//! A message that is longer than its limit ends a stream, and daprd does not open another. So an acknowledgement with an
//! answer that is too long is taken out of its stream, and one that says so is put in its place.

use bytes::{BufMut, Bytes, BytesMut};
use dingtalk_api::delivery::MAX_ANSWER;
use dingtalk_dapr::components::{AckResponseError, ReadRequest};
use prost::Message;

use crate::ingress::body::PREFIX;

/// Of a message that is taken out, what is kept at each end: more than an identifier and what stands around it.
const KEPT: usize = 64;

/// Acknowledgements on their way to be decoded.
pub(super) struct Acknowledgements {
    limit: usize,
    state: State,
}

enum State {
    /// Of a frame that begins.
    Head(BytesMut),
    /// So much of a message is still to come.
    Pass(usize),
    Skip {
        left: usize,
        start: BytesMut,
        end: BytesMut,
    },
}

impl Acknowledgements {
    /// Messages of up to `limit` bytes pass.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: State::Head(BytesMut::new()) }
    }

    /// What is to be decoded of the bytes that have come.
    pub(super) fn push(&mut self, mut bytes: Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(bytes.len());
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head(head) => {
                    let more = bytes.split_to((PREFIX - head.len()).min(bytes.len()));
                    head.extend_from_slice(&more);
                    let &[_, a, b, c, d] = &head[..] else { continue };
                    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                    if length > self.limit {
                        self.state = State::Skip { left: length, start: BytesMut::new(), end: BytesMut::new() };
                    } else {
                        out.extend_from_slice(head);
                        self.state = if length == 0 { State::Head(BytesMut::new()) } else { State::Pass(length) };
                    }
                }
                State::Pass(left) => {
                    let more = bytes.split_to((*left).min(bytes.len()));
                    out.extend_from_slice(&more);
                    *left -= more.len();
                    if *left == 0 {
                        self.state = State::Head(BytesMut::new());
                    }
                }
                State::Skip { left, start, end } => {
                    let more = bytes.split_to((*left).min(bytes.len()));
                    *left -= more.len();
                    let room = KEPT - start.len();
                    start.extend_from_slice(more.get(..room.min(more.len())).unwrap_or_default());
                    let last = more.len().saturating_sub(KEPT);
                    end.extend_from_slice(more.get(last..).unwrap_or_default());
                    let _ = end.split_to(end.len().saturating_sub(KEPT));
                    if *left == 0 {
                        instead(start, end, &mut out);
                        self.state = State::Head(BytesMut::new());
                    }
                }
            }
        }
        out.freeze()
    }
}

/// What stands in the place of a message that was taken out, if it can be told which event it was for. Go writes fields
/// in their order: with an answer, the identifier comes last, and with an error alone it comes first.
fn instead(start: &[u8], end: &[u8], out: &mut BytesMut) {
    let Some(message_id) = leading(start).or_else(|| trailing(end)) else {
        tracing::error!("daprd has sent an acknowledgement that is too long, and of an unknown event");
        return;
    };
    let message = format!("the application's answer is longer than {} MiB; let it answer with less", MAX_ANSWER >> 20);
    let acknowledgement =
        ReadRequest { response_data: Vec::new(), message_id, response_error: Some(AckResponseError { message }) };
    out.put_u8(0);
    out.put_u32(u32::try_from(acknowledgement.encoded_len()).unwrap_or_default());
    // A buffer that grows takes everything.
    let _ = acknowledgement.encode(out);
}

/// The field `message_id`: its key, and a length that is one byte for every identifier of ours.
const KEY: u8 = 2 << 3 | 2;

fn leading(start: &[u8]) -> Option<String> {
    let (&[key, length], rest) = start.split_first_chunk()?;
    identifier(key, rest.get(..usize::from(length))?)
}

fn trailing(end: &[u8]) -> Option<String> {
    // The longest number has 20 digits.
    (1..=20).find_map(|length: u8| {
        let (rest, digits) = end.split_at_checked(end.len().checked_sub(usize::from(length))?)?;
        let (_, &[key, said]) = rest.split_last_chunk()?;
        identifier(key, digits).filter(|_| said == length)
    })
}

fn identifier(key: u8, digits: &[u8]) -> Option<String> {
    let is_one = key == KEY && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_one.then(|| String::from_utf8_lossy(digits).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(message: &ReadRequest) -> Vec<u8> {
        let mut frame = vec![0];
        frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
        frame.extend(message.encode_to_vec());
        frame
    }

    fn acknowledgement(id: &str, data: usize, error: Option<usize>) -> ReadRequest {
        let response_error = error.map(|length| AckResponseError { message: "e".repeat(length) });
        ReadRequest { response_data: vec![b'7'; data], message_id: id.into(), response_error }
    }

    /// What remains of `messages`, which come in pieces of `piece` bytes.
    fn passed(limit: usize, messages: &[ReadRequest], piece: usize) -> Vec<ReadRequest> {
        let bytes: Vec<u8> = messages.iter().flat_map(frame).collect();
        let mut acknowledgements = Acknowledgements::new(limit);
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            out.extend(acknowledgements.push(Bytes::copy_from_slice(piece)));
        }
        let mut found = Vec::new();
        let mut rest = &out[..];
        while let [_, a, b, c, d, more @ ..] = rest {
            let (message, more) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            found.push(ReadRequest::decode(message).unwrap());
            rest = more;
        }
        assert!(rest.is_empty());
        found
    }

    #[test]
    fn an_answer_that_is_too_long_becomes_an_error_of_its_own_event() {
        let long = [acknowledgement("17", 3_000, None), acknowledgement("18", 0, Some(3_000))];
        let found = passed(1_000, &[&long[..], &[acknowledgement("19", 10, None)]].concat(), 7);
        assert_eq!(found.len(), 3);
        for (message, id) in found.iter().zip(["17", "18"]) {
            assert_eq!((message.message_id.as_str(), message.response_data.len()), (id, 0));
            let error = message.response_error.as_ref().unwrap();
            assert_eq!(error.message, "the application's answer is longer than 1 MiB; let it answer with less");
        }
        assert_eq!(found[2], acknowledgement("19", 10, None));
    }

    #[test]
    fn what_is_too_long_and_of_no_event_is_left_out_alone() {
        let messages = [acknowledgement("not ours", 3_000, None), acknowledgement("20", 1, None)];
        assert_eq!(passed(1_000, &messages, 1_024), [acknowledgement("20", 1, None)]);
    }

    proptest! {
        #[test]
        fn whatever_fits_passes_as_it_is_in_whatever_pieces(
            messages in prop::collection::vec((0_u64..1_000_000, 0_usize..300, prop::option::of(0_usize..300)), 0..6),
            piece in 1_usize..700,
        ) {
            let messages: Vec<_> =
                messages.into_iter().map(|(id, data, error)| acknowledgement(&id.to_string(), data, error)).collect();
            prop_assert_eq!(passed(1_000, &messages, piece), messages);
        }

        #[test]
        fn nothing_that_comes_makes_it_stop(bytes in prop::collection::vec(any::<u8>(), 0..400), limit in 0_usize..100) {
            let mut acknowledgements = Acknowledgements::new(limit);
            let out = acknowledgements.push(bytes.clone().into());
            prop_assert!(out.len() <= bytes.len() + 200 * bytes.len().div_ceil(PREFIX));
        }
    }
}
