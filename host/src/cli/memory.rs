//! Memory that loading has freed goes back to the system.
//!
//! The program's allocator, mimalloc, gives pages back that have been free for a second, at the next moment when a large piece
//! of memory is freed. Loading ten thousand files leaves some 6 MB, and a host that nobody calls frees nothing large.

use std::hint::black_box;
use std::time::Duration;

/// After the last that loading has freed.
const AFTER: Duration = Duration::from_secs(2);

/// Larger than any piece that the allocator would keep for itself. None of it is touched.
const PIECE: usize = 4 << 20;

/// Has the allocator give back what is free, a moment after the start.
pub(super) async fn give_back() {
    tokio::time::sleep(AFTER).await;
    for _ in 0..2 {
        drop(black_box(Vec::<u8>::with_capacity(PIECE)));
    }
}
