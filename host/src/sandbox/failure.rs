//! Why a call failed, in words for people and for programs.

use dingtalk_api::invoke;
use dingtalk_binding::error::{InvokeCause, InvokeError, Outcome, PropertyError};
use wasmtime::Trap;

use super::Overload;
use crate::egress::Exit;

/// Why a call failed. `E` is what the function that was called can answer, of the contract.
#[derive(Debug, thiserror::Error)]
pub enum CallError<E> {
    /// The component's answer.
    #[error("{0}")]
    Binding(E),
    /// The component cannot be initialised with the tenant's properties.
    #[error(transparent)]
    Init(PropertyError),
    /// A limit of the sandbox, or a defect of the component.
    #[error("dingtalk webhook error: the component was stopped: {reason}{}", consequence(*outcome))]
    Stopped {
        /// What happened and which limit to look at.
        reason: String,
        /// What became of the message.
        outcome: Outcome,
    },
    /// No slot became free in time; nothing ran.
    #[error("dingtalk webhook error: {0}. Nothing was sent")]
    Overloaded(Overload),
}

impl invoke::Failure for CallError<InvokeError> {
    fn posted(&self) -> Outcome {
        match self {
            Self::Binding(error) => error.posted(),
            Self::Init(error) => error.posted(),
            Self::Stopped { outcome, .. } => *outcome,
            Self::Overloaded(_) => Outcome::NotSent,
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let error = match self {
            Self::Binding(error) => return error.metadata(),
            Self::Init(error) => return error.metadata(),
            Self::Stopped { .. } => "stopped",
            Self::Overloaded(_) => "overloaded",
        };
        [("error", error), ("outcome", self.posted().name())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }
}

fn consequence(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotSent => "",
        Outcome::Unknown => ". The message may have been posted",
    }
}

/// A component that could not be prepared for running.
#[derive(Debug, thiserror::Error)]
#[error("the component cannot be prepared: {0:#}")]
pub struct PrepareError(#[from] wasmtime::Error);

/// Adds to the component's error what only the way out knows: whether anything left, and why an address was refused.
pub(super) fn known(error: InvokeError, exit: &Exit) -> InvokeError {
    match error.cause {
        InvokeCause::Unreachable(mut reason) => {
            if let Some(refusal) = exit.refusal() {
                reason = format!("{reason}: {refusal}");
            }
            InvokeError { cause: InvokeCause::Unreachable(reason), outcome: exit.close() }
        }
        _ => error,
    }
}

/// What of a trap helps whoever runs the host.
pub(super) fn explain(trap: &wasmtime::Error) -> String {
    match trap.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => "it used more instructions than one call may".into(),
        Some(Trap::StackOverflow) => "it used more stack than one call may".into(),
        Some(Trap::UnreachableCodeReached) => "it aborted (out of memory, or a defect of the component)".into(),
        Some(other) => format!("{other}"),
        // Of wasmtime, of this host's own functions, and of what they are built on: texts of numbers and names of types.
        None => format!("the host ended it: {}", trap.root_cause()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_trap_is_called_by_what_it_is() {
        let error = wasmtime::Error::msg("the component holds too many handles").context("in a function");
        assert_eq!(explain(&error), "the host ended it: the component holds too many handles");
        assert_eq!(explain(&Trap::OutOfFuel.into()), "it used more instructions than one call may");
    }
}
