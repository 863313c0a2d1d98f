//! wasi:io over buffers: streams that are always ready, and the one thing to wait for, an answer.

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi_http::Error;

use super::Http;
use super::error::{IoError, code};
use super::generated::wasi::http::types::ErrorCode;
use super::generated::wasi::io::poll::{Host as PollHost, HostPollable};
use super::generated::wasi::io::streams::{Host, HostInputStream, HostOutputStream, StreamError};
use super::request::OutgoingBody;
use super::response::FutureIncomingResponse;
use crate::egress::Received;

/// Bytes that one `write` may have: as many as wasmtime-wasi-http lets it have.
const WRITE: u64 = 1 << 20;

/// Writes into a body that lives as long as this.
pub struct OutputStream {
    pub(super) body: u32,
}

/// An answer's body as far as it came, then its error if there is one.
pub struct InputStream {
    data: Bytes,
    end: Option<Error>,
}

impl InputStream {
    pub(super) fn new(received: Received) -> Self {
        let (data, end) = received.into_parts();
        Self { data, end }
    }
}

/// Something to wait for, which lives as long as this.
pub enum Pollable {
    Response(u32),
    /// A body can always be written to.
    Write,
}

impl PollHost for Http {}

impl HostPollable for Http {
    async fn block(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<()> {
        if let Pollable::Response(future) = self.handles.get(&pollable)? {
            let future = Resource::<FutureIncomingResponse>::new_borrow(*future);
            self.handles.get_mut(&future)?.ready(self.aside.as_ref()).await;
        }
        Ok(())
    }

    fn drop(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<()> {
        self.handles.delete(&pollable)?;
        Ok(())
    }
}

impl Host for Http {}

impl HostInputStream for Http {
    fn blocking_read(
        &mut self,
        stream: Resource<InputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, StreamError>> {
        let InputStream { data, end } = self.handles.get_mut(&stream)?;
        if !data.is_empty() {
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(data.len());
            return Ok(Ok(data.split_to(len).into()));
        }
        match end.take() {
            Some(error) => Ok(Err(self.failed(code(&error))?)),
            None => Ok(Err(StreamError::Closed)),
        }
    }

    fn drop(&mut self, stream: Resource<InputStream>) -> wasmtime::Result<()> {
        self.handles.delete(&stream)?;
        Ok(())
    }
}

impl HostOutputStream for Http {
    fn check_write(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<Result<u64, StreamError>> {
        Ok(if self.body_of(&stream)?.is_forsaken() { Err(StreamError::Closed) } else { Ok(WRITE) })
    }

    fn write(
        &mut self,
        stream: Resource<OutputStream>,
        contents: Vec<u8>,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        if contents.len() as u64 > WRITE {
            return Err(wasmtime::Error::msg("more was written than the host permits at once"));
        }
        self.hand_over(contents.len())?;
        let room = self.room;
        let body = self.body_of(&stream)?;
        if body.is_forsaken() {
            return Ok(Err(StreamError::Closed));
        }
        body.written = body.written.saturating_add(contents.len() as u64);
        let written = body.written;
        if body.length.is_some_and(|length| written > length) {
            return Ok(Err(self.failed(ErrorCode::HttpRequestBodySize(Some(written)))?));
        }
        let taken = body.append(contents, room);
        self.room = room.saturating_sub(taken);
        Ok(Ok(()))
    }

    fn subscribe(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<Resource<Pollable>> {
        Ok(self.handles.push_child(Pollable::Write, &stream)?)
    }

    fn drop(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<()> {
        self.handles.delete(&stream)?;
        Ok(())
    }
}

impl OutgoingBody {
    /// Keeps what fits into the `room` that is left, or else nothing of the whole body: it is refused once it is finished.
    /// How much room it took.
    fn append(&mut self, contents: Vec<u8>, room: usize) -> usize {
        let taken = contents.len();
        if self.is_too_long || taken > room {
            self.is_too_long = true;
            self.data = Vec::new();
            return 0;
        }
        // The usual case: the whole body at once.
        if self.data.is_empty() {
            self.data = contents;
        } else {
            self.data.extend_from_slice(&contents);
        }
        taken
    }
}

impl Http {
    fn body_of(&mut self, stream: &Resource<OutputStream>) -> wasmtime::Result<&mut OutgoingBody> {
        let body = Resource::new_borrow(self.handles.get(stream)?.body);
        Ok(self.handles.get_mut(&body)?)
    }

    fn failed(&mut self, code: ErrorCode) -> wasmtime::Result<StreamError> {
        Ok(StreamError::LastOperationFailed(self.handles.push(IoError(Some(code)))?))
    }
}
