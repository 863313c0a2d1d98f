//! The same work for each of many things, by as many threads as there are cores.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// What `work` makes of each of `items`, in their order. A thread takes `batch` of them at a time; those that are not more
/// than that are done here. Returns once all is done. Blocks.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], batch: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let batch = batch.max(1);
    let threads = cores().min(items.len().div_ceil(batch));
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(items) = items.chunks(batch).nth(number) else { return done };
            done.push((number, items.iter().map(&work).collect::<Vec<R>>()));
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mut done = take();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().flat_map(|(_, results)| results).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn results_have_the_order_of_the_items_whoever_was_first() {
        for (items, batch) in [(0, 4), (1, 4), (4, 4), (5, 4), (1_000, 1), (1_001, 7), (3, 0)] {
            let items: Vec<usize> = (0..items).collect();
            let done = map(&items, batch, |item| {
                if item % 5 == 0 {
                    thread::yield_now();
                }
                item * 2
            });
            assert_eq!(done, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn there_are_no_more_threads_than_cores_and_none_for_a_few() {
        let threads = |items: usize| {
            let seen = Mutex::new(std::collections::HashSet::new());
            map(&vec![(); items], 4, |()| {
                seen.lock().unwrap().insert(thread::current().id());
            });
            seen.into_inner().unwrap()
        };
        assert_eq!(threads(4), [thread::current().id()].into());
        assert!(threads(1_000).len() <= cores());
    }

    #[test]
    #[should_panic(expected = "a defect")]
    fn a_panic_is_not_lost() {
        map(&[1; 100], 1, |_| panic!("a defect"));
    }
}
