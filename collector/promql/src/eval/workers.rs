//! The same work on many series, on several threads where there are enough of them.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::budget::Budget;
use crate::value::EvalError;

/// With less work than this, in values to compute, starting threads costs more than it gains.
const LEAST_WORK: usize = 200_000;

/// What reading a series costs beside its values.
pub(super) const READING: usize = 500;

/// Each thread comes back for more this often, so that none waits long for the others.
const BATCHES_PER_THREAD: usize = 8;

/// The results for all items, in their order. `weight` is the work for one item, in values to compute. `S` is what a thread reuses from item to item. After an error no further
/// batch is begun.
pub(super) fn map<T: Sync, S: Default, R: Send>(
    budget: &Budget<'_>,
    items: &[T],
    weight: usize,
    work: impl Fn(&mut S, &T) -> Result<R, EvalError> + Sync,
) -> Result<Vec<R>, EvalError> {
    let threads = budget.threads().min(items.len());
    if threads < 2 || items.len().saturating_mul(weight) < LEAST_WORK {
        let mut scratch = S::default();
        return items.iter().map(|item| work(&mut scratch, item)).collect();
    }
    let batch_size = (items.len() / (threads * BATCHES_PER_THREAD)).max(1);
    let batches = items.len().div_ceil(batch_size);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Vec<R>)>> = Mutex::new(Vec::with_capacity(batches));
    let failed: Mutex<Option<EvalError>> = Mutex::new(None);
    let run = || {
        let mut scratch = S::default();
        loop {
            let batch = next.fetch_add(1, Relaxed);
            let Some(items) = items.chunks(batch_size).nth(batch) else { return };
            let results: Result<Vec<R>, EvalError> =
                items.iter().map(|item| work(&mut scratch, item)).collect();
            match results {
                Ok(results) => {
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((batch, results));
                }
                Err(error) => {
                    next.store(batches, Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(batch, _)| *batch);
    Ok(done.into_iter().flat_map(|(_, results)| results).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    #[test]
    fn results_keep_their_order() {
        let items: Vec<usize> = (0..1000).collect();
        for threads in [1, 2, 7] {
            let options = Options { threads, ..Options::default() };
            let budget = Budget::new(&options);
            let got = map(&budget, &items, 1000, |calls: &mut usize, item| {
                *calls += 1;
                Ok((*item * 2, *calls > 0))
            });
            let expected: Vec<(usize, bool)> = items.iter().map(|item| (item * 2, true)).collect();
            assert_eq!(got.unwrap(), expected);
        }
    }

    #[test]
    fn an_error_ends_the_work() {
        let items: Vec<usize> = (0..10_000).collect();
        let options = Options { threads: 2, ..Options::default() };
        let done = AtomicUsize::new(0);
        let got = map(&Budget::new(&options), &items, 1000, |(): &mut (), item| {
            done.fetch_add(1, Relaxed);
            if *item == 3 { Err(EvalError::Canceled) } else { Ok(()) }
        });
        assert!(matches!(got, Err(EvalError::Canceled)));
        assert!(done.load(Relaxed) < items.len());
    }
}
