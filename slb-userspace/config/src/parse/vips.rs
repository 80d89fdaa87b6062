//! The VIPs of all load balancers. Each belongs to one of them, and is no server's address and no local address.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    diagnostic::{Diagnostic, Span},
    field::Checker,
    raw::{self, Scalar, Value},
    suggest::quoted,
};

/// Which load balancer has which VIP, and the local addresses.
#[derive(Debug, Default)]
pub(super) struct Vips {
    declarations: HashMap<IpAddr, VipDeclaration>,
    locals: HashMap<IpAddr, Span>,
}

#[derive(Debug)]
struct VipDeclaration {
    span: Span,
    load_balancer: String,
}

/// Checks the addresses of all load balancers. Returns the index of VIPs, and the addresses of each load balancer in
/// file order.
pub(super) fn collect(
    checker: &mut Checker,
    tables: &[raw::RawTable<raw::RawLoadBalancer>],
    locals: HashMap<IpAddr, Span>,
) -> (Vips, Vec<Option<Vec<IpAddr>>>) {
    let mut vips = Vips { locals, ..Vips::default() };
    let addresses = tables.iter().map(|table| vips.add(checker, table)).collect();
    (vips, addresses)
}

impl Vips {
    /// Checks that a server's address is not a VIP or a local address: packets to it would return to SLB forever.
    pub(super) fn refuse_server(&self, checker: &mut Checker, address: IpAddr, value: &Value) {
        if let Some(owner) = self.declarations.get(&address) {
            let message = format!("server address `{address}` is a VIP");
            checker.note(
                Diagnostic::error(value.span(), message, "packets to this server would return to SLB")
                    .related(owner.span.clone(), format!("a VIP of load balancer {}", owner.load_balancer)),
            );
        }
        if let Some(local) = self.locals.get(&address) {
            let message = format!("server address `{address}` is a local address");
            checker.note(
                Diagnostic::error(value.span(), message, "packets to this server would return to SLB")
                    .related(local.clone(), "one of `local_addresses`")
                    .help("write the server's own address, or another local address"),
            );
        }
    }

    fn add(
        &mut self,
        checker: &mut Checker,
        table: &raw::RawTable<raw::RawLoadBalancer>,
    ) -> Option<Vec<IpAddr>> {
        let raw = &table.as_ref().0;
        let load_balancer = match raw.name.as_ref().map(toml::Spanned::as_ref) {
            Some(Scalar::Text(name)) => quoted(name),
            _ => "without a name".to_owned(),
        };
        let example = "addresses = [\"192.0.2.10\"]";
        let list = checker.required(raw.addresses.as_ref(), "addresses", &table.span(), example)?;
        if list.as_ref().0.is_empty() {
            return checker.refuse(
                Diagnostic::error(
                    list.span(),
                    "`addresses` is empty",
                    "name at least one virtual IP address",
                )
                .help(format!("for example `{example}`")),
            );
        }
        let mut addresses = Vec::new();
        for value in &list.as_ref().0 {
            let Some(address) = checker.address("addresses", value) else { continue };
            if let Some(owner) = self.declarations.get(&address) {
                let message = format!("VIP `{address}` appears twice");
                let first = format!("first here, in load balancer {}", owner.load_balancer);
                checker.note(
                    Diagnostic::error(value.span(), message, "a VIP belongs to one load balancer")
                        .related(owner.span.clone(), first),
                );
                continue;
            }
            if let Some(local) = self.locals.get(&address) {
                let message = format!("VIP `{address}` is a local address");
                let label = "packets of servers to it could not be told from packets of clients";
                checker.note(
                    Diagnostic::error(value.span(), message, label)
                        .related(local.clone(), "one of `local_addresses`")
                        .help("write another address into `local_addresses`"),
                );
            }
            let owner = VipDeclaration { span: value.span(), load_balancer: load_balancer.clone() };
            self.declarations.insert(address, owner);
            addresses.push(address);
        }
        Some(addresses)
    }
}
