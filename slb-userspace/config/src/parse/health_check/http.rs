//! Settings of HTTP and TLS checks.

use crate::{
    diagnostic::Diagnostic,
    field::{Checker, wrong_type},
    model::{CertificateCheck, ExpectedStatus, HttpCheck, HttpMethod, TlsCheck},
    raw::{self, Scalar, Value},
    suggest::quoted,
};

const METHODS: [(&str, HttpMethod); 2] = [("HEAD", HttpMethod::Head), ("GET", HttpMethod::Get)];
const MAX_PATH_BYTES: usize = 1_024;
const MAX_HOST_BYTES: usize = 255;

pub(super) fn build(checker: &mut Checker, raw: &raw::RawHealthCheck, tls: bool) -> Option<HttpCheck> {
    let method =
        raw.method.as_ref().map_or(Some(HttpMethod::Head), |value| checker.choice("method", value, &METHODS));
    let path = raw.path.as_ref().map_or(Some("/".to_owned()), |value| path(checker, value));
    let host = name(checker, raw);
    let expect =
        raw.expect.as_ref().map_or(Some(vec![ExpectedStatus::Class(2)]), |value| statuses(checker, value));
    let verify = verify(checker, raw);
    let tls = if tls { Some(verify?) } else { None };
    Some(HttpCheck { method: method?, path: path?, host: host?, expect: expect?, tls })
}

pub(super) fn tls(checker: &mut Checker, raw: &raw::RawHealthCheck) -> Option<TlsCheck> {
    let (host, verify) = (name(checker, raw), verify(checker, raw));
    Some(TlsCheck { host: host?, verify: verify? })
}

fn name(checker: &mut Checker, raw: &raw::RawHealthCheck) -> Option<Option<String>> {
    raw.host.as_ref().map_or(Some(None), |value| host(checker, value).map(Some))
}

fn verify(checker: &mut Checker, raw: &raw::RawHealthCheck) -> Option<CertificateCheck> {
    let verify = raw.verify.as_ref().map_or(Some(false), |value| checker.boolean("verify", value));
    verify.map(|verify| if verify { CertificateCheck::Verified } else { CertificateCheck::Any })
}

fn path(checker: &mut Checker, value: &Value) -> Option<String> {
    let text = checker.text("path", value, "a path such as \"/healthz\"")?;
    let problem = if !text.starts_with('/') {
        Some(format!("write \"/{}\"", text.trim_start()))
    } else if text.len() > MAX_PATH_BYTES {
        Some(format!("allowed: up to {MAX_PATH_BYTES} characters"))
    } else {
        // RFC 9112, section 3.2: a space or a line end would end the request target.
        let wrong = text.chars().find(|c| !c.is_ascii_graphic() || *c == '#');
        wrong.map(|c| {
            format!(
                "a path cannot contain {}: write it percent-encoded, as `%20` for a space",
                quoted(&c.to_string())
            )
        })
    };
    match problem {
        None => Some(text.to_owned()),
        Some(help) => checker.refuse(
            Diagnostic::error(
                value.span(),
                format!("{} is not a path", quoted(text)),
                "expected visible ASCII characters, the first of them `/`",
            )
            .help(help),
        ),
    }
}

fn host(checker: &mut Checker, value: &Value) -> Option<String> {
    let expected = "a name such as \"www.example.org\", or an address; a port may follow";
    let text = checker.text("host", value, expected)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if (1..=MAX_HOST_BYTES).contains(&text.len()) && text.chars().all(fits) {
        return Some(text.to_owned());
    }
    let message = format!("{} is not a host", quoted(text));
    checker.refuse(Diagnostic::error(value.span(), message, format!("expected {expected}")))
}

fn statuses(checker: &mut Checker, value: &Value) -> Option<Vec<ExpectedStatus>> {
    let Scalar::List(values) = value.as_ref() else { return Some(vec![status(checker, value)?]) };
    if values.is_empty() {
        return checker.refuse(
            Diagnostic::error(value.span(), "`expect` is empty", "name at least one status")
                .help("for example `expect = [\"2xx\", 301]`"),
        );
    }
    values.iter().map(|value| status(checker, value)).collect()
}

fn status(checker: &mut Checker, value: &Value) -> Option<ExpectedStatus> {
    match value.as_ref() {
        Scalar::Integer(_) => checker.integer("expect", value, 200..=599).map(ExpectedStatus::Code),
        Scalar::Text(text) => match text.as_bytes() {
            [class @ b'2'..=b'5', b'x', b'x'] => Some(ExpectedStatus::Class(class - b'0')),
            _ => {
                let message = format!("{} is not a class of statuses", quoted(text));
                let problem = Diagnostic::error(value.span(), message, "allowed: \"2xx\" to \"5xx\"");
                checker.refuse(match text.parse::<u16>() {
                    Ok(code) => problem.help(format!("one status is written without quotes: `{code}`")),
                    Err(_) => problem,
                })
            }
        },
        other => {
            let expected = "a status such as 204 or a class such as \"2xx\"";
            checker.refuse(wrong_type("expect", value, other, "a status", expected.to_owned()))
        }
    }
}
