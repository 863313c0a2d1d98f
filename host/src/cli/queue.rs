//! `dingtalk-host inbox` and `dingtalk-host outbox`: what waits there, and what to do about what is refused.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use dingtalk_binding::contract;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Failure;
use super::invoke::as_json;
use super::store::StoreArgs;
use crate::clock;
use crate::queue::{Entry, Listing, Operator, Selection, Side, State};

/// Shows and repairs the inbox, also while the host runs.
#[derive(Debug, Clone, Args)]
pub(super) struct InboxArgs {
    #[command(subcommand)]
    command: InboxCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum InboxCommand {
    /// Shows the events, in the order in which they were accepted.
    List(ListArgs<InboxDirectory>),
    /// Puts dead events back to their places, to be delivered at once.
    Retry(ChangeArgs<InboxDirectory>),
    /// Gives events up. DingTalk's repetition of one is not accepted for 24 hours.
    Drop(ChangeArgs<InboxDirectory>),
}

/// Shows and repairs the outbox, also while the host runs.
#[derive(Debug, Clone, Args)]
pub(super) struct OutboxArgs {
    #[command(subcommand)]
    command: OutboxCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum OutboxCommand {
    /// Shows the messages, in the order in which they were queued.
    List(ListArgs<OutboxDirectory>),
    /// Shows one message with all that is known of it.
    Show(ShowArgs),
    /// Puts dead messages back to their places, to be sent at once, whether they had expired or not.
    Retry(ChangeArgs<OutboxDirectory>),
    /// Gives messages up. Another one with the msgUuid is not taken for 24 hours.
    Drop(ChangeArgs<OutboxDirectory>),
}

/// Where a queue is.
trait Directory: Args {
    const SIDE: Side;
    /// Of files; without one, `store` says where it is.
    fn path(&self) -> Option<&Path>;
    fn store(&self) -> &StoreArgs;
}

#[derive(Debug, Clone, Args)]
struct InboxDirectory {
    /// Directory of the inbox, as given to `serve`.
    #[arg(long, value_name = "DIRECTORY", group = "inbox_kept", required_unless_present = "store")]
    inbox: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

impl Directory for InboxDirectory {
    const SIDE: Side = Side::Inbox;
    fn path(&self) -> Option<&Path> {
        self.inbox.as_deref()
    }
    fn store(&self) -> &StoreArgs {
        &self.store
    }
}

#[derive(Debug, Clone, Args)]
struct OutboxDirectory {
    /// Directory of the outbox, as given to `serve`.
    #[arg(long, value_name = "DIRECTORY", group = "outbox_kept", required_unless_present = "store")]
    outbox: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

impl Directory for OutboxDirectory {
    const SIDE: Side = Side::Outbox;
    fn path(&self) -> Option<&Path> {
        self.outbox.as_deref()
    }
    fn store(&self) -> &StoreArgs {
        &self.store
    }
}

#[derive(Debug, Clone, Args)]
struct ListArgs<D: Args> {
    #[command(flatten)]
    directory: D,
    /// Only what is in this state; pending and dead without it.
    #[arg(long, value_enum)]
    state: Option<StateArg>,
    /// Only what is of this binding.
    #[arg(long, value_name = "NAME")]
    binding: Option<String>,
    /// Form of the list.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Shows data and metadata too: what people wrote, and of an event where to answer them.
    #[arg(long)]
    show_data: bool,
}

#[derive(Debug, Clone, Args)]
struct ShowArgs {
    #[command(flatten)]
    directory: OutboxDirectory,
    /// Number of the message.
    #[arg(value_name = "SEQ")]
    seq: i64,
    /// Form of it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Args)]
struct ChangeArgs<D: Args> {
    #[command(flatten)]
    directory: D,
    /// Numbers, as `list` shows them.
    #[arg(value_name = "SEQ", required_unless_present = "all", conflicts_with = "all")]
    seq: Vec<i64>,
    /// Every dead one.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    /// Refused by the application for good.
    Dead,
    /// Still to be delivered.
    Pending,
    /// Those, and what is kept of delivered ones.
    All,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// One line an event, with ages and pauses.
    Text,
    /// One object a line, with times in milliseconds since the Unix epoch.
    Json,
}

pub(super) fn run_inbox(args: &InboxArgs) -> Result<(), Failure> {
    match &args.command {
        InboxCommand::List(args) => list(args),
        InboxCommand::Retry(args) => args.retry(),
        InboxCommand::Drop(args) => args.drop(),
    }
}

pub(super) fn run_outbox(args: &OutboxArgs) -> Result<(), Failure> {
    match &args.command {
        OutboxCommand::List(args) => list(args),
        OutboxCommand::Show(args) => show(args),
        OutboxCommand::Retry(args) => args.retry(),
        OutboxCommand::Drop(args) => args.drop(),
    }
}

fn open(directory: &impl Directory) -> Result<Operator, Failure> {
    fn side<D: Directory>(_: &D) -> Side {
        D::SIDE
    }
    let side = side(directory);
    let opened = match (directory.path(), directory.store().address()?) {
        (Some(path), _) => Operator::open(side, path, clock::system()),
        (None, Some(address)) => Operator::open_in(side, &address, clock::system()),
        // The command line has been refused already.
        (None, None) => return Err(format!("name the {side} with --{side} or --store").into()),
    };
    Ok(opened?)
}

impl<D: Directory> ChangeArgs<D> {
    fn selection(&self) -> Selection {
        if self.all { Selection::All } else { Selection::Seqs(self.seq.clone()) }
    }

