//! A `frontend`, `backend` or `listen` section of mode `tcp`.

use std::collections::BTreeSet;

use super::{
    address,
    lexer::{Line, Section, is_check, leave_out_replaced, setting},
    server::ServerOptions,
    settings::Settings,
    without,
};
use crate::{
    ImportError,
    ledger::{Ledger, PROXY},
    model::{Ports, Vip},
    source::{Lines, Sources},
};

/// A server line.
#[derive(Debug, Clone)]
pub(super) struct ProxyServer {
    pub(super) at: Lines,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) options: ServerOptions,
}

/// A section with all that it has.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) keyword: String,
    /// Whether all connections of a `listen` section go to a backend, as those of a frontend do.
    is_only_front: bool,
    /// What its own lines set.
    own: BTreeSet<String>,
    pub(super) name: String,
    pub(super) whole: Lines,
    pub(super) settings: Settings,
    pub(super) binds: Vec<(Vip, Ports, Lines)>,
    pub(super) servers: Vec<ProxyServer>,
    /// What to say of lines, if the section is part of the result.
    pub(super) ledger: Ledger,
    /// Whether it has a rule that chooses a backend by content.
    pub(super) switches_by_content: bool,
    /// The backend of the first `use_backend` without a condition. It comes before the default one.
    pub(super) use_backend: Option<(String, Lines)>,
    pub(super) interfaces: Vec<String>,
}

impl Proxy {
    /// Reads a section. `base` are the settings of its `defaults`.
    pub(super) fn read(
        sources: &Sources<'_>,
        section: &Section,
        base: Settings,
    ) -> Result<Self, ImportError> {
        let Some(name) = section.words.get(1) else {
            let found = format!("`{}` without a name", section.keyword);
            return Err(sources.error(section.head, found, "a name after the keyword"));
        };
        let mut proxy = Self {
            keyword: section.keyword.clone(),
            own: section.lines.iter().filter_map(setting).collect(),
            is_only_front: base.backend.is_some() || section.lines.iter().any(names_backend),
            name: name.clone(),
            whole: section.whole,
            settings: base,
            binds: Vec::new(),
            servers: Vec::new(),
            ledger: Ledger::default(),
            switches_by_content: false,
            use_backend: None,
            interfaces: Vec::new(),
        };
        proxy.ledger.used(section.head);
        // The address stood behind the name, before `bind`.
        if let Some(address) = section.words.get(2).filter(|word| *word != "from")
            && section.keyword != "backend"
        {
            proxy.bind(section.head, address, section.words.get(3..).unwrap_or_default());
        }
        leave_out_replaced(&mut proxy.ledger, &section.lines);
        let (early, late): (Vec<_>, Vec<_>) =
            section.lines.iter().partition(|line| !matches!(line.keyword(), "server" | "http-check"));
        // A server has the defaults and checks of the whole section.
        for line in early.into_iter().chain(late) {
            proxy.line(sources, line)?;
        }
        if let (Some((_, first)), Some((_, default))) = (&proxy.use_backend, &proxy.settings.backend)
            && proxy.whole.contains(default.file, default.first)
        {
            proxy.ledger.left_out(*default, format!("`use_backend` in line {} comes first", first.first));
        }
        Ok(proxy)
    }

    fn line(&mut self, sources: &Sources<'_>, line: &Line) -> Result<(), ImportError> {
        if let Some(reason) = without_effect(self.role(), line) {
            self.ledger.left_out(line.at, reason);
            return Ok(());
        }
        match line.keyword() {
            "bind" => self.bind(line.at, line.word(1), line.from(2)),
            "server" => self.server(sources, line)?,
            "server-template" => {
                self.ledger.left_out(line.at, "its servers are host names, which SLB does not look up");
            }
            "use_backend" => self.use_backend(line),
            _ => self.settings.take(&mut self.ledger, line),
        }
        Ok(())
    }

    fn role(&self) -> &str {
        match self.keyword.as_str() {
            "listen" if self.is_only_front => "frontend",
            section => section,
        }
    }

    /// Whether it takes what a line of its `defaults` sets.
    pub(super) fn inherits(&self, line: &Line, name: &str) -> bool {
        !self.own.contains(name) && without_effect(self.role(), line).is_none()
    }

