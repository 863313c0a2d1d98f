//! One request, in steps: what is known before its body is read, what the binding is to be asked, and what its answer is
//! told as. Between the steps the front reads the body and asks the binding, each version of WASI in its own way.

use std::fmt;
use std::time::Duration;

use dingtalk_api::invoke::{self, Failed, InvokeError, undecodable};
use dingtalk_api::limits::{BODY_TIMEOUT, CALLBACK_TIMEOUT, MAX_BODY as MAX_REQUEST};
use dingtalk_api::metadata::{Component as Listed, Metadata};
use dingtalk_api::request::{self, Form};
use dingtalk_api::route::{Access, Entrance, Route};
use dingtalk_api::status::ErrorStatus;
use dingtalk_api::unread::{self, Unread};
use dingtalk_api::{Answer, answer, callback, metadata};
use dingtalk_binding::callback::{MAX_BODY, verify};
use dingtalk_binding::contract::{CallError, Callback, InvokeRequest, InvokeResponse, Reply};
use dingtalk_binding::error::{self, Outcome, PropertyError, ReceiveError};
use dingtalk_binding::operation::OPERATIONS;
use http::{Request, StatusCode};

use crate::settings::{Callers, NAMES, Robot, Robots, Wrong};
use crate::wire;

/// What a component file would say.
const TYPE: &str = "bindings.dingtalk.webhook";
const VERSION: &str = "v1";

/// The end of a request.
#[derive(Debug)]
pub struct Told {
    /// For the client.
    pub answer: Answer,
    /// For whoever runs the gateway.
    pub line: Option<String>,
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Self {
        Self { answer, line: None }
    }
}

impl Told {
    /// A request that is none.
    pub fn no_request(what: &'static str) -> Self {
        answer::text(StatusCode::BAD_REQUEST, what).into()
    }

    fn with(answer: Answer, line: String) -> Self {
        Self { answer, line: Some(line) }
    }
}

/// A request whose body is wanted.
#[derive(Debug)]
pub struct Wanted<'e> {
    name: String,
    robots: Robots<'e>,
    request: &'e Request<()>,
    purpose: Purpose,
}

/// What a body is wanted for.
#[derive(Debug)]
enum Purpose {
    /// To say what DingTalk sends.
    Callback,
    /// To say, in this form, what the binding is to do.
    Operation(Form),
}

/// What the binding of a robot is to be asked.
#[derive(Debug)]
pub struct Call<'e> {
    /// Whose binding it is.
    pub robot: Robot<'e>,
    /// What for.
    pub asked: Asked,
}

/// What a binding is asked for.
#[derive(Debug)]
pub enum Asked {
    /// An operation, and what is kept of it.
    Invoke(InvokeRequest, Operation),
    /// What DingTalk is to be answered.
    Receive(Callback),
}

/// What is still to be known of an operation when the binding has it.
#[derive(Debug)]
pub struct Operation {
    name: String,
    has_uuid: bool,
    status: ErrorStatus,
}

/// Why there is no reply to a callback.
#[derive(Debug)]
pub enum CallbackError {
    /// The robot's properties are wrong.
    Init(PropertyError),
    /// The binding says so.
    Receive(ReceiveError),
}

/// Decides on a request by its head; `now` is in milliseconds since the Unix epoch.
pub fn begin<'e>(environment: &'e [(String, String)], request: &'e Request<()>, now: u64) -> Result<Wanted<'e>, Told> {
    let Callers { app_id, token, allowed } = Callers::of(environment);
    let access = Access { app_id: &app_id, token: token.as_ref(), allowed: &allowed, names: &NAMES };
    // Runtimes for WASI 0.3 do not all say it: wasmtime 49 does not.
    let nameless = request.uri().authority().is_none();
    let route = access.route(request, Entrance { nameless, ..Entrance::default() })?;
    let robots = Robots::of(environment);
    match route {
        Route::OutboundHealth => Err(answer::empty(StatusCode::NO_CONTENT).into()),
        Route::Health => Err(match robots.and_then(|robots| robots.check(environment)) {
            Ok(()) => answer::empty(StatusCode::NO_CONTENT).into(),
            Err(wrong) => misconfigured("ERR_HEALTH_NOT_READY", &wrong),
        }),
        // Who sends it learns nothing of what is wrong with us.
        Route::Callback(name) => match robots {
            Ok(robots) => {
                from_dingtalk(&name, &robots, request, now)?;
                Ok(Wanted { name, robots, request, purpose: Purpose::Callback })
            }
            Err(wrong) => Err(Told::with(callback::broken(), format!("callback not acknowledged: {wrong}"))),
        },
        route => {
            let robots = robots.map_err(|wrong| misconfigured("ERR_CONFIGURATION", &wrong))?;
            match route {
                Route::Invoke(name, form) => Ok(Wanted { name, robots, request, purpose: Purpose::Operation(form) }),
                Route::SetMetadata(_) => {
                    let message = "the gateway remembers nothing from one request to the next: no attribute can be set";
                    Err(answer::error(StatusCode::NOT_IMPLEMENTED, "ERR_NOT_IMPLEMENTED", message, &[]).into())
                }
                _ => {
                    let listed = robots.names().map(|name| Listed::new(name, TYPE, VERSION, true, true));
                    Err(metadata::answer(&Metadata::new(&app_id, listed.collect(), Default::default())).into())
                }
            }
        }
    }
}

fn misconfigured(code: &str, wrong: &Wrong) -> Told {
    let answer = answer::error(StatusCode::INTERNAL_SERVER_ERROR, code, &wrong.to_string(), &[]);
    Told::with(answer, wrong.to_string())
}

