//! Has an exchange polled beside the call that waits for it, and not on the call's own stack.
//!
//! Each call has a stack of its own, and it is small: how deep an HTTP client goes is not known. And while the exchange
//! goes on, the call need not be resumed at all.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::response::Exchanged;
use crate::event::BoxFuture;

/// Between a call and whoever polls it.
#[derive(Clone, Default)]
pub struct Aside(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Nothing,
    Pending(BoxFuture<'static, Exchanged>),
    Ready(Exchanged),
}

impl Aside {
    /// Polls `call`, and what it waits for.
    pub fn run<F: Future + Unpin>(&self, call: F) -> Beside<F> {
        Beside { call, aside: self.clone() }
    }

    /// Waits for an exchange, inside the call.
    pub(super) async fn exchange(&self, exchange: BoxFuture<'static, Exchanged>) -> Exchanged {
        *self.state() = State::Pending(exchange);
        // Without a waker: whoever polls the exchange polls the call next.
        poll_fn(|_| {
            let mut state = self.state();
            match mem::take(&mut *state) {
                State::Ready(exchanged) => Poll::Ready(exchanged),
                pending => {
                    *state = pending;
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the call waits for an exchange that has not ended.
    fn waits(&self, context: &mut Context<'_>) -> bool {
        let mut state = self.state();
        let State::Pending(exchange) = &mut *state else { return false };
        match exchange.as_mut().poll(context) {
            Poll::Ready(exchanged) => {
                *state = State::Ready(exchanged);
                false
            }
            Poll::Pending => true,
        }
    }

    fn is_pending(&self) -> bool {
        matches!(&*self.state(), State::Pending(_))
    }
}

/// A call, and the exchange that it waits for.
pub struct Beside<F> {
    call: F,
    aside: Aside,
}

impl<F: Future + Unpin> Future for Beside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        loop {
            if self.aside.waits(context) {
                return Poll::Pending;
            }
            match Pin::new(&mut self.call).poll(context) {
                // It has just begun to wait for one.
                Poll::Pending if self.aside.is_pending() => {}
                polled => return polled,
            }
        }
    }
}
