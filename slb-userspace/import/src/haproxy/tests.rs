use crate::{Format, NoFiles, NoteKind, import};

pub(crate) const SITE: &str = "\
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

/// Whether a note of this line has this part in its reason.
fn notes_of(found: &crate::Imported, line: usize) -> Vec<&str> {
    let here = found.notes.iter().filter(|note| note.first_line <= line && line <= note.last_line);
    here.map(|note| note.reason.as_str()).collect()
}

fn assert_note(found: &crate::Imported, line: usize, part: &str) {
    let notes = notes_of(found, line);
    assert!(notes.iter().any(|note| note.contains(part)), "{line}: {part}: {notes:?}\n{}", found.toml);
}

#[test]
fn unconditional_use_backend_comes_before_default_backend() {
    let backends = "backend b1\n server a 10.0.0.1:1\nbackend b2\n server a 10.0.0.2:1\n";
    for front in [
        "frontend f\n bind :80\n default_backend b2\n use_backend b1\n use_backend b2\n",
        "frontend f\n bind :80\n use_backend b1\n use_backend b2\n default_backend b2\n",
        "defaults\n default_backend b2\nfrontend f\n bind :80\n use_backend b1\n",
        "listen f\n bind :80\n use_backend b1\n server x 10.0.0.3:1\n",
    ] {
        let found = imported(&format!("{front}{backends}"));
        assert!(found.toml.contains("server_group = \"b1\""), "{front}\n{}", found.toml);
        assert!(!found.toml.contains("address = \"10.0.0.2\""), "{front}\n{}", found.toml);
    }
    let found = imported(&format!(
        "frontend f\n bind :80\n use_backend b1\n use_backend b2\n default_backend b2\n{backends}"
    ));
    assert_note(&found, 4, "line 3");
    assert_note(&found, 5, "line 3");
    let found = imported(&format!("listen f\n bind :80\n use_backend b1\n server x 10.0.0.3:1\n{backends}"));
    assert_note(&found, 4, "belongs to the backend");
}

#[test]
fn dynamic_use_backend_is_content_switching() {
    let text = "frontend f\n bind :80\n use_backend %[req.ssl_sni,lower]\n default_backend b\nbackend b\n server a 10.0.0.1:1\n\
                frontend g\n bind :81\n use_backend bk_%[src]\n";
    let found = imported(text);
    assert_eq!(found.listeners, 1, "{}", found.toml);
    assert_note(&found, 3, "content switching");
    assert_note(&found, 7, "content switching");
}

#[test]
fn disabled_sections_become_stopped_listeners() {
    for text in [
        "listen a\n bind :80\n disabled\n server a 10.0.0.1:1\n",
        "frontend a\n bind :80\n disabled\n default_backend b\nbackend b\n server a 10.0.0.1:1\n",
        "frontend a\n bind :80\n default_backend b\nbackend b\n disabled\n server a 10.0.0.1:1\n",
        "defaults\n disabled\nlisten a\n bind :80\n server a 10.0.0.1:1\n",
    ] {
        let found = imported(text);
        assert!(found.toml.contains("state = \"stopped\""), "{text}\n{}", found.toml);
    }
    let found = imported("defaults\n disabled\nlisten a\n bind :80\n enabled\n server a 10.0.0.1:1\n");
    assert!(!found.toml.contains("state = "), "{}", found.toml);
}

#[test]
fn no_option_resets_the_check() {
    for option in ["httpchk", "tcp-check", "ssl-hello-chk", "mysql-check"] {
        let text = format!(
            "defaults\n option httpchk GET /x\nlisten a\n bind :80\n no option {option}\n no option tcplog\n server a 10.0.0.1:1 check\n"
        );
        let found = imported(&text);
        assert!(found.toml.contains("kind = \"tcp\""), "{option}\n{}", found.toml);
        assert!(notes_of(&found, 5).is_empty(), "{}", found.toml);
        assert_note(&found, 6, "logs no connections");
    }
}

#[test]
fn unspecified_ipv6_address_accepts_ipv4_unless_v6only() {
    for (bind, vips) in [
        (":::25", 2),
        ("[::]:25", 2),
        ("ipv6@:25", 2),
        ("[::]:25 v4v6", 2),
        ("[::]:25 v6only", 1),
        ("*:25", 1),
    ] {
        let found = imported(&format!(
            "listen a\n bind {bind}\n server a 10.0.0.1:1 check\n server b [fd00::1]:1 check\n"
        ));
        let addresses = found.toml.lines().find(|line| line.starts_with("addresses")).expect("addresses");
        assert_eq!(addresses.matches('"').count(), 2 * vips, "{bind}: {addresses}");
        let is_noted = notes_of(&found, 2).iter().any(|note| note.contains("IPv4"));
        assert_eq!(is_noted, vips == 2 && !bind.contains("v4v6"), "{bind}\n{}", found.toml);
    }
}

