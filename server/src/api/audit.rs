//! The audit log: one line for each call when it ends, also for refused calls and unknown methods.
//!
//! A layer around everything writes the line; the guard notes who calls, handlers note which objects it was about.
//! Secrets never reach it: nothing of a request is written but the IDs that handlers note, and the status of the answer.
//!
//! A flood can't fill the disk: each class of callers has a rate limit for its lines, and lines over the limit are counted
//! on the next line of the class.

use std::fmt::Display;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use countersign_daemon::logs::AUDIT;
use countersign_proto::spire::api::types;
use countersign_transport::log_limiter::LogLimiter;
use countersign_transport::{Address, Connection, UnixCaller};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status};
use uuid::Uuid;

use super::caller::Caller;
use crate::limits;

/// What is known of a call while it runs. Empty, and ignored, if the audit log is off.
#[derive(Clone, Debug, Default)]
pub(super) struct Note(Option<Arc<Mutex<Noted>>>);

#[derive(Debug, Default)]
struct Noted {
    caller: Option<Caller>,
    about: Vec<String>,
    items: usize,
    failed: usize,
}

impl Note {
    /// The note of this request.
    pub(super) fn of(extensions: &http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Notes the caller that the guard let through.
    pub(super) fn caller(&self, caller: &Caller) {
        self.edit(|noted| noted.caller = Some(caller.clone()));
    }

    /// Notes an ID that the call is about; beyond [`limits::MAX_AUDIT_IDS`] they are not written.
    pub(super) fn about(&self, id: impl Display) {
        self.edit(|noted| noted.add(id));
    }

    /// Notes one item of a batch with its status.
    pub(super) fn item(&self, id: impl Display, status: Option<&types::Status>) {
        self.edit(|noted| {
            noted.items += 1;
            if status.is_none_or(|status| status.code != 0) {
                noted.failed += 1;
            }
            noted.add(id);
        });
    }

    fn edit(&self, edit: impl FnOnce(&mut Noted)) {
        if let Some(noted) = &self.0 {
            edit(&mut noted.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Noted {
    fn add(&mut self, id: impl Display) {
        if self.about.len() < limits::MAX_AUDIT_IDS {
            let id = short(&id.to_string()).to_owned();
            if !id.is_empty() {
                self.about.push(id);
            }
        }
    }
}

/// The beginning of a text that a caller sent.
fn short(text: &str) -> &str {
    let end = text.floor_char_boundary(limits::MAX_AUDIT_TEXT);
    text.get(..end).unwrap_or_default()
}

/// Callers whose lines share a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallerClass {
    /// Callers that were refused, and those of methods that anyone may call.
    Unidentified,
    /// Node agents and downstream servers.
    Agent,
    /// Administrators.
    Admin,
}

/// The rate limits of lines, one for each class of callers.
#[derive(Debug)]
pub(super) struct Audit {
    unidentified: LogLimiter,
    agents: LogLimiter,
    admins: LogLimiter,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self {
            unidentified: LogLimiter::new(limits::AUDIT_UNIDENTIFIED),
            agents: LogLimiter::new(limits::AUDIT_AGENTS),
            admins: LogLimiter::new(limits::AUDIT_ADMINS),
        }
    }

    fn line(&self, kind: CallerClass) -> Option<u64> {
        let limiter = match kind {
            CallerClass::Unidentified => &self.unidentified,
            CallerClass::Agent => &self.agents,
            CallerClass::Admin => &self.admins,
        };
        limiter.line()
    }
}

/// A call that has not ended, with what its line needs.
struct Call {
    audit: Arc<Audit>,
    note: Note,
    method: String,
    connection: Option<Arc<Connection>>,
    started: Instant,
    request_id: Uuid,
}

/// The layer: lets a call through and writes its line at its end.
pub(super) async fn layer(
    State(audit): State<Arc<Audit>>,
    mut request: Request,
    next: Next,
) -> Response {
    let note = Note(Some(Arc::default()));
    let call = Call {
        audit,
        note: note.clone(),
        method: short(request.uri().path()).to_owned(),
        connection: request.extensions().get().cloned(),
        started: Instant::now(),
        request_id: Uuid::new_v4(),
    };
    request.extensions_mut().insert(note);
    // If the caller goes before there is an answer, this is dropped and the line says so.
    let mut ending = Ending(Some(call));
    let response = next.run(request).await;
    if let Some(status) = Status::from_header_map(response.headers()) {
        ending.write(&status);
        return response;
    }
    response.map(|body| Body::new(Audited { body, ending }))
}

/// Writes the line once: with the status, or as cancelled when it is dropped.
struct Ending(Option<Call>);

impl Ending {
    fn write(&mut self, status: &Status) {
        if let Some(call) = self.0.take() {
            call.write(status);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.write(&Status::cancelled("the caller did not wait for the end"));
    }
}

/// An answer whose trailers end the call.
struct Audited {
    body: Body,
    ending: Ending,
}

impl HttpBody for Audited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let status = frame.trailers_ref().map(Status::from_header_map);
                if let Some(Some(status)) = status {
                    self.ending.write(&status);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.ending.write(&Status::unknown(error.to_string()));
            }
            Poll::Ready(None) => self.ending.write(&Status::unknown("no status was sent")),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Call {
    fn write(&self, status: &Status) {
        let mut noted = Noted::default();
        self.note.edit(|all| noted = std::mem::take(all));
        let (kind, class) = match &noted.caller {
            None | Some(Caller::Anyone) => (CallerClass::Unidentified, "nobody"),
            Some(Caller::Agent(_)) => (CallerClass::Agent, "agent"),
            Some(Caller::Downstream(_)) => (CallerClass::Agent, "downstream"),
            Some(Caller::Admin(_)) => (CallerClass::Admin, "admin"),
            Some(Caller::Local) => (CallerClass::Admin, "local"),
        };
        let Some(held_back) = self.audit.line(kind) else {
            return;
        };
        let connection = self.connection.as_deref();
        let process = connection.and_then(Connection::unix_caller);
        let id = connection.and_then(|connection| connection.peer.as_deref());
        let address = connection.and_then(|connection| match &connection.address {
            Address::Tcp(address) => Some(address.to_string()),
            Address::Unix(_) => None,
        });
        let message = Some(short(status.message())).filter(|message| !message.is_empty());
        tracing::info!(
            target: AUDIT,
            r#type = "audit",
            request_id = %self.request_id,
            method = ?self.method,
            authorized_as = class,
            caller_id = id.map(|peer| tracing::field::display(&peer.id)),
            caller_addr = address,
            caller_uid = process.map(|process| process.uid),
            caller_gid = process.map(|process| process.gid),
            caller_pid = process.and_then(|process| process.pid),
            caller_path = process.and_then(program).map(tracing::field::debug),
            status = if status.code() == Code::Ok { "success" } else { "error" },
            status_code = ?status.code(),
            status_message = message.map(tracing::field::debug),
            about = (!noted.about.is_empty()).then(|| tracing::field::debug(&noted.about)),
            items = (noted.items > 0).then_some(noted.items),
            items_failed = (noted.items > 0).then_some(noted.failed),
            microseconds = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            held_back = (held_back > 0).then_some(held_back),
            "API accessed"
        );
    }
}

/// The executable of a process, if the process still runs and /proc shows it.
fn program(process: &UnixCaller) -> Option<PathBuf> {
    let pid = process.pid?;
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // The PID may have been reused between the connection and this look.
    let runs = process.process.as_ref()?.is_running();
    runs.unwrap_or_default().then_some(path)
}

#[cfg(test)]
mod tests {
    use countersign_transport::process::PeerProcess;

    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ü".repeat(limits::MAX_AUDIT_TEXT);
        assert!(short(&long).len() <= limits::MAX_AUDIT_TEXT);
        assert_eq!(short("x"), "x");
    }

    #[test]
    fn the_program_of_a_caller_is_the_one_that_runs() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = UnixCaller {
            pid: Some(pid),
            uid: 0,
            gid: 0,
            process: Some(Arc::new(PeerProcess::numbered(pid).unwrap())),
        };
        assert_eq!(program(&own), std::env::current_exe().ok());
        let nobody = UnixCaller { pid: None, ..own };
        assert_eq!(program(&nobody), None);
    }
}
