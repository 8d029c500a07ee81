//! What a request is routed by (dubbo.md sections 3 and 6).

use super::super::{Call, CallError, Detail, EditError, Frame, Kind};
use super::attachments::{Attachments, Entry, Value};
use super::body::{Body, UNREADABLE};
use crate::http::Put;

/// Reads the call of a request.
pub(super) fn read<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    detail: Detail,
) -> Result<Call<'a>, CallError> {
    let Some(mut body) = Body::of(frame, bytes) else {
        return Ok(Call { complete: true, ..Call::default() });
    };
    let names = Names::read(&mut body)?;
    let mut call = names.call();
    if names.is_generic() {
        call.method = generic_method(body.clone()).unwrap_or(call.method);
    }
    if detail == Detail::Names {
        return Ok(call);
    }
    call.complete = true;
    skip_arguments(&mut body)?;
    let mut attachments = body.attachments()?;
    let mut identity = Identity::default();
    match identity.gather(&mut attachments) {
        Ok(()) => identity.complete(&mut call),
        Err(_) if attachments.may_be_odd() => {}
        Err(error) => return Err(error),
    }
    Ok(call)
}

/// Shows the headers of a message.
pub(super) fn headers<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
) {
    let mut identity = Identity::default();
    if frame.kind == Kind::Response {
        if let Ok(attachments) = attachments(frame, bytes) {
            show(attachments, &mut identity, visit);
        }
        return;
    }
    let Some(mut body) = Body::of(frame, bytes) else { return };
    let Ok(names) = Names::read(&mut body) else { return };
    if skip_arguments(&mut body).is_ok()
        && let Ok(attachments) = body.attachments()
        && !show(attachments, &mut identity, visit)
    {
        return;
    }
    names.show(&identity, visit);
}

/// Goes to the attachments of a message.
///
/// # Errors
/// [`EditError::Unsupported`] when it can't have any, [`EditError::Unreadable`] when what stands
/// before them can't be read.
pub(super) fn attachments<'a>(
    frame: &Frame,
    bytes: &'a [u8],
) -> Result<Attachments<'a>, EditError> {
    let mut body = Body::of(frame, bytes).ok_or(EditError::Unsupported)?;
    let found = match frame.kind {
        Kind::Response => {
            if !has_attachments(frame.status, &mut body)? {
                return Err(EditError::Unsupported);
            }
            body.attachments()
        }
        Kind::Request | Kind::Oneway | Kind::Bound { .. } => Names::read(&mut body)
            .and_then(|_| skip_arguments(&mut body))
            .and_then(|()| body.attachments()),
        _ => return Err(EditError::Unsupported),
    };
    found.map_err(|_| EditError::Unreadable)
}

/// Writes `group/service:version`, without what is empty.
pub(super) fn put_service_key(call: &Call<'_>, out: &mut dyn Put) {
    if !call.group.is_empty() {
        out.put(call.group);
        out.put(b"/");
    }
    out.put(call.service);
    if !call.version.is_empty() {
        out.put(b":");
        out.put(call.version);
    }
}

/// The strings that a request begins with.
struct Names<'a> {
    protocol: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    method: Option<&'a [u8]>,
}

impl<'a> Names<'a> {
    fn read(body: &mut Body<'a>) -> Result<Self, CallError> {
        Ok(Names {
            protocol: body.string()?,
            path: body.string()?,
            version: body.string()?,
            method: body.string()?,
        })
    }

    fn call(&self) -> Call<'a> {
        Call {
            service: self.path.unwrap_or_default(),
            method: self.method.unwrap_or_default(),
            version: meant_version(self.version),
            ..Call::default()
        }
    }

    /// Whether the first argument names the method.
    fn is_generic(&self) -> bool {
        matches!(self.method, Some(b"$invoke" | b"$invokeAsync"))
    }

    /// Shows them, and what attachments make of them.
    fn show(&self, identity: &Identity<'a>, visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool) {
        let all: [(&'static [u8], Option<&'a [u8]>); 5] = [
            (b"dubbo", self.protocol),
            (b"service", identity.service().or(self.path)),
            (b"version", identity.version.or(self.version)),
            (b"method", self.method),
            (b"group", identity.group),
        ];
        for (name, value) in all {
            if value.is_some_and(|value| !visit(name, value)) {
                return;
            }
        }
    }
}

/// What attachments say about where a request goes. Of a repeated key the last counts.
#[derive(Default)]
struct Identity<'a> {
    interface: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    group: Option<&'a [u8]>,
    timeout_ms: Option<u32>,
    has_callback: bool,
}

impl<'a> Identity<'a> {
    fn gather(&mut self, attachments: &mut Attachments<'a>) -> Result<(), CallError> {
        while let Some(entry) = attachments.next()? {
            self.add(&entry)?;
        }
        Ok(())
    }

    fn add(&mut self, entry: &Entry<'a>) -> Result<(), CallError> {
        let name = |value| match value {
            Value::Text(text) => Ok(Some(text)),
            Value::Null => Ok(None),
            // The receiver may read a name here that we don't.
            _ => Err(CallError { reason: UNREADABLE, at: entry.range.start }),
        };
        match entry.key {
            Some(b"interface") => self.interface = name(entry.value)?,
            Some(b"path") => self.path = name(entry.value)?,
            Some(b"version") => self.version = name(entry.value)?,
            Some(b"group") => self.group = name(entry.value)?,
            Some(b"timeout") => self.timeout_ms = timeout(entry.value),
            Some(key) if key.starts_with(CALLBACK) => self.has_callback = true,
            _ => {}
        }
        Ok(())
    }