/// The binding checks it all once more. Here, so that no stranger holds an instance for the time of a body.
fn from_dingtalk(name: &str, robots: &Robots<'_>, request: &Request<()>, now: u64) -> Result<(), Told> {
    callback::check(request.method())?;
    let robot = robots.get(name).ok_or_else(|| callback::not_found(name))?;
    let settings = robot.settings().map_err(|error| robot.unanswered(CallbackError::Init(error)))?;
    let headers: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    verify(&settings.callbacks, headers.iter().copied(), now)
        .map(|_| ())
        .map_err(|refusal| robot.unanswered(CallbackError::Receive(ReceiveError::Refused(refusal))))
}

impl<'e> Wanted<'e> {
    /// The longest body that is read.
    pub fn limit(&self) -> usize {
        match self.purpose {
            Purpose::Callback => MAX_BODY,
            Purpose::Operation(_) => MAX_REQUEST,
        }
    }

    /// The time that it has.
    pub fn time(&self) -> Duration {
        match self.purpose {
            Purpose::Callback => CALLBACK_TIMEOUT,
            Purpose::Operation(_) => BODY_TIMEOUT,
        }
    }

    /// How long it will be, as far as the client says so.
    pub fn announced(&self) -> usize {
        wire::announced(self.request.headers())
    }

    /// What follows from the body.
    pub fn arrived(self, body: Result<Vec<u8>, Unread>) -> Result<Call<'e>, Told> {
        match &self.purpose {
            Purpose::Callback => self.callback(body),
            Purpose::Operation(form) => {
                let form = form.clone();
                self.operation(form, body)
            }
        }
    }

    fn operation(self, form: Form, body: Result<Vec<u8>, Unread>) -> Result<Call<'e>, Told> {
        let body = body.map_err(|why| match why {
            Unread::TooLong => undecodable(&unread::too_long(MAX_REQUEST, "the gateway takes no more")),
            Unread::Incomplete => undecodable(unread::INCOMPLETE),
            Unread::TooSlow => undecodable(&unread::too_slow(BODY_TIMEOUT.as_secs())),
        });
        let body = body.map_err(Answer::from)?;
        let chosen = invoke::error_status(self.request.headers()).map_err(Answer::from)?;
        let status = chosen.unwrap_or(self.robots.status);
        let call = invoke::complete(self.request.headers(), request::read(form, self.request.uri().query(), body))?;
        let robot = self.robots.get(&self.name).cloned();
        let refused = |error: InvokeError<Failure>| invoke::answer(&self.name, Err(&error), status);
        invoke::check(&self.name, &call.operation, robot.as_ref().map(|_| OPERATIONS.as_slice())).map_err(refused)?;
        let robot = robot.ok_or_else(|| refused(InvokeError::NotFound(self.name.clone())))?;
        let operation = Operation { name: call.operation.clone(), has_uuid: invoke::has_uuid(&call), status };
        Ok(Call { robot, asked: Asked::Invoke(call, operation) })
    }

    fn callback(self, body: Result<Vec<u8>, Unread>) -> Result<Call<'e>, Told> {
        let body = body.map_err(|why| match why {
            Unread::TooLong => callback::too_large(),
            Unread::Incomplete => callback::incomplete(),
            Unread::TooSlow => callback::too_slow(),
        })?;
        let robot = self.robots.get(&self.name).cloned().ok_or_else(|| callback::not_found(&self.name))?;
        let headers = self.request.headers();
        let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        Ok(Call { robot, asked: Asked::Receive(Callback { headers: headers.collect(), body }) })
    }
}

impl Robot<'_> {
    /// What became of an operation.
    pub fn invoked(&self, operation: &Operation, result: Result<InvokeResponse, CallError>) -> Told {
        let failure = match result {
            Ok(response) => return invoke::answer::<Failure>(self.name(), Ok(response), operation.status).into(),
            Err(CallError::Init(error)) => Failure::Misconfigured(self.wrong(&error), error.metadata()),
            Err(CallError::Invoke(error)) => Failure::Binding(error),
        };
        let failed = Failed::new(failure, operation.has_uuid);
        let line = format!("invocation of {} of {} failed: {failed}", operation.name, self.name());
        Told::with(invoke::answer(self.name(), Err(&failed.into()), operation.status), line)
    }

    /// What became of a callback.
    pub fn received(&self, result: Result<Reply, CallbackError>) -> Told {
        match result {
            Ok(reply) => callback::replied(reply).into(),
            Err(error) => self.unanswered(error),
        }
    }

    fn unanswered(&self, error: CallbackError) -> Told {
        let name = self.name();
        match error {
            CallbackError::Init(error) => {
                Told::with(callback::broken(), format!("callback for {name} not acknowledged: {}", self.wrong(&error)))
            }
            CallbackError::Receive(error) => {
                Told::with(callback::refused(&error), format!("callback for {name}: {error}"))
            }
        }
    }
}

/// Why the binding could not do it.
#[derive(Debug)]
enum Failure {
    /// A property, whose error is told without its reason: that may quote the value.
    Misconfigured(Wrong, Vec<(String, String)>),
    Binding(error::InvokeError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misconfigured(wrong, _) => write!(f, "dingtalk configuration error: {wrong}"),
            Self::Binding(error) => error.fmt(f),
        }
    }
}

impl invoke::Failure for Failure {
    fn posted(&self) -> Outcome {
        match self {
            Self::Misconfigured(..) => Outcome::NotSent,
            Self::Binding(error) => error.posted(),
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        match self {
            Self::Misconfigured(_, metadata) => metadata.clone(),
            Self::Binding(error) => error.metadata(),
        }
    }
}
