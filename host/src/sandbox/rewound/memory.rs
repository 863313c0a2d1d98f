//! Linear memories that the host can copy and put back between calls: the only unsafe code of the host but for an option of the
//! allocator.
//!
//! wasmtime lets the host make the memories of its instances, and then uses them by address. So does this module, while
//! nothing runs in them: an instance and its memory are held together, and whoever copies the memory has the instance
//! to himself.

use std::cell::RefCell;
use std::ffi::c_void;
use std::io;
use std::pin::{Pin, pin};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::super::Instance;

/// Addresses reserved for one memory, of which the first are in use.
struct Mapping {
    base: NonNull<c_void>,
    /// With the guard behind the memory, which is never in use.
    reserved: usize,
    capacity: usize,
    initial: usize,
    size: AtomicUsize,
}

#[expect(unsafe_code, reason = "a raw pointer is neither, whatever it points to")]
// SAFETY: the pointer is to pages that belong to this value until it is dropped, whichever thread that happens in. What
// is in the pages is used by the instance that has the memory, which wasmtime lets one thread use at a time, and by
// `Held` with the instance borrowed; no method that takes `&self` touches it.
unsafe impl Send for Mapping {}

#[expect(unsafe_code, reason = "a raw pointer is neither, whatever it points to")]
// SAFETY: as above. The one field that changes is atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeros, `initial` bytes of them in use; it can grow to `capacity`, and behind that are `guard` more addresses.
    #[expect(unsafe_code, reason = "memory is mapped")]
    fn new(initial: usize, capacity: usize, guard: usize) -> io::Result<Self> {
        let capacity = capacity.max(initial);
        let reserved = capacity.checked_add(guard).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the kernel chooses the addresses, so that nothing else is there.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        // From here on, dropping it gives the addresses back.
        let mapping = Self { base, reserved, capacity, initial, size: AtomicUsize::new(0) };
        mapping.grow(initial)?;
        Ok(mapping)
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// Takes the first `size` bytes into use.
    #[expect(unsafe_code, reason = "protection of memory is changed")]
    fn grow(&self, size: usize) -> io::Result<()> {
        if size > self.capacity || size < self.size() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if size > 0 {
            // SAFETY: `size` is at most `capacity`, so that these addresses are this mapping's own. They become readable
            // and writable, which those that are already stay.
            unsafe { mprotect(self.base.as_ptr(), size, MprotectFlags::READ | MprotectFlags::WRITE) }?;
        }
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "memory is given back")]
    fn drop(&mut self) {
        // SAFETY: the addresses are this mapping's own, and nothing uses them any more: an instance that does has an `Arc`
        // of it, through `Memory`. An error would mean that they are none of ours, and there is nobody to tell.
        let _ = unsafe { munmap(self.base.as_ptr(), self.reserved) };
    }
}

/// The memory, as the instance has it.
struct Memory(Arc<Mapping>);

#[expect(unsafe_code, reason = "wasmtime runs compiled code on these addresses")]
// SAFETY: the addresses stay what they are as long as this lives, `byte_size` of them are readable and writable, none behind
// those up to the guard's end is, and new ones are zero, because the kernel gives them so and memory never shrinks.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.0.size()
    }

    fn byte_capacity(&self) -> usize {
        self.0.capacity
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        Ok(self.0.grow(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base.as_ptr().cast()
    }
}

thread_local! {
    /// What the instance that this thread is making was given; `None` where it makes none that is to be held.
    static MADE: RefCell<Option<Vec<Arc<Mapping>>>> = const { RefCell::new(None) };
}

/// Makes memories, and notes for [`Held::make`] which.
pub(super) struct Memories;

#[expect(unsafe_code, reason = "wasmtime runs compiled code on these addresses")]
// SAFETY: what it makes is zero, has at least the reservation and the guard that wasmtime asks for, and never moves.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let capacity = reserved.or(maximum).unwrap_or(minimum);
        let mapping = Mapping::new(minimum, capacity, guard);
        let mapping = Arc::new(mapping.map_err(|error| format!("no memory for an instance: {error}"))?);
        MADE.with_borrow_mut(|made| made.as_mut().map(|made| made.push(Arc::clone(&mapping))));
        Ok(Box::new(Memory(mapping)))
    }
}

/// An instance that has one memory, and that memory.
pub(super) struct Held {
    instance: Instance,
    memory: Arc<Mapping>,
}

impl Held {
    /// Has `instantiate` make an instance, and no other beside it; that alone, if it has not one memory.
    pub(super) async fn make(
        instantiate: impl Future<Output = wasmtime::Result<Instance>>,
    ) -> wasmtime::Result<Result<Self, Instance>> {
        let mut instantiate = pin!(instantiate);
        let mut made = Vec::new();
        let instance = std::future::poll_fn(|context| {
            // A poll stays in its thread, and wasmtime makes a memory within one.
            MADE.set(Some(std::mem::take(&mut made)));
            let polled = Pin::as_mut(&mut instantiate).poll(context);
            made = MADE.take().unwrap_or_default();
            polled
        })
        .await?;
        let mut made = made.into_iter();
        match (made.next(), made.next()) {
            (Some(memory), None) => Ok(Ok(Self { instance, memory })),
            _ => Ok(Err(instance)),
        }
    }

    /// The instance, for a call. It must not be replaced by another one: they would have each other's memory.
    pub(super) fn instance(&mut self) -> &mut Instance {
        &mut self.instance
    }

    /// Whether its memory is as large as it was at first.
    pub(super) fn has_initial_size(&self) -> bool {
        self.memory.size() == self.memory.initial
    }

    /// Where its memory is: what distinguishes it.
    #[cfg(test)]
    pub(super) fn address(&self) -> usize {
        self.memory.base.as_ptr().addr()
    }

    /// What is in its memory, as long as nothing runs in it.
    #[expect(unsafe_code, reason = "memory that compiled code uses is read and written")]
    pub(super) fn memory(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes are readable and writable. Nothing else uses them while this is borrowed: compiled code and
        // wasmtime do so only with the instance's store borrowed mutably, and it is inside of `self`, which is. None of
        // wasmtime's references into the memory outlives a call.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base.as_ptr().cast::<u8>(), self.memory.size()) }
    }
}