    fn service(&self) -> Option<&'a [u8]> {
        self.interface.filter(|name| !name.is_empty()).or(self.path)
    }

    fn complete(&self, call: &mut Call<'a>) {
        call.service = self.service().unwrap_or(call.service);
        if self.version.is_some() {
            call.version = meant_version(self.version);
        }
        call.group = self.group.unwrap_or_default();
        call.timeout_ms = self.timeout_ms;
        call.binds = self.has_callback;
    }
}

fn meant_version(version: Option<&[u8]>) -> &[u8] {
    version.filter(|version| *version != NO_VERSION).unwrap_or_default()
}

/// Milliseconds; nothing and less are no timeout, as clients have it.
fn timeout(value: Value<'_>) -> Option<u32> {
    let milliseconds = match value {
        Value::Integer(milliseconds) => milliseconds,
        Value::Text(text) => std::str::from_utf8(text).ok()?.parse().ok()?,
        Value::Null | Value::OddText | Value::Other => return None,
    };
    let milliseconds = u64::try_from(milliseconds).ok().filter(|ms| *ms > 0)?;
    Some(u32::try_from(milliseconds).unwrap_or(u32::MAX))
}

/// Shows attachments that are text, and gathers what they say: all or nothing, as the call does. False
/// when `visit` has seen enough.
fn show<'a>(
    mut attachments: Attachments<'a>,
    identity: &mut Identity<'a>,
    visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
) -> bool {
    let mut is_odd = false;
    loop {
        match attachments.next() {
            Ok(Some(entry)) => {
                if let (Some(key), Value::Text(value)) = (entry.key, entry.value)
                    && !visit(key, value)
                {
                    return false;
                }
                is_odd |= identity.add(&entry).is_err();
            }
            end => {
                if is_odd || end.is_err() {
                    *identity = Identity::default();
                }
                return true;
            }
        }
    }
}

/// The method that a generic call is for: its first argument.
fn generic_method(mut body: Body<'_>) -> Option<&[u8]> {
    let descriptor = body.string().ok()??;
    if !descriptor.starts_with(b"Ljava/lang/String;") {
        return None;
    }
    body.string().ok()?
}

/// Goes over descriptor and arguments.
fn skip_arguments(body: &mut Body<'_>) -> Result<(), CallError> {
    let at = body.at();
    let Some(count) = body.string()?.and_then(count_arguments) else {
        return Err(CallError { reason: "a malformed parameter descriptor", at });
    };
    (0..count).try_for_each(|_| body.skip())
}

/// How many arguments a descriptor names; `None` when it is malformed (dubbo.md section 3).
fn count_arguments(descriptor: &[u8]) -> Option<usize> {
    let (mut rest, mut count) = (descriptor, 0);
    while let [kind, after @ ..] = rest {
        rest = match kind {
            b'[' => {
                // An array of something.
                if after.is_empty() {
                    return None;
                }
                rest = after;
                continue;
            }
            b'V' | b'Z' | b'B' | b'C' | b'D' | b'F' | b'I' | b'J' | b'S' => after,
            b'L' => &after[memchr::memchr(b';', after)? + 1..],
            _ => return None,
        };
        count += 1;
    }
    Some(count)
}

/// Goes over a result, up to its attachments, if it has some.
fn has_attachments(status: u16, body: &mut Body<'_>) -> Result<bool, EditError> {
    if status != u16::from(OK) {
        return Ok(false);
    }
    match body.integer().ok_or(EditError::Unreadable)? {
        EXCEPTION_WITH_ATTACHMENTS | VALUE_WITH_ATTACHMENTS => {
            body.skip().map_err(|_| EditError::Unreadable)?;
            Ok(true)
        }
        flag => Ok(flag == NULL_WITH_ATTACHMENTS),
    }
}

/// The status of a response with a result.
pub(super) const OK: u8 = 20;

/// What results begin with (dubbo.md section 4).
pub(super) const EXCEPTION: i64 = 0;
pub(super) const EXCEPTION_WITH_ATTACHMENTS: i64 = 3;
const VALUE_WITH_ATTACHMENTS: i64 = 4;
const NULL_WITH_ATTACHMENTS: i64 = 5;

/// What the version of a service without one is written as.
const NO_VERSION: &[u8] = b"0.0.0";

/// Marks an argument that the server calls back.
const CALLBACK: &[u8] = b"sys_callback_arg-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_counted_by_their_types() {
        for (descriptor, count) in [
            ("", Some(0)),
            ("I", Some(1)),
            ("VZBCDFIJS", Some(9)),
            ("Ljava/lang/String;", Some(1)),
            ("[I[[Lcom/foo/X;J", Some(3)),
            ("Lcom/foo/X;[Ljava/lang/String;ILjava/lang/Object;", Some(4)),
            ("Lcom/foo/X", None),
            ("L", None),
            ("[", None),
            ("I[", None),
            ("X", None),
            ("I;", None),
            (" ", None),
        ] {
            assert_eq!(count_arguments(descriptor.as_bytes()), count, "{descriptor:?}");
        }
    }
}
