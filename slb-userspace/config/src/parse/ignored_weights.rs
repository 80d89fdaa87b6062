//! Weights and `slow_start` of groups that scheduler `rr` ignores.

use std::collections::HashMap;

use super::scheduling::ignores_weights;
use crate::{
    diagnostic::{Diagnostic, Span},
    field::{Checker, OFF},
    model::Weight,
    raw::{self, Scalar, Value},
};

/// The listeners of a group.
#[derive(Debug, Default)]
struct GroupSchedulers {
    /// Position of the first `rr`.
    unweighted: Option<Span>,
    /// Whether a listener uses weights.
    is_weighted: bool,
}

/// Warns of groups whose `slow_start` or weights have no effect.
pub(super) fn warn(checker: &mut Checker, document: &raw::RawDocument) {
    let mut groups: HashMap<&str, GroupSchedulers> = HashMap::new();
    for table in &document.load_balancer.0 {
        let balancer = &table.as_ref().0;
        let mut of_default = GroupSchedulers::default();
        for listener in &balancer.listener.0 {
            let listener = &listener.as_ref().0;
            for name in [&listener.server_group, &listener.primary, &listener.secondary] {
                if let Some(Scalar::Text(name)) = name.as_ref().map(Value::as_ref) {
                    groups.entry(name).or_default().note(listener);
                }
            }
            if listener.default_group_port.is_some() {
                of_default.note(listener);
            }
        }
        let weights = balancer.server.0.iter().map(|server| server.as_ref().0.weight.as_ref());
        of_default.warn(checker, balancer.slow_start.as_ref(), weights);
    }
    for table in &document.server_group.0 {
        let group = &table.as_ref().0;
        if let Some(Scalar::Text(name)) = group.name.as_ref().map(Value::as_ref)
            && let Some(listeners) = groups.get(name.as_str())
        {
            let weights = group.servers.0.iter().map(|server| server.as_ref().0.weight.as_ref());
            listeners.warn(checker, group.slow_start.as_ref(), weights);
        }
    }
}

impl GroupSchedulers {
    fn note(&mut self, listener: &raw::RawListener) {
        match &listener.scheduler {
            Some(value) if ignores_weights(value) => {
                self.unweighted.get_or_insert(value.span());
            }
            _ => self.is_weighted = true,
        }
    }

    /// Warns of a group's settings that these listeners ignore.
    fn warn<'a>(
        &self,
        checker: &mut Checker,
        slow_start: Option<&Value>,
        weights: impl Iterator<Item = Option<&'a Value>>,
    ) {
        let Some(unweighted) = &self.unweighted else { return };
        let mut note = |value: &Value, message: &str, label: &str, instead: &str| {
            checker.note(
                Diagnostic::warning(value.span(), message, label)
                    .related(unweighted.clone(), "each server in turn gets one new flow")
                    .help(format!("write `scheduler = \"wrr\"`, or {instead}")),
            );
        };
        if let Some(value) = slow_start.filter(|value| *value.as_ref() != Scalar::Text(OFF.to_owned())) {
            note(
                value,
                "`slow_start` has no effect where the scheduler is `rr`",
                "servers get their whole share at once",
                "remove `slow_start`",
            );
        }
        // If another listener uses weights, they are meant for that one.
        if let (false, Some(value)) = (self.is_weighted, unequal(weights)) {
            note(
                value,
                "weights have no effect where the scheduler is `rr`",
                "all servers get the same share, but those of weight 0",
                "remove the weights above 0",
            );
        }
    }
}

/// The value of a weight above 0 that differs from another server's.
fn unequal<'a>(weights: impl Iterator<Item = Option<&'a Value>>) -> Option<&'a Value> {
    let number = |value: Option<&Value>| match value.map(Value::as_ref) {
        Some(Scalar::Integer(weight)) => *weight,
        _ => i128::from(Weight::MAX),
    };
    let mut above_zero = weights.filter(|value| number(*value) != 0);
    let first = above_zero.next()?;
    let other = above_zero.find(|value| number(*value) != number(first))?;
    // At most one of two different weights is the default.
    other.or(first)
}
