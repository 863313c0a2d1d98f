//! For how long the binary's allocator, mimalloc, keeps what was freed.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// `mi_option_purge_delay`, which the crate has no name for. The test knows it by its value.
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds. mimalloc 2 kept it for so long; version 3 keeps it for a second, and gives it back only when it is asked for more:
/// after the start with 10,000 bindings, which frees several kilobytes for each, a host that does nothing is not.
const KEPT: c_long = 10;

/// Has the allocator give back soon what is freed from now on, unless the variable MIMALLOC_PURGE_DELAY says otherwise.
pub(super) fn give_back_soon() {
    #[expect(unsafe_code, reason = "the allocator's options are set in C")]
    // SAFETY: the function takes two numbers, of which the first is an option that there is, and writes the second to where the
    // allocator reads it. No other thread runs yet.
    unsafe {
        mi_option_set_default(PURGE_DELAY, KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "the allocator's options are read in C")]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: the function takes the number of an option that there is, and reads it.
        let value = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(value(), 1_000, "what version 3 of mimalloc has for it, and for no other option");
        give_back_soon();
        assert_eq!(value(), KEPT);
    }
}
