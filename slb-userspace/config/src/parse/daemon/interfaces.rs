//! `interfaces` of `[daemon]`.

use std::collections::{BTreeMap, HashMap};

use slb_common::abi::MAX_INTERFACES;
use toml::Spanned;

use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    model::InterfaceRole,
    raw::{self, List, ScalarOr, Value},
    suggest::quoted,
};

/// A valid line, for messages.
pub(super) const EXAMPLE: &str = "interfaces = [\"eth0\"]";
const WITH_ROLE: &str = "{ name = \"eth1\", role = \"server\" }";

const ROLES: [(&str, InterfaceRole); 3] =
    [("client", InterfaceRole::Client), ("server", InterfaceRole::Server), ("both", InterfaceRole::Both)];

type Interfaces = Spanned<List<Spanned<ScalarOr<raw::RawInterface>>>>;

/// Checks the interfaces. Returns their names, and the roles other than `both`.
pub(super) fn build(
    checker: &mut Checker,
    list: Option<&Interfaces>,
    table: &Span,
) -> Option<(Vec<String>, BTreeMap<String, InterfaceRole>)> {
    let list = checker.required(list, "interfaces", table, EXAMPLE)?;
    let values = &list.as_ref().0;
    if values.is_empty() {
        checker.note(
            Diagnostic::error(list.span(), "`interfaces` is empty", "name at least one interface")
                .help(format!("for example `{EXAMPLE}`")),
        );
    }
    if values.len() > MAX_INTERFACES as usize {
        let message = format!("`interfaces` names {} interfaces", values.len());
        checker.note(
            Diagnostic::error(list.span(), message, format!("at most {MAX_INTERFACES}"))
                .help("use fewer interfaces, or divide them among several machines"),
        );
    }
    let mut seen = HashMap::new();
    let all: Vec<_> = values.iter().map(|value| interface(checker, value, &mut seen)).collect();
    let all = all.into_iter().collect::<Option<Vec<_>>>()?;
    if !all.is_empty() && all.iter().all(|(_, role)| *role == InterfaceRole::Server) {
        checker.note(
            Diagnostic::error(
                list.span(),
                "every interface has the role \"server\"",
                "packets of clients come in by none of them",
            )
            .help("give the interface towards clients the role \"client\" or \"both\""),
        );
    }
    let roles = all.iter().filter(|(_, role)| *role != InterfaceRole::Both).cloned().collect();
    Some((all.into_iter().map(|(name, _)| name).collect(), roles))
}

/// Parses a name in quotes, or a table.
fn interface(
    checker: &mut Checker,
    value: &Spanned<ScalarOr<raw::RawInterface>>,
    seen: &mut HashMap<String, Span>,
) -> Option<(String, InterfaceRole)> {
    match value.as_ref() {
        ScalarOr::Scalar(scalar) => {
            let value = Spanned::new(value.span(), scalar.clone());
            Some((interface_name(checker, &value, seen)?, InterfaceRole::Both))
        }
        ScalarOr::Table(table) => {
            let name = checker.required(table.name.as_ref(), "name", &value.span(), WITH_ROLE);
            let name = name.and_then(|name| interface_name(checker, name, seen));
            let role = table
                .role
                .as_ref()
                .map_or(Some(InterfaceRole::Both), |role| checker.choice("role", role, &ROLES));
            Some((name?, role?))
        }
    }
}

fn interface_name(checker: &mut Checker, value: &Value, seen: &mut HashMap<String, Span>) -> Option<String> {
    /// The kernel's IFNAMSIZ without the terminating zero.
    const MAX_NAME_BYTES: usize = 15;
    let name = checker.text("interfaces", value, "the name of an interface in quotes")?;
    let valid = (1..=MAX_NAME_BYTES).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control());
    if !valid {
        return checker.refuse(
            Diagnostic::error(
                value.span(),
                format!("{} cannot be the name of an interface", quoted(name)),
                "allowed: 1 to 15 bytes without `/`, `:` and spaces",
            )
            .help("`ip -br link` lists the interfaces of this machine"),
        );
    }
    checker.unique(seen, name.to_owned(), value.span(), &format!("interface {}", quoted(name)));
    Some(name.to_owned())
}
