//! `GET /messages`, written piece by piece: whoever takes the answer slowly, or not at all, holds a piece of it and not
//! the whole, and nobody waits meanwhile.

use std::sync::Arc;

use bytes::Bytes;

use super::shared::{Shared, lock};

/// How long a piece gets before it is sent. The last message of a piece may reach beyond.
const PIECE: usize = 32 << 10;

/// The messages that are there at the beginning. Those that are gone when their turn comes are left out.
pub(super) struct Listing {
    shared: Arc<Shared>,
    /// What stands before the next message.
    separator: u8,
    /// The first sequence that is not written yet, and the last that will be.
    next: u64,
    last: u64,
    is_complete: bool,
}

impl Listing {
    pub(super) fn of(shared: Arc<Shared>) -> Self {
        let last = lock(&shared.state).messages.last();
        Self { shared, separator: b'[', next: 0, last, is_complete: false }
    }

    /// The next piece of the JSON array; `None` after its end.
    pub(super) fn piece(&mut self) -> serde_json::Result<Option<Bytes>> {
        if self.is_complete {
            return Ok(None);
        }
        let mut piece = Vec::new();
        let state = lock(&self.shared.state);
        for message in state.messages.since(self.next).take_while(|message| message.sequence <= self.last) {
            if piece.len() >= PIECE {
                return Ok(Some(piece.into()));
            }
            piece.push(self.separator);
            serde_json::to_writer(&mut piece, message)?;
            (self.separator, self.next) = (b',', message.sequence + 1);
        }
        if self.separator == b'[' {
            piece.push(b'[');
        }
        piece.push(b']');
        self.is_complete = true;
        Ok(Some(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Config;
    use super::super::robot::Received;
    use super::super::seen::Via;
    use super::*;

    fn shared() -> Arc<Shared> {
        let mut config = Config::default();
        config.robot.rate_limit = 0;
        Arc::new(Shared::new(config, String::new(), None))
    }

    fn post(shared: &Shared, text: &str) {
        let body = json!({"msgtype": "text", "text": {"content": text}}).to_string();
        let request = Received {
            method: "POST",
            content_type: Some("application/json"),
            query: "access_token=simulated-access-token",
            body: body.as_bytes(),
            peer: [127, 0, 0, 1].into(),
        };
        assert_eq!(shared.receive(&request, Via::Webhook).errcode, 0);
    }

    fn sequences(pieces: &[Bytes]) -> Vec<u64> {
        let list: Vec<Value> = serde_json::from_slice(&pieces.concat()).unwrap();
        list.iter().map(|message| message["sequence"].as_u64().unwrap()).collect()
    }

    #[test]
    fn nobody_holds_more_than_a_piece_and_all_pieces_are_the_list() {
        let shared = shared();
        let whole = |shared: &Arc<Shared>| {
            let mut listing = Listing::of(shared.clone());
            std::iter::from_fn(|| listing.piece().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(whole(&shared), ["[]"]);
        for _ in 0..20 {
            post(&shared, &"x".repeat(15_000));
        }
        let pieces = whole(&shared);
        assert_eq!(sequences(&pieces), (1..=20).collect::<Vec<_>>());
        // A message stands in it as sent and as shown.
        assert!(pieces.len() >= 8 && pieces.iter().all(|piece| piece.len() < PIECE + 40_000), "{}", pieces.len());
    }

    #[test]
    fn what_comes_and_goes_meanwhile_does_not_spoil_it() {
        let shared = shared();
        (0..4).for_each(|_| post(&shared, &"x".repeat(19_000)));
        let mut listing = Listing::of(shared.clone());
        let mut pieces = vec![listing.piece().unwrap().unwrap()];
        lock(&shared.state).messages.clear();
        (0..4).for_each(|_| post(&shared, "y"));
        pieces.extend(std::iter::from_fn(|| listing.piece().unwrap()));
        assert_eq!(sequences(&pieces), [1]);
    }
}