#[test]
fn rules_about_clients_are_in_the_header() {
    const HEADER: &str = "# - `[[access_list]]`";
    let rules = |rule: &str| imported(&format!("listen a\n bind :80\n {rule}\n server a 10.0.0.1:1\n"));
    for rule in [
        "tcp-request connection reject if !{ src 10.0.0.0/8 }",
        "tcp-request connection silent-drop if { src 192.0.2.0/24 }",
        "tcp-request content reject unless { src 10.0.0.0/8 }",
        "http-request tarpit if { src 10.0.0.0/8 }",
        "http-request deny if { src 10.0.0.0/8 }",
        "tcp-request session reject",
    ] {
        let found = rules(rule);
        assert!(found.toml.contains(HEADER), "{rule}\n{}", found.toml);
        assert_note(&found, 3, "access_list");
    }
    for rule in [
        "tcp-request connection reject if { src_conn_rate gt 10 }",
        "tcp-request connection reject if { sc0_conn_rate gt 10 }",
        "acl abuse src_conn_rate gt 10\n tcp-request connection reject if abuse",
    ] {
        let found = rules(rule);
        assert!(!found.toml.contains(HEADER), "{rule}\n{}", found.toml);
        assert_note(&found, 3, "new_connections");
        assert_note(&found, 2 + rule.lines().count(), "new_connections");
    }
    assert!(!rules("tcp-request connection accept").toml.contains(HEADER));
    for text in [
        "listen a\n bind :80 accept-proxy\n server a 10.0.0.1:1\n",
        "listen a\n bind :80\n tcp-request connection expect-proxy layer4\n server a 10.0.0.1:1\n",
    ] {
        let found = imported(text);
        let header = found.toml.split("[daemon]").next().unwrap_or_default();
        assert!(header.contains("PROXY"), "{}", found.toml);
    }
}

#[test]
fn timeout_of_checks_is_timeout_check_or_the_interval() {
    for (settings, options, expected) in [
        ("timeout connect 5s", "check", "timeout = \"2s\""),
        ("timeout connect 1s", "check inter 10s", "timeout = \"10s\""),
        ("timeout check 7s", "check inter 3s", "timeout = \"7s\""),
        ("timeout check 100ms", "check", "timeout = \"1s\""),
        ("maxconn 9", "check inter 1", "timeout = \"1s\""),
    ] {
        let found = imported(&format!("listen a\n bind :80\n {settings}\n server a 10.0.0.1:1 {options}\n"));
        assert!(found.toml.contains(expected), "{settings} {options}: {expected}\n{}", found.toml);
    }
}

#[test]
fn source_of_servers_is_kept_or_its_loss_noted() {
    let transparent = "source 0.0.0.0 usesrc clientip";
    let listen = |a: &str, b: &str| {
        imported(&format!("listen a\n bind :80\n server a 10.0.0.1:1 {a}\n server b 10.0.0.2:1 {b}\n"))
    };
    let found = listen(transparent, transparent);
    assert!(!found.toml.contains("full-nat"), "{}", found.toml);
    assert_note(&found, 3, "mode `nat`");
    let found = listen(transparent, "");
    assert!(found.toml.contains("full-nat"), "{}", found.toml);
    assert_note(&found, 3, "the client's address");
    let found = listen("source 10.9.0.1:1024-65000", "");
    assert!(found.toml.contains("local_addresses = [\"10.9.0.1\"]\n"), "{}", found.toml);
    assert_note(&found, 3, "local_addresses");
}

#[test]
fn lines_without_effect_are_noted() {
    let text = "frontend f\n bind 192.0.2.1:80\n stick-table type ip size 1m expire 10m\n balance source\n default_backend b\n\
                backend b\n stick-table type ip size 1m expire 10m\n timeout client 5m\n timeout server 10m\n \
                option httpchk GET /x\n timeout check 3s\n server a 10.0.0.1:1\n";
    let found = imported(text);
    for line in [3, 4, 7, 8, 10, 11] {
        assert!(!notes_of(&found, line).is_empty(), "{line}\n{}", found.toml);
    }
    assert!(!found.toml.contains("session_persistence ="), "{}", found.toml);
}

#[test]
fn lines_that_others_replace_are_noted() {
    let text = "defaults\n balance leastconn\n timeout client 3m\n timeout server 2m\nfrontend f\n bind 192.0.2.1:80\n \
                timeout client 1m\n default_backend b\nbackend b\n balance roundrobin\n option httpchk GET /a\n option \
                httpchk GET /b\n http-check expect status 200\n http-check expect status 204\n timeout server 1m\n \
                timeout server 5m\n server a 10.0.0.1:80 check\n";
    let found = imported(text);
    for line in [2, 3, 4] {
        assert_note(&found, line, "sets its own");
    }
    for (line, by) in [(11, 12), (13, 14), (15, 16)] {
        assert_note(&found, line, &format!("line {by}"));
    }
}

#[test]
fn backup_group_of_the_same_servers_is_noted() {
    let text = "listen a\n bind 192.0.2.1:80\n server a 10.0.0.1:80\n server b 10.0.0.1:80 backup\n";
    let found = imported(text);
    assert!(!found.toml.contains("secondary ="), "{}", found.toml);
    assert_note(&found, 4, "same");
}

#[test]
fn comments_show_no_secret() {
    let text = "global\n stats socket /x\nuserlist u\n user joe insecure-password geheim\nlisten a\n bind :80 # geheim\n \
                http-request set-header X-Key geheim\n tcp-check send geheim\n option mysql-check user geheim\n \
                set-geheimgeheimgeheimgeheimgeheimgeheim 1\n geheim:geheim\n geheim=geheim\n capture geheim\n \
                server a 10.0.0.1:1 check agent-check agent-send geheim proto geheim cookie geheim\n \
                server b 10.0.0.2:1 check password=geheim\n";
    let found = imported(text);
    let lines: Vec<&str> = found.toml.lines().filter(|line| line.contains("geheim")).collect();
    assert!(lines.is_empty(), "{lines:?}");
}
