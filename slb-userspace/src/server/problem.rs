//! Why a request was refused, as a problem document (RFC 9457).

use axum::{
    Json,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::requests::{RequestError, log_refused};
use slb_api::{
    problem::{FieldError, ProblemDocument},
    types::Requester,
};
use slb_config::ConfigError;

/// Media type of problem documents.
const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was refused. Nothing was changed.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<FieldError>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new() }
    }

    /// A value that does not fit the rest of the configuration, or breaks a rule. `field` names a place in the request,
    /// given the place in the document of the API.
    pub(super) fn of_config(error: &ConfigError, field: impl Fn(String) -> String) -> Self {
        let errors = match error {
            ConfigError::Invalid(report) => {
                report.with_api_keys().into_iter().map(|(diagnostic, key)| FieldError {
                    field: key.map(&field),
                    message: diagnostic.message().to_owned(),
                    advice: diagnostic.advice().to_owned(),
                })
            }
            _ => return Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        };
        let errors: Vec<_> = errors.collect();
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, detail: error.to_string(), errors }
    }

    pub(super) fn log(&self, what: &str, by: &Requester) {
        log_refused(what, by, &RequestError::Invalid(self.detail.clone()));
    }

    /// The answer of requests whose refusals are text.
    pub(super) fn into_text(self) -> (StatusCode, String) {
        (self.status, self.detail)
    }
}

impl From<RequestError> for Problem {
    fn from(refused: RequestError) -> Self {
        let status = match refused {
            RequestError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            RequestError::Conflict(_) => StatusCode::CONFLICT,
            RequestError::Stale => StatusCode::SERVICE_UNAVAILABLE,
            RequestError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refused.to_string())
    }
}

impl From<(StatusCode, String)> for Problem {
    fn from((status, text): (StatusCode, String)) -> Self {
        Self::new(status, text)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail, errors } = self;
        let document = ProblemDocument {
            title: status.canonical_reason().unwrap_or("refused").to_owned(),
            status: status.as_u16(),
            detail,
            errors,
        };
        (status, [(CONTENT_TYPE, PROBLEM_JSON)], Json(document)).into_response()
    }
}
