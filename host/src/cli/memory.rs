//! Memory that loading needed, and the system gets back.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

/// For how long mimalloc keeps what was freed for whoever asks next, and a little more.
const KEPT: Duration = Duration::from_millis(1_500);

/// What is freed while it gives back is kept anew.
const ROUNDS: usize = 3;

/// Has the allocator give back what was freed until now, in a moment. It looks at what it has kept for longer than that when a
/// thread ends that has used it, and in a host that does nothing none does: after ten thousand component files, that are some
/// two kilobytes for each. Within a runtime.
pub(super) fn give_back() {
    tokio::spawn(async {
        for _ in 0..ROUNDS {
            tokio::time::sleep(KEPT).await;
            // Without a thread, it stays until there is more to do.
            let _ = thread::Builder::new().name("memory".into()).spawn(|| drop(black_box(Box::new(0_u8))));
        }
    });
}
