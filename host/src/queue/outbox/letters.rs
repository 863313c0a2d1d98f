//! Tells of messages that were given up, whatever they died of: beside the posts, which wait for none of it.
//!
//! That a message was told is noted after it was: at least once. What is to be told survives a restart; how often that was
//! tried does not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::line::ToRobots;
use super::{DeadLetter, Told};
use crate::queue::QueueError;
use crate::queue::backoff;
use crate::queue::dispatcher::{Shared, ended, has_ended};

/// How often the store is looked at: messages also die of their age, of which nobody says so here.
const POLL: Duration = Duration::from_secs(2);

/// How often in all a message is told to somebody who does not take it. With the pauses between, a minute.
const ATTEMPTS: u32 = 8;

/// What is remembered of each kind: names of bindings are those of component files, and of some that are gone.
const MOST: usize = 1_024;

/// What is known of telling.
#[derive(Default)]
struct Known {
    /// Bindings of which nothing is told for a while: how often in a row that was in vain, and until when.
    paused: HashMap<String, (u32, Instant)>,
    /// How often a message was told in vain.
    failures: HashMap<i64, u32>,
    /// Those of which the store does not know yet that they are told.
    told: HashSet<(i64, u64)>,
}

impl Known {
    /// A binding of which something cannot be told now.
    fn pause(&mut self, binding: &str) {
        let (in_vain, until) = self.paused.entry(binding.to_owned()).or_insert((0, Instant::now()));
        *in_vain = in_vain.saturating_add(1);
        *until = Instant::now() + Duration::from_millis(backoff::pause(*in_vain, fastrand::f64()));
    }

    /// Something of it was told.
    fn resume(&mut self, binding: &str, seq: i64) {
        self.paused.remove(binding);
        self.failures.remove(&seq);
    }

    /// Another attempt was in vain. Returns whether it was the last one.
    fn fail(&mut self, seq: i64) -> bool {
        // The operator may have dropped them, and nobody says so.
        if self.failures.len() >= MOST {
            self.failures.clear();
        }
        let failures = self.failures.entry(seq).or_default();
        *failures = failures.saturating_add(1);
        *failures >= ATTEMPTS
    }

    /// The bindings that are left out now, and when the first of them is not any more.
    fn left_out(&self) -> (Vec<String>, Option<Instant>) {
        let now = Instant::now();
        let paused = || self.paused.iter().filter(|(_, (_, until))| now < *until);
        (paused().map(|(name, _)| name.clone()).collect(), paused().map(|(_, (_, until))| *until).min())
    }
}

/// Runs until the queue is stopped.
pub(super) async fn run(shared: Arc<Shared<ToRobots>>) {
    let mut stopping = shared.stopping.clone();
    let mut known = Known::default();
    while !has_ended(&stopping) {
        round(&shared, &mut known).await;
        let again = known.left_out().1.map_or(POLL, |until| until.saturating_duration_since(Instant::now()).min(POLL));
        tokio::select! {
            biased;
            () = ended(&mut stopping) => return,
            () = shared.line.died.notified() => {}
            () = sleep(again) => {}
        }
    }
}

/// Tells all that can be told now. Where that fails, the binding's next ones wait.
async fn round(shared: &Shared<ToRobots>, known: &mut Known) {
    while !has_ended(&shared.stopping) {
        let (left_out, _) = known.left_out();
        if left_out.len() >= MOST {
            return;
        }
        let letters = match shared.storage.letters(left_out).await {
            Ok(letters) => letters,
            Err(QueueError::Stopped) => return,
            Err(error) => {
                if let Some(more) = shared.quiet.count("letters") {
                    tracing::error!(%error, more, "the outbox cannot tell what was given up; trying again");
                }
                return;
            }
        };
        if letters.is_empty() || !tell(shared, known, letters).await {
            return;
        }
    }
}

/// Tells of some at once. Returns whether to go on.
async fn tell(shared: &Shared<ToRobots>, known: &mut Known, letters: Vec<DeadLetter>) -> bool {
    let mut telling = JoinSet::new();
    let (done, untold): (Vec<_>, Vec<_>) =
        letters.into_iter().partition(|letter| known.told.contains(&(letter.seq, letter.died_at)));
    for letter in untold {
        let consumer = Arc::clone(&shared.line.consumer);
        telling.spawn(async move {
            let told = consumer.tell(&letter).await;
            (letter, told)
        });
    }
    let mut is_well = true;
    for letter in done {
        is_well &= note(shared, known, &letter).await;
    }
    while let Some(ended) = telling.join_next().await {
        let Ok((letter, told)) = ended else {
            // A bug in whoever tells, for which nothing may spin.
            if let Some(more) = shared.quiet.count("telling panicked") {
                tracing::error!(more, "telling that a message was given up panicked; it will be tried again");
            }
            is_well = false;
            continue;
        };
        if is_over(shared, known, &letter, told) {
            known.resume(&letter.binding, letter.seq);
            known.told.insert((letter.seq, letter.died_at));
            is_well &= note(shared, known, &letter).await;
        } else {
            known.pause(&letter.binding);
        }
    }
    is_well
}

/// Notes that it is told.
async fn note(shared: &Shared<ToRobots>, known: &mut Known, letter: &DeadLetter) -> bool {
    let &DeadLetter { seq, died_at, .. } = letter;
    let noted = shared.storage.told(seq, died_at).await;
    match &noted {
        Ok(()) => {
            known.told.remove(&(seq, died_at));
        }
        Err(QueueError::Stopped) => {}
        Err(error) => {
            if let Some(more) = shared.quiet.count("told") {
                tracing::error!(seq, %error, more, "it cannot be noted whom a message's end was told; after a restart it may be told again");
            }
        }
    }
    noted.is_ok()
}

/// Whether nothing more is to be done to tell of a message.
fn is_over(shared: &Shared<ToRobots>, known: &mut Known, letter: &DeadLetter, told: Told) -> bool {
    let (seq, binding) = (letter.seq, &letter.binding);
    match told {
        Told::Done => true,
        Told::Later => false,
        Told::Failed(reason) => {
            let is_last = known.fail(seq);
            if let Some(more) = shared.quiet.count(&format!("untold {is_last} {binding}")) {
                if is_last {
                    tracing::error!(
                        binding,
                        seq,
                        reason,
                        more,
                        "nobody was told that a message was given up; see `outbox list`"
                    );
                } else {
                    tracing::warn!(binding, seq, reason, more, "that a message was given up is not told yet");
                }
            }
            is_last
        }
    }
}
