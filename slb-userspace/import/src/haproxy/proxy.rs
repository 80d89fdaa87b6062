//! A `frontend`, `backend` or `listen` section of mode `tcp`.

use super::{
    address,
    lexer::{Line, Section},
    server::ServerOptions,
    settings::Settings,
    without,
};
use crate::{
    ImportError,
    ledger::Ledger,
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
    pub(super) name: String,
    pub(super) whole: Lines,
    pub(super) head: Lines,
    pub(super) settings: Settings,
    pub(super) binds: Vec<(Vip, Ports, Lines)>,
    pub(super) servers: Vec<ProxyServer>,
    /// What to say of lines, if the section is part of the result.
    pub(super) ledger: Ledger,
    /// Whether it has a rule that chooses a backend by content.
    pub(super) chooses_by_content: bool,
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
            name: name.clone(),
            whole: section.whole,
            head: section.head,
            settings: base,
            binds: Vec::new(),
            servers: Vec::new(),
            ledger: Ledger::default(),
            chooses_by_content: false,
            interfaces: Vec::new(),
        };
        proxy.ledger.used(section.head);
        // The address stood behind the name, before `bind`.
        if let Some(address) = section.words.get(2).filter(|word| *word != "from")
            && section.keyword != "backend"
        {
            proxy.bind(section.head, address, section.words.get(3..).unwrap_or_default());
        }
        let (early, late): (Vec<_>, Vec<_>) =
            section.lines.iter().partition(|line| !matches!(line.keyword(), "server" | "http-check"));
        // A server has the defaults and checks of the whole section.
        for line in early.into_iter().chain(late) {
            proxy.line(sources, line)?;
        }
        Ok(proxy)
    }

    fn line(&mut self, sources: &Sources<'_>, line: &Line) -> Result<(), ImportError> {
        match line.keyword() {
            "bind" => self.bind(line.at, line.word(1), line.from(2)),
            "server" => self.server(sources, line)?,
            "server-template" => {
                self.ledger.left_out(line.at, "its servers are host names, which SLB does not look up");
            }
            "use_backend" if line.words.len() == 2 => {
                self.ledger.used(line.at);
                self.settings.backend.get_or_insert_with(|| (line.word(1).to_owned(), line.at));
            }
            "use_backend" => {
                self.chooses_by_content = true;
                let reason = "SLB does not choose by content: all connections go to the default backend. Write a VIP or a \
                              port for each";
                self.ledger.left_out(line.at, reason);
            }
            _ => self.settings.take(&mut self.ledger, line),
        }
        Ok(())
    }

    fn bind(&mut self, at: Lines, address: &str, options: &[String]) {
        let has = |name: &str| options.iter().any(|word| word == name);
        if has("ssl") {
            return self.ledger.left_out(at, "HAProxy ends TLS here; SLB forwards TLS to servers as it is");
        }
        match address::bind(address, has("v4v6")) {
            Ok(found) => {
                self.ledger.used(at);
                self.binds.extend(found.into_iter().map(|(vip, ports)| (vip, ports, at)));
            }
            Err(why) => return self.ledger.left_out(at, why),
        }
        let mut words = options.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "v4v6" | "v6only" | "transparent" | "defer-accept" | "tfo" => {}
                "interface" => self.interfaces.extend(words.next().map(str::to_owned)),
                "accept-proxy" => without(
                    &mut self.ledger,
                    at,
                    word,
                    "SLB passes a PROXY header on to the server, and sees the proxy before it as client",
                ),
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