    fn retry(&self) -> Result<(), Failure> {
        let count = open(&self.directory)?.retry(&self.selection())?;
        said(&format!("{} put back", number(D::SIDE, count)))
    }

    fn drop(&self) -> Result<(), Failure> {
        let count = open(&self.directory)?.drop_events(&self.selection())?;
        said(&format!("{} dropped", number(D::SIDE, count)))
    }
}

fn number(side: Side, count: usize) -> String {
    let what = match side {
        Side::Inbox => "event",
        Side::Outbox => "message",
    };
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn said(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

fn list<D: Directory>(args: &ListArgs<D>) -> Result<(), Failure> {
    let states = match args.state {
        None => vec![State::Dead, State::Pending],
        Some(StateArg::Dead) => vec![State::Dead],
        Some(StateArg::Pending) => vec![State::Pending],
        Some(StateArg::All) => vec![State::Dead, State::Pending, State::Delivered],
    };
    let listing = Listing { states, binding: args.binding.clone(), content: args.show_data, seq: None };
    write(D::SIDE, &open(&args.directory)?, &listing, args.output).map(drop)
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let states = vec![State::Dead, State::Pending, State::Delivered];
    let listing = Listing { states, binding: None, content: true, seq: Some(args.seq) };
    match write(Side::Outbox, &open(&args.directory)?, &listing, args.output)? {
        0 => Err(format!("the outbox has no message {}; see `outbox list --state all`", args.seq).into()),
        _ => Ok(()),
    }
}

/// Writes what is listed, and says how much that was.
fn write(side: Side, operator: &Operator, listing: &Listing, output: Output) -> Result<usize, Failure> {
    let now = clock::system()();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut count = 0;
    operator.list(listing, |entry| {
        count += 1;
        match output {
            Output::Text => write_text(&mut out, side, &entry, now),
            Output::Json => write_json(&mut out, side, &entry),
        }
    })??;
    out.flush()?;
    Ok(count)
}

/// What the identifier and the conversation of an entry are called.
fn names(side: Side) -> [&'static str; 2] {
    match side {
        Side::Inbox => ["msgId", "conversationId"],
        Side::Outbox => ["msgUuid", "conversation"],
    }
}

/// One line, and with its content one more for each part of that. Whatever comes from outside is quoted and
/// escaped: it must not move the cursor or look like another event.
fn write_text(out: &mut impl Write, side: Side, entry: &Entry, now: u64) -> io::Result<()> {
    let Entry { seq, binding, state, attempts, size, .. } = entry;
    let age = span(now.saturating_sub(entry.accepted_at));
    write!(out, "{seq} {state} binding={binding:?} age={age} attempts={attempts} size={size}")?;
    if let Some(next) = entry.next_attempt_at {
        write!(out, " next={}", if next <= now { "now".into() } else { span(next - now) })?;
    }
    if let Some(first) = entry.waits_for {
        write!(out, " waits-for={first}")?;
    }
    let [id, conversation] = names(side);
    for (name, value) in [(id, &entry.msg_id), (conversation, &entry.conversation_id), ("error", &entry.last_error)] {
        if let Some(value) = value {
            write!(out, " {name}={value:?}")?;
        }
    }
    writeln!(out)?;
    for (name, value) in entry.metadata.iter().flatten() {
        writeln!(out, "    {name:?}: {value:?}")?;
    }
    if let Some(data) = &entry.data {
        writeln!(out, "    data: {:?}", String::from_utf8_lossy(data))?;
    }
    Ok(())
}

/// An entry as JSON; the names are those of the documentation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    seq: i64,
    binding: &'a str,
    state: &'a str,
    attempts: u32,
    accepted_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a str>,
    #[serde(flatten)]
    names: BTreeMap<&'static str, &'a str>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

fn write_json(out: &mut impl Write, side: Side, entry: &Entry) -> io::Result<()> {
    let named = names(side).into_iter().zip([&entry.msg_id, &entry.conversation_id]);
    let line = Line {
        seq: entry.seq,
        binding: &entry.binding,
        state: entry.state.as_str(),
        attempts: entry.attempts,
        accepted_at: entry.accepted_at,
        finished_at: entry.finished_at,
        next_attempt_at: entry.next_attempt_at,
        waits_for: entry.waits_for,
        last_error: entry.last_error.as_deref(),
        names: named.filter_map(|(name, value)| Some((name, value.as_deref()?))).collect(),
        size: entry.size,
        metadata: entry.metadata.as_ref().map(|pairs| contract::pairs(pairs).collect()),
        data: entry.data.as_deref().map(one_line_json).transpose()?,
    };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)
}

/// JSON with line breaks in it would break the rule of one object a line, and is shown as a string instead.
fn one_line_json(data: &[u8]) -> serde_json::Result<Box<RawValue>> {
    let value = as_json(data)?;
    if value.get().contains(['\n', '\r']) {
        return serde_json::value::to_raw_value(value.get());
    }
    Ok(value)
}

/// A time span in its two greatest units, as `3m12s`.
fn span(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            seq: 7,
            binding: "team".into(),
            state: State::Dead,
            attempts: 3,
            accepted_at: 1_000,
            finished_at: Some(2_000),
            next_attempt_at: None,
            waits_for: None,
            last_error: Some("no\u{1b}[2J\n8 dead".into()),
            msg_id: Some("m1".into()),
            conversation_id: None,
            size: 2,
            metadata: None,
            data: None,
        }
    }

    #[test]
    fn spans_have_their_two_greatest_units() {
        let spans = [0, 59_999, 192_000, 3_660_000, 183_600_000].map(span);
        assert_eq!(spans, ["0s", "59s", "3m12s", "1h1m", "2d3h"]);
    }

    #[test]
    fn what_comes_from_outside_cannot_forge_lines() {
        let mut out = Vec::new();
        write_text(&mut out, Side::Inbox, &entry(), 193_000).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "7 dead binding=\"team\" age=3m12s attempts=3 size=2 msgId=\"m1\" error=\"no\\u{1b}[2J\\n8 dead\"\n"
        );
    }

    #[test]
    fn every_json_object_is_one_line() {
        for data in ["{\n\"a\":\r1}", "text\nmore", "{}"] {
            let mut out = Vec::new();
            write_json(&mut out, Side::Inbox, &Entry { data: Some(data.into()), ..entry() }).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.matches(['\n', '\r']).count(), 1, "{text}");
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&value["seq"], &value["lastError"]), (&7.into(), &"no\u{1b}[2J\n8 dead".into()));
        }
    }
}