    fn use_backend(&mut self, line: &Line) {
        if let Some((_, first)) = &self.use_backend {
            let reason = format!("`use_backend` in line {} takes all connections before it", first.first);
            self.ledger.left_out(line.at, reason);
        } else if names_backend(line) {
            self.ledger.used(line.at);
            self.use_backend = Some((line.word(1).to_owned(), line.at));
        } else {
            self.switches_by_content = true;
            let reason = "content switching, which SLB does not do: all connections go to the default backend. Write a VIP \
                          or a port for each";
            self.ledger.left_out(line.at, reason);
        }
    }

    fn bind(&mut self, at: Lines, address: &str, options: &[String]) {
        let has = |name: &str| options.iter().any(|word| word == name);
        if has("ssl") {
            return self
                .ledger
                .left_out(at, "HAProxy terminates TLS here; SLB forwards TLS to servers as it is");
        }
        match address::bind(address, has("v6only")) {
            Ok(found) => {
                self.ledger.used(at);
                let has_any = |vip: Vip| found.iter().any(|(other, _)| *other == vip);
                if has_any(Vip::AnyV6) && has_any(Vip::AnyV4) && !has("v4v6") {
                    let reason = "Linux accepts IPv4 connections at `::`, too, unless `v6only` or `bindv6only` is set: \
                                  the listener has VIPs of both families";
                    self.ledger.changed(at, reason);
                }
                self.binds.extend(found.into_iter().map(|(vip, ports)| (vip, ports, at)));
            }
            Err(why) => return self.ledger.left_out(at, why),
        }
        let mut words = options.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "v4v6" | "v6only" | "transparent" | "defer-accept" | "tfo" => {}
                "interface" => self.interfaces.extend(words.next().map(str::to_owned)),
                "accept-proxy" => without(&mut self.ledger, at, word, PROXY),
                "name" | "id" | "process" | "thread" | "maxconn" | "backlog" | "nice" | "mss" | "shards"
                | "user" | "group" | "mode" | "uid" | "gid" | "tcp-ut" | "namespace" | "level" => {
                    words.next();
                    without(&mut self.ledger, at, word, "it is for sockets, and SLB opens none");
                }
                _ => without(&mut self.ledger, at, word, "SLB has no such option"),
            }
        }
    }

    fn server(&mut self, sources: &Sources<'_>, line: &Line) -> Result<(), ImportError> {
        if line.words.len() < 3 {
            return Err(sources.error(
                line.at,
                "a server without name or address",
                "`server NAME ADDRESS:PORT`",
            ));
        }
        let (host, port) = match address::server(line.word(2)) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                self.ledger.left_out(line.at, why);
                return Ok(());
            }
        };
        let mut options = self.settings.default_server.clone();
        options.take(&mut self.ledger, line.at, line.from(3));
        self.servers.push(ProxyServer { at: line.at, host, port, options });
        Ok(())
    }
}

/// Whether all connections go to the backend of this line, at least if no other one is before it.
fn names_backend(line: &Line) -> bool {
    line.keyword() == "default_backend"
        || line.keyword() == "use_backend" && line.words.len() == 2 && !line.word(1).contains('%')
}

/// Why a line has no effect in a section of this kind.
fn without_effect(section: &str, line: &Line) -> Option<&'static str> {
    match (section, line.keyword(), line.word(1)) {
        ("frontend", "stick-table", _) => {
            Some("the table of a frontend counts only: session persistence is that of the backend")
        }
        (
            "frontend",
            "balance" | "hash-type" | "stick" | "default-server" | "server" | "server-template" | "source"
            | "http-check" | "tcp-check",
            _,
        )
        | ("frontend", "timeout", "server" | "connect" | "check")
        | ("frontend", "option", "allbackups") => {
            Some("a frontend does not use it: it belongs to the backend")
        }
        ("frontend", "option", option) if is_check(option) => {
            Some("a frontend does not use it: it belongs to the backend")
        }
        ("backend", "bind" | "default_backend" | "use_backend", _) | ("backend", "timeout", "client") => {
            Some("a backend does not use it: it belongs to the frontend")
        }
        _ => None,
    }
}
