//! Programs of a measurement, each a process of its own: one line is an order, one line its answer.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use std::{env, io};

use super::Error;

/// For an answer on a machine that is busy: a benchmark that hangs says so.
const PATIENCE: Duration = Duration::from_secs(120);

/// This program once more, on one core if its number is given.
pub(crate) fn this(core: Option<&str>) -> io::Result<Command> {
    let program = env::current_exe()?;
    Ok(match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", core]).arg(program);
            command
        }
        None => Command::new(program),
    })
}

/// A program that waits for orders, and ends when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<io::Result<String>>,
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self, Error> {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{name} cannot be started: {error}"))?;
        let (orders, output) = (child.stdin.take(), child.stdout.take().ok_or("it has no output")?);
        let (lines, answers) = channel();
        std::thread::spawn(move || BufReader::new(output).lines().try_for_each(|line| lines.send(line)));
        Ok(Self { name: name.to_owned(), child, orders, answers })
    }

    /// Gives these lines.
    pub(crate) fn tell(&mut self, lines: &str) -> Result<(), Error> {
        let orders = self.orders.as_mut().ok_or("its input is closed")?;
        writeln!(orders, "{lines}").map_err(|error| format!("{} takes no orders: {error}", self.name))?;
        Ok(())
    }

    /// The next line that it writes.
    pub(crate) fn answer(&mut self) -> Result<String, Error> {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(line) => {
                let line = line?;
                match line.strip_prefix("error ") {
                    Some(error) => Err(format!("{}: {error}", self.name).into()),
                    None => Ok(line),
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("{} has not answered within {} s", self.name, PATIENCE.as_secs()).into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(format!("{} has ended", self.name).into()),
        }
    }

    /// The numbers that are the answer to this order.
    pub(crate) fn numbers<const N: usize>(&mut self, order: &str) -> Result<[f64; N], Error> {
        self.tell(order)?;
        let answer = self.answer()?;
        let numbers: Vec<f64> = answer.split(' ').map_while(|number| number.parse().ok()).collect();
        Ok(numbers.try_into().map_err(|_| format!("{}: {answer:?} is no answer to {order:?}", self.name))?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends with its input; what does not, is ended.
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
