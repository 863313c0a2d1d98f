//! Arbitrary lives of an inbox against a model.

use super::*;

/// What can happen in the life of an inbox.
#[derive(Debug, Clone)]
enum Step {
    /// A message comes in, to be taken after so many failures, or refused then.
    Accept { conversation: u8, failures: u32, is_refused: bool },
    /// One that came before comes again.
    Repeat(prop::sample::Index),
    /// The clock goes on.
    Pass(u64),
    /// The process dies and another one begins.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u8, 0..3u32, prop::bool::weighted(0.2))
            .prop_map(|(conversation, failures, is_refused)| Step::Accept { conversation, failures, is_refused }),
        1 => any::<prop::sample::Index>().prop_map(Step::Repeat),
        3 => (0..2_000u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// The model: each conversation's events in order, without the refused ones; each taken, none before an earlier
    /// one, none a second time (the restarts here are between a result and the next delivery).
    #[test]
    fn order_is_kept_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = TempDir::new().unwrap();
            let (now, clock) = still();
            // The data are "conversation number failures refused".
            let app = App::deciding(|data, times| {
                let words: Vec<u32> = data.split(' ').map(|word| word.parse().unwrap()).collect();
                match (times > words[2], words[3] == 1) {
                    (false, _) => Err(if words[1].is_multiple_of(2) { down() } else { status(503) }),
                    (true, true) => Err(status(422)),
                    (true, false) => Ok(Some("r".into())),
                }
            });
            let start = || {
                let inbox = Inbox::open(dir.path(), Arc::clone(&clock), Limits::default()).unwrap();
                inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
                inbox
            };
            let mut inbox = start();
            let mut sent: Vec<Event> = Vec::new();
            let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut dead = 0;
            for step in steps {
                match step {
                    Step::Accept { conversation, failures, is_refused } => {
                        let data = format!("{conversation} {} {failures} {}", sent.len(), u8::from(is_refused));
                        let event = event(&data, &conversation.to_string());
                        assert!(!inbox.accept(event.clone()).await.unwrap().is_repeated());
                        sent.push(event);
                        if is_refused {
                            dead += 1;
                        } else {
                            wanted.entry(conversation.to_string()).or_default().push(data);
                        }
                    }
                    Step::Repeat(index) if !sent.is_empty() => {
                        assert!(inbox.accept(index.get(&sent).clone()).await.unwrap().is_repeated());
                    }
                    Step::Repeat(_) => {}
                    Step::Pass(time) => {
                        now.fetch_add(time, Ordering::SeqCst);
                        inbox.inner.queue.wake.notify_one();
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Step::Restart => {
                        inbox.stop().await;
                        inbox = start();
                    }
                }
            }
            let mut counts = inbox.counts().await.unwrap();
            for _ in 0..5_000 {
                if counts.pending == 0 {
                    break;
                }
                now.fetch_add(1_000, Ordering::SeqCst);
                inbox.inner.queue.wake.notify_one();
                tokio::time::sleep(Duration::from_millis(1)).await;
                counts = inbox.counts().await.unwrap();
            }
            assert_eq!(counts, Counts { pending: 0, dead });
            let mut taken: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for data in app.taken() {
                taken.entry(data.split(' ').next().unwrap().to_owned()).or_default().push(data);
            }
            assert_eq!(taken, wanted);
        });
    }
}
