//! The part of wasi:http 0.2 that the binding's component uses, over one call's way out: no task is spawned for a
//! request, and no body is boxed.
//!
//! A message is small and is sent whole, and the component waits for one answer at a time. So a body is a buffer until it
//! is finished, an exchange is a future that is polled beside the call while the component waits for it, and an answer is there to its
//! end before the component sees it. What a component may do is what WASI says and what wasmtime-wasi-http lets it do;
//! the tests hold the two against each other, function by function. Components that import more than
//! this (imports.wit) are linked with that one.
//!
//! A component may call these functions in any order. What it holds is counted in [`Handles`], what it hands over in
//! [`Http::room`], and what it does wrong ends its call.

#![allow(unreachable_pub, reason = "the generated traits name these types, and want them public in their own module")]

mod aside;
mod error;
mod fields;
mod handles;
mod request;
mod response;
mod streams;

#[cfg(test)]
mod tests;

use wasmtime::component::{HasSelf, Linker};

pub(super) use self::aside::Aside;
use self::generated::wasi::http::{outgoing_handler, types};
use self::generated::wasi::io;
use self::handles::Handles;
use super::state::State;
use crate::egress::{Exit, MAX_REQUEST_BODY};

#[allow(
    missing_docs,
    unreachable_pub,
    reason = "generated from imports.wit; the documentation is in wit/component/deps"
)]
mod generated {
    wasmtime::component::bindgen!({
        path: "src/sandbox/http/imports.wit",
        world: "dingtalk:sandbox/imports",
        imports: {
            "wasi:io/poll.[method]pollable.block": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:io/poll.pollable": super::streams::Pollable,
            "wasi:io/error.error": super::error::IoError,
            "wasi:io/streams.input-stream": super::streams::InputStream,
            "wasi:io/streams.output-stream": super::streams::OutputStream,
            "wasi:http/types.fields": super::fields::Fields,
            "wasi:http/types.outgoing-request": super::request::OutgoingRequest,
            "wasi:http/types.outgoing-body": super::request::OutgoingBody,
            "wasi:http/types.request-options": super::request::RequestOptions,
            "wasi:http/types.future-incoming-response": super::response::FutureIncomingResponse,
            "wasi:http/types.incoming-response": super::response::IncomingResponse,
            "wasi:http/types.incoming-body": super::response::IncomingBody,
        },
    });
}

/// Adds what imports.wit lists, and nothing else.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    io::poll::add_to_linker::<State, HasSelf<Http>>(linker, State::own_http)?;
    io::error::add_to_linker::<State, HasSelf<Http>>(linker, State::own_http)?;
    io::streams::add_to_linker::<State, HasSelf<Http>>(linker, State::own_http)?;
    types::add_to_linker::<State, HasSelf<Http>>(linker, State::own_http)?;
    outgoing_handler::add_to_linker::<State, HasSelf<Http>>(linker, State::own_http)
}

/// What one call may hand over in all: four times the longest body. Copying it takes some 50 ms, in which nothing else runs
/// on its thread.
const MOST_HANDED: usize = 4 * MAX_REQUEST_BODY;

/// The wasi:http of one call.
pub(super) struct Http {
    exit: Exit,
    handles: Handles,
    /// Bytes that the bodies of all its requests together may still have.
    room: usize,
    /// Bytes that the component may still hand over: these functions take time that no instruction pays for.
    handing: usize,
    /// Where exchanges are polled; on the call's own stack, if whoever polls the call polls nothing beside it.
    aside: Option<Aside>,
}

impl Http {
    /// For a call that leaves by `exit` and may hold so many handles.
    pub(super) fn new(exit: Exit, handles: usize) -> Self {
        Self { exit, handles: Handles::new(handles), room: MAX_REQUEST_BODY, handing: MOST_HANDED, aside: None }
    }

    /// From now on whoever polls the call polls its exchanges beside it.
    pub(super) fn exchange_aside(&mut self, aside: Aside) {
        self.aside = Some(aside);
    }

    /// The component hands over so many bytes, or entries that take as much time.
    fn hand_over(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.handing = self
            .handing
            .checked_sub(bytes)
            .ok_or_else(|| wasmtime::Error::msg("more was handed over than the host permits in one call"))?;
        Ok(())
    }

    /// Has the component hold one more.
    #[cfg(test)]
    pub(super) fn hold_one(&mut self) {
        self.handles.push(error::IoError(None)).unwrap();
    }

    /// How many handles the component holds: none, where it has given back all that it was given.
    pub(super) fn live_handles(&self) -> usize {
        self.handles.live()
    }
}

impl types::Host for Http {
    fn http_error_code(
        &mut self,
        error: wasmtime::component::Resource<error::IoError>,
    ) -> wasmtime::Result<Option<types::ErrorCode>> {
        Ok(self.handles.get(&error)?.0.clone())
    }
}
