//! The component's memory: an arena inside the initial memory first, more from the host only when that is used
//! up.
//!
//! Rust's default allocator grows the memory for its first byte. A host that makes an instance for every call
//! pays for each growth with two changes of page protection, which on several threads stop the others. With
//! this arena a usual call needs none: measured, 137,960 `mprotect` calls of a benchmark run became 1,585, and
//! 16 calls at once went from 0.15 to 0.23 of a native client's rate.
//!
//! Nor does a usual call need memory again that it has freed, which is what makes an allocator slow. So blocks are cut from
//! the front of the arena, one behind the other, until one does not fit any more. Then the rest of the arena, and what the
//! host gives, are talc's, which finds room that was freed: an instance that is kept for many calls grows no further.

use core::alloc::{GlobalAlloc, Layout};
use core::mem::MaybeUninit;

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

// By its path, because components/binding-p3 has this file in another folder.
#[path = "front.rs"]
mod front;
use front::Front;

/// Fills the one page of initial memory, beside the stack (16 KiB) and the constants (18 KiB). A second page
/// would be cleared for every call, too.
const ARENA_BYTES: usize = 28 * 1024;

const PAGE_BYTES: usize = 64 * 1024;

static mut ARENA: [MaybeUninit<u8>; ARENA_BYTES] = [MaybeUninit::uninit(); ARENA_BYTES];

static FRONT: Front = Front::new((&raw mut ARENA).cast(), ARENA_BYTES);

static TALC: TalcSyncCell<RestThenGrow, WasmBinning> = TalcSyncCell::new_wasm(RestThenGrow { claimed: false });

#[global_allocator]
static ALLOCATOR: FrontThenTalc = FrontThenTalc;

struct FrontThenTalc;

#[expect(unsafe_code, reason = "an allocator is handed raw memory; nothing else in the component is unsafe")]
// SAFETY: a block is the front's or talc's, and they share no memory: talc has what is behind the front, in the arena and
// above the initial memory. So it is freed by whom it is from. The front's blocks are aligned and never meet.
unsafe impl GlobalAlloc for FrontThenTalc {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match FRONT.cut(layout) {
            Some(block) => block,
            // SAFETY: as the caller promises.
            None => unsafe { TALC.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if FRONT.has(block) {
            FRONT.put_back(block, layout.size());
        } else {
            // SAFETY: talc's block, as the caller promises.
            unsafe { TALC.dealloc(block, layout) }
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !FRONT.has(block) {
            // SAFETY: talc's block, as the caller promises.
            return unsafe { TALC.realloc(block, layout, size) };
        }
        if FRONT.resize(block, layout.size(), size) {
            return block;
        }
        // SAFETY: the caller promises that the size is not too large for the alignment. The new block is larger than the
        // old one, which the front would have let shrink, and shares no byte with it.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size());
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[derive(Debug)]
struct RestThenGrow {
    claimed: bool,
}

#[expect(unsafe_code, reason = "an allocator is handed raw memory; nothing else in the component is unsafe")]
// SAFETY: allocates nothing through the global allocator.
unsafe impl Source for RestThenGrow {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        if !talc.source.claimed {
            talc.source.claimed = true;
            let (rest, bytes) = FRONT.close();
            // SAFETY: nothing refers to the rest of the arena, from which no block is cut any more, and it is claimed once.
            if unsafe { talc.claim(rest, bytes) }.is_some() {
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
