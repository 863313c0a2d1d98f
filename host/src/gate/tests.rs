mod allowance;

use std::sync::Arc;

use super::*;

fn gate(robots: &Robots, url: &str, rate: &str, overflow: Overflow) -> Arc<Gate> {
    let rate = Rate::parse(Some(rate)).unwrap();
    Arc::new(robots.gate(&Endpoint::parse(url).unwrap(), Policy { rate, overflow, quota: None }))
}

const URL: &str = "https://h/robot/send?access_token=aaa111";
const LIMIT: Duration = Duration::from_secs(30);

async fn post(gate: &Gate, lesson: &Lesson) -> Result<(), Withheld> {
    gate.enter(1, LIMIT, false).await.map(|mut pass| {
        pass.begin();
        pass.end(lesson);
    })
}

/// Posts beside the test.
fn posting(gate: &Arc<Gate>) -> tokio::task::JoinHandle<Result<(), Withheld>> {
    let gate = Arc::clone(gate);
    tokio::spawn(async move { post(&gate, &Lesson::Counted).await })
}

fn shut(errcode: i64, seconds: u64, kind: Kind) -> Lesson {
    Lesson::Shut(Closing { errcode, pause: Duration::from_secs(seconds), kind, check: None })
}

fn said(withheld: Withheld) -> (String, Vec<(&'static str, String)>) {
    (withheld.to_string(), withheld.metadata())
}

#[tokio::test(start_paused = true)]
async fn a_message_too_many_waits_for_its_turn_or_is_refused_with_its_time() {
    let robots = Robots::new();
    for overflow in [Overflow::Wait, Overflow::Refuse] {
        let gate = gate(&robots, &format!("{URL}{overflow:?}"), "2/20s", overflow);
        let since = Instant::now();
        for _ in 0..2 {
            post(&gate, &Lesson::Counted).await.unwrap();
        }
        assert_eq!(since.elapsed(), Duration::ZERO);
        let third = post(&gate, &Lesson::Counted).await;
        if overflow == Overflow::Wait {
            third.unwrap();
            assert_eq!(since.elapsed(), Duration::from_secs(20));
            continue;
        }
        let (text, metadata) = said(third.unwrap_err());
        assert_eq!(text, "the robot takes 2 messages in 20 s (property \"rateLimit\"); send again after 20 s");
        assert_eq!(metadata, [("class", "rate-limited".to_owned()), ("retryAfter", "20000".to_owned())]);
    }
}

/// Notes what is to be posted when it is told to.
#[derive(Default)]
struct Slow {
    asked: Notify,
    noted: Notify,
    given_back: AtomicUsize,
}

impl Ledger for Slow {
    fn claim(&self, intent: Intent) -> crate::event::BoxFuture<'_, Result<Claimed, Unclaimed>> {
        Box::pin(async move {
            self.asked.notify_one();
            self.noted.notified().await;
            let claim = ledger::Claim { id: 1, robot: intent.robot, counted: None };
            Ok(Claimed { posts: vec![claim], used: None })
        })
    }

    fn end(&self, _: ledger::Claim, lesson: &Lesson) {
        self.given_back.fetch_add(usize::from(*lesson == Lesson::Unsent), Ordering::SeqCst);
    }

    fn known(&self) -> crate::event::BoxFuture<'_, Result<Vec<ledger::Known>, String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_posted_for_which_the_robot_was_shut_while_it_was_noted() {
    for (errcode, kind) in [(310_000, Kind::Configuration), (130_101, Kind::Rate)] {
        let (robots, ledger) = (Robots::new(), Arc::new(Slow::default()));
        robots.remember(Arc::clone(&ledger) as Arc<dyn Ledger>).await.unwrap();
        let gate = gate(&robots, URL, "20/1m", Overflow::Refuse);
        let first = async {
            let mut pass = gate.enter(1, LIMIT, false).await.unwrap();
            pass.begin();
            pass
        };
        let (mut first, ()) = tokio::join!(first, async {
            ledger.asked.notified().await;
            ledger.noted.notify_one();
        });
        let second = posting(&gate);
        ledger.asked.notified().await;
        first.end(&shut(errcode, 600, kind));
        ledger.noted.notify_one();
        let withheld = second.await.unwrap().unwrap_err();
        assert_eq!(withheld.wait, Duration::from_secs(600), "{withheld}");
        assert_eq!(ledger.given_back.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn several_messages_have_their_turns_together_or_not_at_all() {
    let robots = Robots::new();
    let gate = gate(&robots, URL, "4/1m", Overflow::Wait);
    assert!(gate.holds(4) && !gate.holds(5));
    let mut parts = gate.enter(3, LIMIT, false).await.unwrap();
    for _ in 0..2 {
        parts.begin();
        parts.end(&Lesson::Counted);
    }
    // One is left to the first, which nobody else can take.
    post(&gate, &Lesson::Counted).await.unwrap();
    assert!(post(&gate, &Lesson::Counted).await.is_err());
    assert!(gate.enter(2, LIMIT, false).await.is_err());
    // It breaks off: the place is free again.
    drop(parts);
    post(&gate, &Lesson::Counted).await.unwrap();
    tokio::time::advance(Duration::from_secs(40)).await;
    let since = Instant::now();
    let parts = gate.enter(4, LIMIT, false).await.unwrap();
    assert_eq!(since.elapsed(), Duration::from_secs(20), "for all of them");
    drop(parts);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_narrow_limit_does_not_stand_before_a_wide_one() {
    let robots = Robots::new();
    let narrow = gate(&robots, URL, "1/10m", Overflow::Wait);
    let wide = gate(&robots, URL, "20/1m", Overflow::Wait);
    post(&narrow, &Lesson::Counted).await.unwrap();
    let waiting = tokio::spawn({
        let narrow = Arc::clone(&narrow);
        async move { narrow.enter(1, Duration::from_secs(600), false).await.map(drop) }
    });
    until_there_wait(&robots, 1).await;
    let since = Instant::now();
    post(&wide, &Lesson::Counted).await.unwrap();
    assert_eq!(since.elapsed(), Duration::ZERO);
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn bindings_with_different_limits_keep_the_robots_together() {
    let robots = Robots::new();
    let short = gate(&robots, URL, "8/30s", Overflow::Refuse);
    let minute = gate(&robots, URL, "20/1m", Overflow::Refuse);
    for (gate, messages) in [(&short, 8), (&minute, 12)] {
        for _ in 0..messages {
            post(gate, &Lesson::Counted).await.unwrap();
        }
    }
    // The short one's 30 seconds are over, the robot's minute is not.
    tokio::time::advance(Duration::from_secs(31)).await;
    let refused = post(&short, &Lesson::Counted).await.unwrap_err();
    assert_eq!((refused.why.clone(), refused.wait.as_secs()), (Why::Rate(Rate::parse(None).unwrap().unwrap()), 29));
    assert_eq!(said(refused).0, "the robot takes 20 messages a minute (property \"rateLimit\"); send again after 29 s");
    assert!(!short.holds(9) && short.holds(8));
    // Without the other binding, nobody has said that the robot takes no more.
    drop(minute);
    post(&short, &Lesson::Counted).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wider_limit_finds_what_was_sent_before_it_came() {
    let robots = Robots::new();
    let open = gate(&robots, URL, "0", Overflow::Wait);
    for _ in 0..20 {
        post(&open, &Lesson::Counted).await.unwrap();
    }
    drop(open);
    let limited = gate(&robots, URL, "20/1m", Overflow::Refuse);
    assert!(post(&limited, &Lesson::Counted).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_pass_in_its_time_is_refused_at_once() {
    let robots = Robots::new();
    let gate = gate(&robots, URL, "1/1m", Overflow::Wait);
    post(&gate, &Lesson::Counted).await.unwrap();
    let since = Instant::now();
    let refused = post(&gate, &Lesson::Counted).await.unwrap_err();
    assert_eq!((since.elapsed(), refused.wait), (Duration::ZERO, Duration::from_secs(60)));
    // And told the truth: then it passes.
    tokio::time::advance(refused.wait).await;
    post(&gate, &Lesson::Counted).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_pass_in_the_order_in_which_they_came() {
    let robots = Robots::new();
    let gate = gate(&robots, URL, "1/5s", Overflow::Wait);
    post(&gate, &Lesson::Counted).await.unwrap();
    let (since, order) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..6 {
        let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
        tasks.spawn(async move {
            let pass = gate.enter(1, LIMIT, false).await;
            lock(&order).push((number, pass.is_ok(), since.elapsed().as_secs()));
            if let Ok(mut pass) = pass {
                pass.end(&Lesson::Counted);
            }
        });
        tokio::task::yield_now().await;
    }
    while tasks.join_next().await.is_some() {}
    assert_eq!(
        *lock(&order),
        [(0, true, 5), (1, true, 10), (2, true, 15), (3, true, 20), (4, true, 25), (5, true, 30)]
    );
    assert_eq!(robots.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn two_bindings_of_one_robot_share_its_limit_and_two_robots_do_not() {
    let robots = Robots::new();
    let one = gate(&robots, URL, "1/1m", Overflow::Refuse);
    let same = gate(&robots, "http://H:443/robot/send?x=1&access_token=aaa111", "1/1m", Overflow::Refuse);
    let other = gate(&robots, "https://h/robot/send?access_token=bbb222", "1/1m", Overflow::Refuse);
    post(&one, &Lesson::Counted).await.unwrap();
    assert!(post(&same, &Lesson::Counted).await.is_err());
    post(&other, &Lesson::Counted).await.unwrap();
    // Also after its binding was loaded again.
    drop((one, same));
    let again = gate(&robots, URL, "1/1m", Overflow::Refuse);
    assert!(post(&again, &Lesson::Counted).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_takes_no_place_and_makes_room_for_who_waits() {
    let robots = Robots::new();
    let gate = gate(&robots, URL, "1/1m", Overflow::Wait);
    let mut pass = gate.enter(1, LIMIT, false).await.unwrap();
    let waiting = posting(&gate);
    tokio::task::yield_now().await;
    // Its earliest moment is not known: the first is still under way, and so it may be one window from now.
    assert!(waiting.await.unwrap().is_err());
    pass.end(&Lesson::Unsent);
    post(&gate, &Lesson::Counted).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_a_call_was_not_sent() {
    let robots = Robots::new();
    let gate = gate(&robots, URL, "1/10s", Overflow::Wait);
    let mut pass = gate.enter(1, LIMIT, false).await.unwrap();
    let since = Instant::now();
    let waiting = posting(&gate);
    tokio::time::sleep(Duration::from_secs(2)).await;
    pass.end(&Lesson::Unsent);
    waiting.await.unwrap().unwrap();
    assert_eq!(since.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_penalty_shuts_the_robot_for_all_its_bindings_until_it_is_over() {
    let robots = Robots::new();
    let one = gate(&robots, URL, "30/1m", Overflow::Wait);
    let same = gate(&robots, URL, "20/1m", Overflow::Wait);
    let open = gate(&robots, URL, "0", Overflow::Wait);
    post(&open, &shut(130_101, 600, Kind::Rate)).await.unwrap();
    post(&open, &Lesson::Counted).await.unwrap();
    for gate in [&one, &same] {
        let (text, metadata) = said(post(gate, &Lesson::Counted).await.unwrap_err());
        assert_eq!(text, "DingTalk has shut the robot for too many messages (errcode 130101); send again after 600 s");
        let expected = [("class", "rate-limited"), ("errcode", "130101"), ("retryAfter", "600000")];
        assert_eq!(metadata, expected.map(|(name, value)| (name, value.to_owned())));
    }
    tokio::time::advance(Duration::from_secs(575)).await;
    let since = Instant::now();
    post(&one, &Lesson::Counted).await.unwrap();
    assert_eq!(since.elapsed(), Duration::from_secs(25), "what ends within a call's time is waited for");
    post(&same, &Lesson::Counted).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mistake_in_one_binding_shuts_that_one_and_is_asked_about_once_an_hour() {
    let robots = Robots::new();
    let wrong = gate(&robots, URL, "20/1m", Overflow::Wait);
    let right = gate(&robots, URL, "20/1m", Overflow::Wait);
    let mistake = shut(310_000, 3_600, Kind::Configuration);
    post(&wrong, &mistake).await.unwrap();
    let (text, _) = said(post(&wrong, &mistake).await.unwrap_err());
    assert!(text.contains("mend its component file") && text.contains("3600 s"), "{text}");
    post(&right, &Lesson::Counted).await.unwrap();
    // One that is cut off finds out nothing, and lets nobody else pass.
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let mut probe = wrong.enter(1, LIMIT, false).await.unwrap();
    probe.begin();
    let meanwhile = post(&wrong, &mistake).await.unwrap_err();
    assert_eq!(meanwhile.wait, Duration::from_millis(FINDING_OUT_MS));
    drop(probe);
    post(&wrong, &mistake).await.unwrap();
    assert!(post(&wrong, &mistake).await.is_err());
    // Of a thousand callers in ten hours, ten messages are sent.
    let mut sent = 0;
    for _ in 0..1_000 {
        tokio::time::advance(Duration::from_secs(36)).await;
        sent += usize::from(post(&wrong, &mistake).await.is_ok());
    }
    assert_eq!(sent, 10 - 1 + usize::from(sent == 10), "{sent}");
    // Mended: a new file is a new binding.
    let mended = gate(&robots, URL, "20/1m", Overflow::Wait);
    post(&mended, &Lesson::Counted).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_refused_when_it_has_become_hopeless() {
    let robots = Robots::new();
    let gate = gate(&robots, URL, "1/10s", Overflow::Wait);
    let mut pass = gate.enter(1, LIMIT, false).await.unwrap();
    let since = Instant::now();
    let waiting = posting(&gate);
    tokio::time::sleep(Duration::from_secs(1)).await;
    pass.end(&shut(130_101, 600, Kind::Rate));
    let refused = waiting.await.unwrap().unwrap_err();
    assert_eq!((since.elapsed(), refused.wait), (Duration::from_secs(1), Duration::from_secs(600)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_broken_off_counts_and_a_caller_who_goes_leaves_the_queue() {
    let robots = Robots::new();
    let gate = gate(&robots, URL, "1/10s", Overflow::Wait);
    let mut pass = gate.enter(1, LIMIT, false).await.unwrap();
    pass.begin();
    drop(pass);
    let waiting = posting(&gate);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(robots.waiting(), 1);
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!(robots.waiting(), 0);
    let since = Instant::now();
    post(&gate, &Lesson::Counted).await.unwrap();
    // Its bytes may arrive for a while yet.
    assert_eq!(since.elapsed(), Duration::from_secs(9 + LATE_MS / 1_000));
}

async fn until_there_wait(robots: &Robots, number: usize) {
    for _ in 0..1_000 {
        if robots.waiting() == number {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} wait, not {number}", robots.waiting());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait() {
    let robots = Robots::new();
    let gates: Vec<_> =
        (0..6).map(|number| gate(&robots, &format!("{URL}{number}"), "100/10s", Overflow::Wait)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    let mut passes = Vec::new();
    for gate in &gates {
        for _ in 0..100 {
            passes.push(gate.enter(1, LIMIT, false).await.unwrap());
        }
    }
    let (full, other) = gates.split_first().unwrap();
    let spawn = |gate: &Arc<Gate>, tasks: &mut tokio::task::JoinSet<_>| {
        let gate = Arc::clone(gate);
        tasks.spawn(async move { post(&gate, &Lesson::Counted).await });
    };
    for _ in 0..WAITING_EACH {
        spawn(full, &mut tasks);
    }
    until_there_wait(&robots, WAITING_EACH).await;
    let (text, _) = said(post(full, &Lesson::Counted).await.unwrap_err());
    assert!(text.starts_with("64 calls wait for their turn already; send again after "), "{text}");
    for gate in other.iter().take(WAITING / WAITING_EACH - 1) {
        for _ in 0..WAITING_EACH {
            spawn(gate, &mut tasks);
        }
    }
    until_there_wait(&robots, WAITING).await;
    let last = other.last().unwrap();
    assert!(post(last, &Lesson::Counted).await.is_err(), "nobody waits for this one, and too many wait in all");
    drop(passes);
    let mut passed = 0;
    while let Some(ended) = tasks.join_next().await {
        passed += usize::from(ended.unwrap().is_ok());
    }
    assert_eq!((passed, robots.waiting()), (WAITING, 0));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_gates_that_come_and_go_leave_nothing_behind() {
    let robots = Robots::new();
    for number in 0..10_000 {
        let gate = gate(&robots, &format!("{URL}{number}"), "20/1m", Overflow::Refuse);
        post(&gate, &Lesson::Counted).await.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    // Those of the last hour, and as many before they are looked for.
    let kept = lock(&robots.0.by_key).robots.len();
    assert!(kept <= 2 * 360 + SWEEP, "{kept}");
}

/// Bytes of this process in memory.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// What many robots cost: `cargo test -p dingtalk-host --lib -- --ignored --nocapture what_10_000_gates_cost`.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
#[ignore = "it measures the memory of a process that does nothing else"]
async fn what_10_000_gates_cost() {
    // So many that the noise does not count.
    const GATES: usize = 200_000;
    let robots = Robots::new();
    let urls: Vec<_> =
        (0..GATES).map(|n| Endpoint::parse(&format!("https://h/robot/send?access_token={n}")).unwrap()).collect();
    let rate = Rate::parse(None).unwrap();
    let before = resident();
    let gates: Vec<_> =
        urls.iter().map(|url| robots.gate(url, Policy { rate, overflow: Overflow::Wait, quota: None })).collect();
    let idle = (resident() - before) / (GATES / 10_000);
    for gate in &gates {
        for _ in 0..20 {
            post(gate, &Lesson::Counted).await.unwrap();
        }
    }
    let used = (resident() - before) / (GATES / 10_000);
    println!(
        "10,000 gates: {idle} bytes, after 20 messages each {used} bytes; of that in bindings {}",
        10_000 * size_of::<Gate>()
    );
    assert!(idle < 2 << 20, "{idle}");
}
