//! Answers: awaited, and read from what has come.

use std::mem;

use http::Response;
use wasmtime::component::Resource;
use wasmtime_wasi_http::Error;

use super::Http;
use super::aside::Aside;
use super::error::code;
use super::generated::wasi::http::types::{
    ErrorCode, HostFutureIncomingResponse, HostIncomingBody, HostIncomingResponse,
};
use super::streams::{InputStream, Pollable};
use crate::egress::Received;
use crate::event::BoxFuture;

pub type Exchanged = Result<Response<Received>, Error>;

pub enum FutureIncomingResponse {
    /// Polled while the component waits for it. With it ends the exchange.
    Pending(BoxFuture<'static, Exchanged>),
    Ready(Exchanged),
    Consumed,
}

impl FutureIncomingResponse {
    /// Waits until there is an answer or an error.
    pub(super) async fn ready(&mut self, aside: Option<&Aside>) {
        if !matches!(self, Self::Pending(_)) {
            return;
        }
        if let Self::Pending(exchange) = mem::replace(self, Self::Consumed) {
            *self = Self::Ready(match aside {
                Some(aside) => aside.exchange(exchange).await,
                None => exchange.await,
            });
        }
    }
}

pub struct IncomingResponse {
    status: u16,
    body: Option<Received>,
}

pub struct IncomingBody(Option<Received>);

impl HostFutureIncomingResponse for Http {
    fn subscribe(&mut self, future: Resource<FutureIncomingResponse>) -> wasmtime::Result<Resource<Pollable>> {
        Ok(self.handles.push_child(Pollable::Response(future.rep()), &future)?)
    }

    fn get(
        &mut self,
        future: Resource<FutureIncomingResponse>,
    ) -> wasmtime::Result<Option<Result<Result<Resource<IncomingResponse>, ErrorCode>, ()>>> {
        let future = self.handles.get_mut(&future)?;
        if let FutureIncomingResponse::Pending(_) = future {
            return Ok(None);
        }
        match mem::replace(future, FutureIncomingResponse::Consumed) {
            FutureIncomingResponse::Ready(Ok(response)) => {
                let (parts, body) = response.into_parts();
                let response = IncomingResponse { status: parts.status.as_u16(), body: Some(body) };
                Ok(Some(Ok(Ok(self.handles.push(response)?))))
            }
            FutureIncomingResponse::Ready(Err(error)) => Ok(Some(Ok(Err(code(&error))))),
            FutureIncomingResponse::Pending(_) | FutureIncomingResponse::Consumed => Ok(Some(Err(()))),
        }
    }

    fn drop(&mut self, future: Resource<FutureIncomingResponse>) -> wasmtime::Result<()> {
        self.handles.delete(&future)?;
        Ok(())
    }
}

impl HostIncomingResponse for Http {
    fn status(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<u16> {
        Ok(self.handles.get(&response)?.status)
    }

    fn consume(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        let Some(body) = self.handles.get_mut(&response)?.body.take() else { return Ok(Err(())) };
        Ok(Ok(self.handles.push(IncomingBody(Some(body)))?))
    }

    fn drop(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<()> {
        self.handles.delete(&response)?;
        Ok(())
    }
}

impl HostIncomingBody for Http {
    fn stream(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<Result<Resource<InputStream>, ()>> {
        let Some(received) = self.handles.get_mut(&body)?.0.take() else { return Ok(Err(())) };
        Ok(Ok(self.handles.push_child(InputStream::new(received), &body)?))
    }

    fn drop(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<()> {
        self.handles.delete(&body)?;
        Ok(())
    }
}
