//! `haproxy.cfg`: frontends, backends and `listen` sections of mode `tcp`.

use crate::{
    ImportError, excerpt,
    ledger::Ledger,
    model::Model,
    source::{Lines, Sources},
};

mod address;
mod check;
mod lexer;
mod proxy;
mod server;
mod service;
mod settings;
#[cfg(test)]
pub(crate) mod tests;

use lexer::Section;
use proxy::Proxy;
use settings::Settings;

/// A proxy section, the `defaults` section before it, and whether its mode is `tcp`.
struct Resolved<'s> {
    section: &'s Section,
    defaults: Option<usize>,
    mode: &'s str,
}

/// Reads a file.
pub(crate) fn read(sources: &Sources<'_>, ledger: &mut Ledger, model: &mut Model) -> Result<(), ImportError> {
    let sections = lexer::read(sources, ledger)?;
    for section in &sections {
        match section.keyword.as_str() {
            "defaults" | "frontend" | "backend" | "listen" => {}
            "global" => ledger.left_out(section.whole, "settings of HAProxy's process"),
            "resolvers" => ledger.left_out(section.whole, "SLB looks up no host names"),
            "peers" => {
                ledger.left_out(
                    section.whole,
                    "nodes of SLB share no tables: consistent hashing chooses alike on all",
                );
            }
            _ => ledger.left_out(section.whole, "layer 7, logs or programs: SLB has no such section"),
        }
    }
    let mut defaults: Vec<Option<(Settings, Ledger)>> = sections.iter().map(|_| None).collect();
    let mut proxies = Vec::new();
    for Resolved { section, defaults: number, mode } in resolve(&sections) {
        if mode != "tcp" {
            let reason =
                format!("mode `{mode}` is not layer 4: SLB forwards connections and reads no requests");
            ledger.left_out(section.whole, reason);
            continue;
        }
        let base = match number {
            None => Settings::default(),
            Some(number) => {
                let read = || settings_of_defaults(&sections[number], number);
                defaults[number].get_or_insert_with(read).0.clone()
            }
        };
        proxies.push(Proxy::read(sources, section, base)?);
    }
    let built = service::build(sources, ledger, model, &proxies)?;
    for (number, section) in sections.iter().enumerate().filter(|(_, section)| section.keyword == "defaults")
    {
        let is_heir = |proxy: &&&Proxy| proxy.settings.defaults == Some(number);
        let heirs: Vec<&Proxy> = built.sections.iter().filter(is_heir).copied().collect();
        match &defaults[number] {
            Some((settings, own)) if !heirs.is_empty() => {
                ledger.absorb(own);
                for at in settings.check.lines().filter(|at| !built.checks.contains(at)) {
                    ledger.left_out(at, service::UNUSED_CHECK);
                }
                leave_out_replaced(ledger, section, &heirs);
            }
            _ => ledger.left_out(section.whole, "no section of the result inherits it"),
        }
    }
    Ok(())
}

/// Leaves out lines of a `defaults` section that all sections with it replace.
fn leave_out_replaced(ledger: &mut Ledger, section: &Section, heirs: &[&Proxy]) {
    for line in section.lines.iter().filter(|line| line.keyword() != "mode") {
        let Some(name) = lexer::setting(line) else { continue };
        if !heirs.iter().any(|proxy| proxy.inherits(line, &name)) {
            ledger.left_out(line.at, "each section that could use it sets its own");
        }
    }
}

/// Reads a `defaults` section. Its ledger counts if a section of the result inherits it.
fn settings_of_defaults(section: &Section, number: usize) -> (Settings, Ledger) {
    let mut ledger = Ledger::default();
    ledger.used(section.head);
    let mut settings = Settings { defaults: Some(number), ..Settings::default() };
    lexer::leave_out_replaced(&mut ledger, &section.lines);
    for line in &section.lines {
        settings.take(&mut ledger, line);
    }
    (settings, ledger)
}

/// Finds the defaults and the mode of each proxy section.
fn resolve(sections: &[Section]) -> Vec<Resolved<'_>> {
    let mut found = Vec::new();
    let mut last = None;
    for (number, section) in sections.iter().enumerate() {
        match section.keyword.as_str() {
            "defaults" => last = Some(number),
            "frontend" | "backend" | "listen" => {
                let named = section.words.iter().position(|word| word == "from");
                let named = named.and_then(|at| section.words.get(at + 1)).and_then(|name| {
                    sections
                        .iter()
                        .position(|other| other.keyword == "defaults" && other.words.get(1) == Some(name))
                });
                let defaults = named.or(last);
                let inherited = defaults.and_then(|number| mode(&sections[number]));
                let mode = mode(section).or(inherited).unwrap_or("tcp");
                found.push(Resolved { section, defaults, mode });
            }
            _ => {}
        }
    }
    found
}

fn mode(section: &Section) -> Option<&str> {
    let line = section.lines.iter().rev().find(|line| line.keyword() == "mode")?;
    Some(line.word(1))
}

/// Leaves an option of a line out.
fn without(ledger: &mut Ledger, at: Lines, option: &str, reason: &str) {
    ledger.left_out(at, format!("{}: {reason}", excerpt::word(option)));
}
