//! The front of a piece of memory, from which blocks are cut one after another.
//!
//! Addresses alone: whose the memory is, and that nobody else uses it, is the business of whoever asks.

use core::alloc::Layout;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// Atomic because a static must be; the component has one thread.
pub(crate) struct Front {
    /// Where the next block may begin: no block that is in use ends behind this.
    free: AtomicPtr<u8>,
    /// Where the front ends.
    end: AtomicPtr<u8>,
}

impl Front {
    /// All of the memory, without a block.
    pub(crate) const fn new(start: *mut u8, bytes: usize) -> Self {
        Self { free: AtomicPtr::new(start), end: AtomicPtr::new(start.wrapping_add(bytes)) }
    }

    /// A block, if there is room for it.
    pub(crate) fn cut(&self, layout: Layout) -> Option<*mut u8> {
        let mask = layout.align() - 1;
        let block = self.free.load(Relaxed).map_addr(|free| (free + mask) & !mask);
        self.end_at(block, layout.size()).then_some(block)
    }

    /// Whether a block is of the front, and not of the memory behind it.
    pub(crate) fn has(&self, block: *mut u8) -> bool {
        block < self.end.load(Relaxed)
    }

    /// Has a block of the front, of `bytes`, take `size` where it stands. False if that cannot be.
    pub(crate) fn resize(&self, block: *mut u8, bytes: usize, size: usize) -> bool {
        if self.is_last(block, bytes) { self.end_at(block, size) } else { size <= bytes }
    }

    /// Takes a block of the front back. Only the last one's room is used again.
    pub(crate) fn put_back(&self, block: *mut u8, bytes: usize) {
        if self.is_last(block, bytes) {
            self.free.store(block, Relaxed);
        }
    }

    /// Ends the front behind its last block, for good. Says where the rest begins, and how long it is.
    pub(crate) fn close(&self) -> (*mut u8, usize) {
        let (free, end) = (self.free.load(Relaxed), self.end.load(Relaxed));
        self.end.store(free, Relaxed);
        (free, end.addr() - free.addr())
    }

    fn is_last(&self, block: *mut u8, bytes: usize) -> bool {
        block.wrapping_add(bytes) == self.free.load(Relaxed)
    }

    /// Has the last block end `size` behind its beginning, if there is room for that.
    fn end_at(&self, block: *mut u8, size: usize) -> bool {
        let fits = size <= self.end.load(Relaxed).addr().saturating_sub(block.addr());
        if fits {
            self.free.store(block.wrapping_add(size), Relaxed);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ops::Range;
    use proptest::prelude::*;

    const BYTES: usize = 256;

    #[derive(Debug, Clone)]
    enum Step {
        Cut(usize, u32),
        Resize(usize, usize),
        PutBack(usize),
        Close,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1..48_usize, 0..5_u32).prop_map(|(size, align)| Step::Cut(size, align)),
            3 => (any::<usize>(), 1..64_usize).prop_map(|(block, size)| Step::Resize(block, size)),
            3 => any::<usize>().prop_map(Step::PutBack),
            1 => Just(Step::Close),
        ]
    }

    proptest! {
        /// Whatever is done, in whatever order: what is in use lies in the front, apart from each other and aligned.
        #[test]
        fn blocks_never_meet(steps in proptest::collection::vec(step(), 0..60), odd in 0..8_usize) {
            let mut memory = [0_u8; BYTES + 8];
            let start = memory.as_mut_ptr().wrapping_add(odd);
            let front = Front::new(start, BYTES);
            let (mut used, mut end): (Vec<Range<*mut u8>>, _) = (Vec::new(), start.wrapping_add(BYTES));
            for step in steps {
                let chosen = |block: usize| block.checked_rem(used.len());
                match step {
                    Step::Cut(size, align) => {
                        let layout = Layout::from_size_align(size, 1 << align).unwrap();
                        if let Some(block) = front.cut(layout) {
                            prop_assert_eq!(block.addr() % layout.align(), 0);
                            used.push(block..block.wrapping_add(size));
                        }
                    }
                    Step::Resize(block, size) => {
                        if let Some(Range { start, end }) = chosen(block).map(|at| &mut used[at])
                            && front.resize(*start, end.addr() - start.addr(), size)
                        {
                            *end = start.wrapping_add(size);
                        }
                    }
                    Step::PutBack(block) => {
                        if let Some(Range { start, end }) = chosen(block).map(|at| used.swap_remove(at)) {
                            front.put_back(start, end.addr() - start.addr());
                        }
                    }
                    Step::Close => {
                        let (rest, bytes) = front.close();
                        prop_assert_eq!(rest.wrapping_add(bytes), end);
                        end = rest;
                    }
                }
                let mut sorted = used.clone();
                sorted.sort_by_key(|block| block.start);
                prop_assert!(sorted.is_sorted_by(|one, next| one.end <= next.start), "{sorted:?}");
                for block in used.iter() {
                    prop_assert!(start <= block.start && block.end <= end && front.has(block.start), "{block:?}");
                }
                prop_assert!(!front.has(end));
            }
        }
    }

    /// How a text is put together: it grows where it stands, and what came after it makes room again.
    #[test]
    fn the_last_block_grows_where_it_stands() {
        let mut memory = [0_u8; 64];
        let front = Front::new(memory.as_mut_ptr(), 64);
        let bytes = |size| Layout::from_size_align(size, 1).unwrap();
        let text = front.cut(bytes(8)).unwrap();
        assert!(front.resize(text, 8, 32));
        let after = front.cut(bytes(32)).unwrap();
        assert_eq!((after, front.cut(bytes(1))), (text.wrapping_add(32), None));
        assert!(!front.resize(text, 32, 33) && front.resize(text, 32, 31) && !front.resize(after, 32, 33));
        front.put_back(after, 32);
        assert_eq!(front.cut(bytes(32)), Some(after));
    }
}
