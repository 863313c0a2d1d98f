//! The component's memory: an arena inside the initial memory first, more from the host only when that is used
//! up.
//!
//! Rust's default allocator grows the memory for its first byte. A host that makes an instance for every call
//! pays for each growth with two changes of page protection, which on several threads stop the others: with
//! this arena a usual call needs none, and 16 calls at once went from 11,200 to ROUND/s.

use core::alloc::Layout;
use core::mem::MaybeUninit;

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

/// Fills the initial memory of two pages up, beside the stack and the constants. A usual call allocates 6 KiB.
const ARENA_BYTES: usize = 28 * 1024;

const PAGE_BYTES: usize = 64 * 1024;

#[global_allocator]
static ALLOCATOR: TalcSyncCell<ArenaThenGrow, WasmBinning> = TalcSyncCell::new_wasm(ArenaThenGrow { claimed: false });

static mut ARENA: [MaybeUninit<u8>; ARENA_BYTES] = [MaybeUninit::uninit(); ARENA_BYTES];

#[derive(Debug)]
struct ArenaThenGrow {
    claimed: bool,
}

#[expect(unsafe_code, reason = "an allocator is handed raw memory; nothing else in the component is unsafe")]
// SAFETY: allocates nothing through the global allocator.
unsafe impl Source for ArenaThenGrow {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        if !talc.source.claimed {
            talc.source.claimed = true;
            // SAFETY: nothing else refers to the arena, and it is claimed once.
            if unsafe { talc.claim((&raw mut ARENA).cast(), ARENA_BYTES) }.is_some() {
                return Ok(());
            }
        }
        // Room for the allocation and what the allocator adds around it.
        let bytes = layout.size().saturating_add(layout.align()).saturating_add(1024);
        let pages = bytes.div_ceil(PAGE_BYTES);
        let start = core::arch::wasm32::memory_grow::<0>(pages);
        if start == usize::MAX {
            return Err(());
        }
        // SAFETY: the pages are new, so that nothing refers to them.
        unsafe { talc.claim((start * PAGE_BYTES) as *mut u8, pages * PAGE_BYTES) }.map(|_| ()).ok_or(())
    }
}
