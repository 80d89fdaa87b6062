//! `nginx.conf`: servers and upstreams of its `stream` block.

use crate::{
    ImportError,
    ledger::Ledger,
    model::Model,
    source::Sources,
    tree::{Statement, leave_out_blocks, leave_out_replaced},
};

mod address;
mod lexer;
mod server;
mod service;
#[cfg(test)]
pub(crate) mod tests;
mod upstream;

use server::Settings;

/// Reads a file and those that it includes.
pub(crate) fn read(
    sources: &mut Sources<'_>,
    ledger: &mut Ledger,
    model: &mut Model,
) -> Result<(), ImportError> {
    let statements = lexer::read(sources, ledger)?;
    let is_main = statements.iter().any(|line| matches!(line.keyword(), "stream" | "http" | "events"));
    if !is_main {
        // A file that `stream` includes.
        return stream(sources, ledger, model, &statements);
    }
    for statement in &statements {
        match statement.keyword() {
            "stream" => {
                statement.use_frame(ledger);
                stream(sources, ledger, model, statement.statements())?;
            }
            "http" | "mail" => statement
                .leave_out(ledger, "it is not layer 4: SLB forwards connections and reads no requests"),
            _ => statement.leave_out(ledger, "settings of nginx's processes"),
        }
    }
    Ok(())
}

/// Reads the statements of a `stream` block.
fn stream(
    sources: &Sources<'_>,
    ledger: &mut Ledger,
    model: &mut Model,
    statements: &[Statement],
) -> Result<(), ImportError> {
    let mut settings = Settings::default();
    leave_out_replaced(ledger, statements, &server::ONCE);
    let (mut servers, mut upstreams) = (Vec::new(), Vec::new());
    for statement in statements {
        if matches!(statement.keyword(), "server" | "upstream") {
            leave_out_blocks(ledger, statement.statements(), |_| false);
        }
        match statement.keyword() {
            "server" if statement.block.is_some() => servers.push(statement),
            "upstream" => upstreams.push(upstream::read(sources, statement)?),
            "map" | "geo" | "split_clients" => {
                statement.leave_out(ledger, "SLB has no variables and does no content switching");
            }
            _ => settings.take(ledger, statement),
        }
    }
    let mut read = Vec::new();
    for statement in servers {
        read.push(server::read(sources, statement, settings.clone())?);
    }
    if let Some((_, at)) = settings.timeout
        && !read.iter().any(|server| server.settings.timeout.is_some_and(|(_, own)| own == at))
    {
        ledger.left_out(at, "each server sets its own");
    }
    service::build(ledger, model, &read, &upstreams);
    Ok(())
}
