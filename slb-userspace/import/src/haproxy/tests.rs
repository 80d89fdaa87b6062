use crate::{Format, NoFiles, NoteKind, import};

const SITE: &str = "\
global
    log 127.0.0.1 local0
defaults
    mode tcp
    option tcplog
    timeout connect 5s
    timeout client 1m
    timeout server 20m
    default-server inter 3s fall 2
frontend web
    bind 192.0.2.10:443
    bind [2001:db8::10]:443
    default_backend web
backend web
    balance source
    option httpchk GET /healthz HTTP/1.1\\r\\nHost:\\ web.example
    http-check expect status 200-299
    server a 10.0.0.1:8443 check weight 200 maxconn 100
    server b 10.0.0.2:8443 check weight 100
    server c [fd00::1]:8443 check backup port 9000
    server d web4.example:8443 check weight 100
frontend page
    mode http
    bind :80
    default_backend page
backend page
    mode http
    server a 10.0.0.1:80
listen mail
    bind *:25,*:587
    stick-table type ip size 1m expire 10m
    stick on src
    server a 10.0.0.9:2525 send-proxy
";

fn imported(text: &str) -> crate::Imported {
    let imported = import(Format::Haproxy, "haproxy.cfg", text, &NoFiles).expect("readable");
    slb_config::parse("slb.toml", &imported.toml)
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.toml));
    imported
}

#[test]
fn frontends_and_backends_become_listeners_and_groups() {
    let found = imported(SITE);
    let toml = &found.toml;
    assert_eq!(found.listeners, 3, "{toml}");
    for part in [
        "addresses = [\"192.0.2.10\"]",
        "mode = \"full-nat\"",
        "scheduler = \"maglev-client\"",
        "established_timeout = \"60s\"",
        "kind = \"http\", method = \"GET\", path = \"/healthz\", host = \"web.example\", expect = [\"2xx\"]",
        "interval = \"3s\", timeout = \"3s\", healthy_threshold = 2, unhealthy_threshold = 2",
        "{ address = \"10.0.0.1\", port = 8443, weight = 2 }",
        "# { address = \"web4.example\", port = 8443, weight = 1 }, # FILL IN the address",
        "name = \"mail-587\"",
        "session_persistence = \"600s\"",
        "health_check = { kind = \"none\" }",
        "# FILL IN the VIP",
    ] {
        assert!(toml.contains(part), "{part}\n{toml}");
    }
}

#[test]
fn lines_without_counterpart_are_noted() {
    let found = imported(SITE);
    let has = |line: usize, part: &str| {
        let mut notes = found.notes.iter().filter(|note| note.first_line <= line && line <= note.last_line);
        assert!(notes.any(|note| note.reason.contains(part)), "{line}: {part}\n{}", found.toml);
    };
    has(2, "process");
    has(5, "logs no connections");
    has(12, "no IPv6 servers");
    has(20, "no IPv4 servers");
    has(18, "maxconn");
    has(20, "one check");
    has(21, "host names");
    has(23, "mode `http`");
    has(33, "PROXY header");
}

#[test]
fn tls_and_choice_by_content_are_left_out() {
    let text = "defaults\n mode tcp\nfrontend a\n bind :443 ssl crt /x.pem\n default_backend s\n\
                frontend b\n bind :444\n use_backend s if { req.ssl_sni -i x }\n\
                frontend c\n bind :445\n default_backend e\n\
                backend s\n server a 10.0.0.1:1 check\nbackend e\n server a 10.0.0.1:2 ssl verify none\n";
    let found = imported(text);
    assert_eq!(found.listeners, 0, "{}", found.toml);
    assert!(found.notes.iter().all(|note| note.kind == NoteKind::LeftOut), "{}", found.toml);
    for line in 1..=15 {
        assert!(found.notes.iter().any(|note| note.first_line <= line && line <= note.last_line), "{line}");
    }
}

#[test]
fn small_ranges_to_one_port_become_single_listeners() {
    let text = "listen r\n bind 192.0.2.1:8000-8003\n server a 10.0.0.1:80\n\
                listen s\n bind 192.0.2.1:9000-9999\n server a 10.0.0.1:80\n\
                listen t\n bind 192.0.2.1:7000-7999\n server a 10.0.0.1 check\n";
    let found = imported(text);
    assert_eq!(found.listeners, 5, "{}", found.toml);
    assert!(found.toml.contains("port = \"7000-7999\""), "{}", found.toml);
    assert!(found.notes.iter().any(|note| note.first_line == 5 && note.reason.contains("16 at most")));
}

#[test]
fn faults_have_their_line() {
    for (text, line, part) in [
        ("bind :80\n", 1, "in no section"),
        ("listen\n", 1, "without a name"),
        ("listen a\n bind :80\n server x\n", 3, "`server NAME ADDRESS:PORT`"),
        ("frontend a\n bind :80\n default_backend b\n", 3, "no backend `b`"),
        ("listen a\n bind \":80\n", 2, "quote"),
    ] {
        let error = import(Format::Haproxy, "f", text, &NoFiles).expect_err(text);
        assert!(error.line == line && error.to_string().contains(part), "{error}");
    }
}
