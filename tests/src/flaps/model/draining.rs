//! Since when a server may have taken no new flows, and whether its drain deadline may have passed.

use std::time::Duration;

use super::{Model, ServerHistory, Span, states::ineligible};
use crate::client::{Interval, ListenerView};

/// Deadlines are in whole seconds.
const ROUNDED: Duration = Duration::from_secs(1);

impl Model {
    /// Whether a server may have taken no new flows for so long that its drain deadline has passed.
    pub(super) fn has_drained(
        &self,
        server: &str,
        view: ListenerView,
        during: Interval,
        drain: Duration,
    ) -> bool {
        let ends = |span: &Span| Span { from: span.from + drain - ROUNDED, ..*span };
        let is_one = |span: &Span| span.to.is_none_or(|to| to >= span.from);
        self.spans_without_new_flows(server, view)
            .iter()
            .map(ends)
            .any(|span| is_one(&span) && span.meets(during))
    }

    /// The times in which the server may have taken none. Adjacent reasons are joined into one span.
    fn spans_without_new_flows(&self, server: &str, view: ListenerView) -> Vec<Span> {
        let Some(record) = self.servers.get(server) else { return Vec::new() };
        let mut spans = self.reasons(record, view);
        spans.sort_by_key(|span| span.from);
        let mut joined: Vec<Span> = Vec::new();
        for span in spans {
            match joined.last_mut().filter(|last| last.to.is_none_or(|to| to >= span.from)) {
                Some(last) => last.to = last.to.zip(span.to).map(|(a, b)| a.max(b)),
                None => joined.push(span),
            }
        }
        joined
    }

    fn reasons(&self, record: &ServerHistory, view: ListenerView) -> Vec<Span> {
        let failures = record.failures.iter().map(ineligible);
        let removed = record.removed.iter().map(|span| self.until_healthy(span));
        let maybe_barred = record.maybe_barred.get(view.terms.pool).into_iter().flatten().copied();
        failures.chain(removed).chain(maybe_barred).collect()
    }
}
