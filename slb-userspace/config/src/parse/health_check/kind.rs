//! Kinds of health checks: their names, defaults and settings.

use std::time::Duration;

use crate::{
    diagnostic::Diagnostic,
    field::Checker,
    raw::{self, Value},
};

/// A kind of health check, as in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KindWord {
    Tcp,
    Http,
    Https,
    Tls,
    Udp,
    Icmp,
    None,
}

/// A setting of some kinds: its name, its value, and the kinds that have it.
type Special<'a> = (&'static str, &'a Option<Value>, &'static [KindWord]);

impl KindWord {
    pub(super) const WORDS: [(&'static str, Self); 7] = [
        ("tcp", Self::Tcp),
        ("http", Self::Http),
        ("https", Self::Https),
        ("tls", Self::Tls),
        ("udp", Self::Udp),
        ("icmp", Self::Icmp),
        ("none", Self::None),
    ];

    /// The default interval and timeout. They are longer for UDP, where silence may be the answer.
    pub(super) fn timing(self) -> (Duration, Duration) {
        match self {
            Self::Udp => (Duration::from_secs(5), Duration::from_secs(10)),
            _ => (Duration::from_secs(2), Duration::from_secs(5)),
        }
    }

    /// Refuses settings that this kind does not have. Returns `None` if there are any.
    pub(super) fn refuse_others(self, checker: &mut Checker, raw: &raw::RawHealthCheck) -> Option<()> {
        let special: [Special<'_>; 7] = [
            ("port", &raw.port, &[Self::Tcp, Self::Http, Self::Https, Self::Tls, Self::Udp, Self::None]),
            ("method", &raw.method, &[Self::Http, Self::Https]),
            ("path", &raw.path, &[Self::Http, Self::Https]),
            ("host", &raw.host, &[Self::Http, Self::Https, Self::Tls]),
            ("verify", &raw.verify, &[Self::Https, Self::Tls]),
            ("request", &raw.request, &[Self::Udp]),
            ("expect", &raw.expect, &[Self::Http, Self::Https, Self::Udp]),
        ];
        let mut fits = Some(());
        for (key, value, kinds) in special {
            if let Some(value) = value
                && !kinds.contains(&self)
            {
                let with: Vec<_> = kinds.iter().map(|kind| format!("\"{}\"", kind.word())).collect();
                let message = format!("`{key}` has no meaning in a health check of kind `{}`", self.word());
                let label = format!("for checks of kind {}", with.join(", "));
                fits = checker.refuse(Diagnostic::error(value.span(), message, label).help("remove it"));
            }
        }
        fits
    }

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, known)| *known == self).map_or("", |(word, _)| word)
    }
}
