//! Whatever is done reads what it needs by an index, however much else is there. How many events wait, and what all of them
//! take, is read from the smallest index that has it.

use super::*;
use crate::queue::Selection;
use crate::queue::siblings::{Siblings, group};
use crate::queue::storage::Wake;
use crate::queue::store::LOOKED_AT;

/// So many that reading all of them would be what costs.
const EVENTS: u32 = 20_000;

#[tokio::test]
async fn no_statement_reads_all_events_or_lanes() {
    let Some(bench) = Bench::database().await else { return };
    fill(&bench, EVENTS);
    let events = bench.events(Side::Outbox).await;
    // One connection, which knows all statements afterwards.
    let seq = add(&bench, &events, "new", "c").await;
    insert_one(&bench, &events, item("new", "c")).await;
    let busy = room();
    let first = due(&bench, &events, busy).await.heads.pop().unwrap();
    let front = events.front(first.seq, 1, 0).await.unwrap();
    assert!(front.len() > 50, "{}", front.len());
    let front = front.into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(events.unite(front, "x".into(), 0).await, Ok(true));
    // Of two siblings, the second waits in more conversations than are looked at at once.
    let now = bench.now();
    for (binding, rank) in [("one", 1), ("two", 0)] {
        bench.sql(&format!(
            "INSERT INTO events (side, binding, conversation, lane, rank, accepted_at, state, metadata, trace, data, digest, size)
             SELECT 1, '{binding}', i::text::bytea, sha256(i::text::bytea), {rank}, {now}, 'pending', '[]', '[]', 'x', sha256('x'), 1000
                 FROM generate_series(1, {LOOKED_AT}) AS i;
             INSERT INTO lanes (side, binding, lane, conversation, due, rank)
             SELECT side, binding, lane, conversation, {now}, rank FROM events WHERE binding = '{binding}'"
        ));
    }
    let siblings = Siblings::new(group(&["one", "two", &first.lane.0]), [].into());
    let by_binding = [("one".to_owned(), 0)].into();
    let in_turn = due(&bench, &events, Room { siblings, by_binding, in_all: 4_000, ..room() }).await.heads;
    assert!(in_turn.iter().all(|head| head.lane.0 != "two" && head.lane != first.lane) && in_turn.len() > 8);
    assert!(events.looked_at().contains_key("two"));
    assert_eq!(events.front(first.seq, 1, 0).await, Ok(Vec::new()), "it stands for what is more urgent elsewhere");
    failed(&bench, &events, first.seq, 1_000, true).await;
    delivered(&bench, &events, seq).await;
    for which in [Wake::All, Wake::Suffering, Wake::Binding("b1".into())] {
        events.wake(which, 0).await.unwrap();
    }
    events.oldest().await.unwrap();
    events.tidy(0).await.unwrap();
    events.database().renew().await.unwrap();
    let sessions = {
        let mut sessions = Vec::new();
        while let Ok(session) =
            tokio::time::timeout(Duration::from_secs(1), Session::take(&events.database().0.pool)).await
        {
            sessions.push(session.unwrap());
        }
        sessions
    };
    let mut seen = 0;
    for session in &sessions {
        let statements = session
            .query("SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements", &[])
            .await
            .unwrap();
        session.batch_execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
        for row in statements {
            let (name, sql, parameters): (&str, &str, i32) = (row.get(0), row.get(1), row.get(2));
            if !["events", "lanes"].iter().any(|table| sql.contains(table)) || sql.contains("pg_prepared") {
                continue;
            }
            let nulls = vec!["NULL"; usize::try_from(parameters).unwrap()].join(", ");
            let values = if parameters == 0 { String::new() } else { format!("({nulls})") };
            let plan = session.simple_query(&format!("EXPLAIN EXECUTE \"{name}\"{values}")).await.unwrap();
            let lines: Vec<String> = plan
                .iter()
                .filter_map(|line| match line {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap().to_owned()),
                    _ => None,
                })
                .collect();
            let reads_all = |line: &&String| line.contains("Seq Scan on events") || line.contains("Seq Scan on lanes");
            assert!(!lines.iter().any(|line| reads_all(&line)), "{sql}\n{}", lines.join("\n"));
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
    assert!(bench.operator(Side::Outbox).drop_events(&Selection::Seqs(vec![1])).is_ok());
}

/// Messages of a hundred bindings, in as many conversations, of which half wait for a later time.
pub(super) fn fill(bench: &Bench, events: u32) {
    let now = bench.now();
    bench.sql(&format!(
        "INSERT INTO events (side, binding, msg_id, msg_key, conversation, lane, rank, accepted_at, state, metadata, trace, data,
             digest, size)
         SELECT 1, 'b' || i % 100, i::text::bytea, sha256(i::text::bytea), i::text::bytea, sha256(i::text::bytea), 0, {now},
             'pending', '[]', '[]', repeat('x', 500)::bytea, sha256('x'), 1000 FROM generate_series(1, {events}) AS i;
         INSERT INTO lanes (side, binding, lane, conversation, due, rank)
         SELECT side, binding, lane, conversation, CASE WHEN seq % 2 = 0 THEN {now} ELSE {now} + 20000 END, 0 FROM events"
    ));
    // As its own vacuum leaves them.
    let schema = bench.sql("SELECT current_schema()");
    for table in ["events", "lanes"] {
        bench.server().sql(&format!("VACUUM ANALYZE {schema}.{table}"));
    }
}
