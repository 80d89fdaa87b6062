use crate::{Files, Format, NoFiles, NoteKind, import};

pub(crate) const SITE: &str = "\
! site
global_defs {
    router_id LVS
}
vrrp_instance VI_1 {
    interface bond0
    authentication {
        auth_pass 1111
    }
}
virtual_server_group web {
    192.0.2.10-11 80
    2001:db8::10 80
    fwmark 3
}
virtual_server group web {
    delay_loop 60
    lb_algo sh
    lb_kind TUN
    persistence_timeout 50
    quorum 2
    sorry_server 10.0.0.9 80
    real_server 10.0.0.1 80 {
        weight 3
        inhibit_on_failure
        HTTP_GET {
            url {
                path /healthz
                status_code 200-299
                digest 1234
            }
            connect_port 8080
            connect_timeout 3
            retry 2
        }
    }
    real_server 10.0.0.2 80 {
        weight 3
        TCP_CHECK {
        }
    }
}
virtual_server 192.0.2.20 53 {
    protocol UDP
    lb_kind DR
    lb_algo wrr
    real_server 10.0.0.3 53 {
        DNS_CHECK {
            type A
            name host.example
        }
    }
    real_server dns.example 53 {
        MISC_CHECK {
            misc_path \"/bin/check\"
        }
    }
}
virtual_server fwmark 7 {
    real_server 10.0.0.4 0 {
    }
}
";

fn imported(text: &str) -> crate::Imported {
    let imported = import(Format::Keepalived, "keepalived.conf", text, &NoFiles).expect("readable");
    slb_config::parse("slb.toml", &imported.toml)
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.toml));
    imported
}

#[test]
fn virtual_servers_become_listeners() {
    let found = imported(SITE);
    let toml = &found.toml;
    assert_eq!(found.listeners, 2, "{toml}");
    for part in [
        "interfaces = [\"bond0\"]",
        "addresses = [\"192.0.2.10\", \"192.0.2.11\", \"2001:db8::10\"]",
        "primary = \"web-tcp-80\"\nsecondary = \"web-tcp-80-sorry\"\nfailover_threshold = 2",
        "mode = \"ipip\"",
        "scheduler = \"maglev-client\"",
        "session_persistence = \"50s\"",
        "method = \"GET\", path = \"/healthz\", expect = [\"2xx\"], port = 8080, interval = \"50s\", timeout = \"3s\"",
        "healthy_threshold = 1, unhealthy_threshold = 3",
        "tunnel_addresses = [",
        "kind = \"udp\", request = \"hex:534c",
        "# { address = \"dns.example\", port = 53 }, # FILL IN the address",
    ] {
        assert!(toml.contains(part), "{part}\n{toml}");
    }
    assert!(!toml.contains("1111"), "{toml}");
}

#[test]
fn lines_without_counterpart_are_noted() {
    let found = imported(SITE);
    let has = |line: usize, part: &str| {
        let mut notes = found.notes.iter().filter(|note| note.first_line <= line && line <= note.last_line);
        assert!(notes.any(|note| note.reason.contains(part)), "{line}: {part}\n{}", found.toml);
    };
    has(3, "keepalived itself");
    has(6, "VRRP");
    has(14, "firewall mark");
    has(17, "60s became 50s");
    has(25, "keeps its connections");
    has(30, "not its content");
    has(39, "one check");
    has(55, "scripts");
    has(61, "firewall mark");
    assert!(!found.notes.iter().any(|note| note.first_line <= 23 && 23 <= note.last_line));
}

#[test]
fn servers_in_dr_get_the_port_of_the_listener_and_any_port_is_kept() {
    let text = "virtual_server 192.0.2.1 80 {\n lb_kind DR\n lb_algo rr\n real_server 10.0.0.1 8080 {\n TCP_CHECK {\n }\n }\n}\n\
                virtual_server 192.0.2.2 0 {\n lb_kind DR\n persistence_timeout 10\n real_server 10.0.0.1 0 {\n TCP_CHECK {\n \
                connect_port 22\n }\n }\n}\n";
    let found = imported(text);
    assert!(found.toml.contains("port = 80 }"), "{}", found.toml);
    assert!(found.toml.contains("port = 8080, "), "{}", found.toml);
    assert!(found.toml.contains("port = \"any\"") && found.toml.contains("port = 22"), "{}", found.toml);
}

#[test]
fn backup_servers_and_local_addresses_of_forks_are_kept() {
    let text = "local_address_group l {\n 10.9.0.1-2 dpdk0\n}\nvirtual_server 192.0.2.1 80 {\n lb_kind FNAT\n laddr_group_name l\n \
                failover_threshold 50\n sorry_server 10.0.0.9 80\n real_server 10.0.0.1 80 {\n }\n real_server 10.0.0.2 80 {\n }\n \
                real_server 10.0.0.3 80 {\n }\n backup_real_server 10.0.1.1 80 {\n }\n}\n";
    let found = imported(text);
    for part in [
        "local_addresses = [\"10.9.0.1\", \"10.9.0.2\"]\n",
        "failover_threshold = 2",
        "address = \"10.0.1.1\"",
    ] {
        assert!(found.toml.contains(part), "{part}\n{}", found.toml);
    }
    assert!(found.notes.iter().any(|note| note.first_line == 8 && note.kind == NoteKind::LeftOut));
}

struct OneFile;

impl Files for OneFile {
    fn read(&self, from: &str, pattern: &str, _: crate::Budget) -> Result<Vec<(String, String)>, String> {
        assert_eq!(from, "keepalived.conf");
        match pattern {
            "more/*.conf" => Ok(vec![(
                "more/a.conf".to_owned(),
                "virtual_server 192.0.2.9 80 {\n ops\n real_server 10.0.0.1 80 {\n }\n}\n".to_owned(),
            )]),
            _ => Err("no such file".to_owned()),
        }
    }
}

#[test]
fn included_files_are_read_and_noted_by_their_names() {
    let found =
        import(Format::Keepalived, "keepalived.conf", "include more/*.conf\n", &OneFile).expect("readable");
    assert_eq!(found.listeners, 1);
    assert!(found.notes.iter().any(|note| note.file == "more/a.conf" && note.first_line == 2));
    assert!(found.notes.iter().any(|note| note.kind == NoteKind::LeftOut));
    let error = import(Format::Keepalived, "keepalived.conf", "\ninclude x\n", &OneFile).expect_err("absent");
    assert_eq!(error.line, 2);
    assert!(error.to_string().contains("no such file"), "{error}");
}

#[test]
fn faults_have_their_line() {
    for (text, line, part) in [
        ("virtual_server {\n}\n", 1, "no IP address"),
        ("\nvirtual_server 192.0.2.1 x {\n}\n", 2, "no port"),
        ("virtual_server group x {\n}\n", 1, "virtual_server_group x"),
        ("virtual_server_group x {\n web 80\n}\nvirtual_server group x {\n}\n", 2, "no IP address"),
    ] {
        let error = import(Format::Keepalived, "f", text, &NoFiles).expect_err(text);
        assert!(error.line == line && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn block_of_a_keyword_without_blocks_is_noted() {
    let text = "virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n TCP_CHECK {\n connect_port {\n 80\n }\n }\n }\n}\n";
    let found = imported(text);
    let notes = || found.notes.iter().filter(|note| note.first_line <= 5 && 5 <= note.last_line);
    assert!(notes().any(|note| note.reason == "this keyword has no block"), "{}", found.toml);
}

fn assert_note(found: &crate::Imported, line: usize, part: &str) {
    let here = found.notes.iter().filter(|note| note.first_line <= line && line <= note.last_line);
    let notes: Vec<&str> = here.map(|note| note.reason.as_str()).collect();
    assert!(notes.iter().any(|note| note.contains(part)), "{line}: {part}: {notes:?}\n{}", found.toml);
}

#[test]
fn times_of_retries_are_noted() {
    let text = "virtual_server 192.0.2.1 80 {\n delay_loop 6\n retry 3\n delay_before_retry 2\n real_server 10.0.0.1 80 {\n TCP_CHECK {\n }\n }\n}\n";
    let found = imported(text);
    assert!(found.toml.contains("unhealthy_threshold = 4"), "{}", found.toml);
    // After the first failure: 3 * 2 s, and 3 * 6 s.
    for line in [3, 4] {
        assert_note(&found, line, "6s after the first failure");
        assert_note(&found, line, "in SLB after 18s");
    }
    let text =
        "virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n TCP_CHECK {\n retry 2\n }\n }\n}\n";
    let found = imported(text);
    assert_note(&found, 4, "2s after the first failure");
    assert_note(&found, 4, "in SLB after 4s");
    let text = "virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n TCP_CHECK {\n }\n }\n}\n";
    assert!(imported(text).toml.contains("unhealthy_threshold = 2"), "{}", imported(text).toml);
}

#[test]
fn settings_of_a_server_without_check_are_noted() {
    let text = "virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n delay_loop 3\n retry 2\n }\n \
                real_server 10.0.0.2 80 {\n TCP_CHECK {\n }\n }\n}\n";
    let found = imported(text);
    assert_note(&found, 3, "without a check");
    assert_note(&found, 4, "without a check");
    let text = "virtual_server 192.0.2.1 80 {\n protocol UDP\n real_server 10.0.0.1 80 {\n UDP_CHECK {\n require_reply 01\n }\n }\n}\n";
    assert_note(&imported(text), 5, "payload");
}

#[test]
fn lines_that_others_replace_are_noted() {
    let text = "virtual_server 192.0.2.1 80 {\n lb_algo rr\n lb_algo wrr\n delay_loop 5\n real_server 10.0.0.1 80 {\n \
                HTTP_GET {\n url {\n path /a\n path /b\n status_code 200\n status_code 204\n }\n delay_loop 7\n }\n }\n}\n\
                virtual_server 192.0.2.1 53 {\n protocol UDP\n real_server 10.0.0.1 53 {\n DNS_CHECK {\n name a\n name b\n }\n }\n}\n";
    let found = imported(text);
    for (line, by) in [(2, "line 3"), (4, "replaces it"), (8, "line 9"), (10, "line 11"), (21, "line 22")] {
        assert_note(&found, line, by);
    }
    assert!(found.toml.contains("0162"), "the last name is asked for\n{}", found.toml);
}

#[test]
fn definitions_over_several_lines_are_replaced() {
    let text = "$PORT = 80\n$CHECK = \\\nTCP_CHECK { \\\n connect_port ${PORT} \\\n retry 4 \\\n}\n\
                virtual_server 192.0.2.1 80 {\n real_server 10.0.0.1 81 {\n $CHECK\n }\n}\n";
    let found = imported(text);
    assert!(
        found.toml.contains("port = 80") && found.toml.contains("unhealthy_threshold = 5"),
        "{}",
        found.toml
    );
    for (text, line) in [
        ("$A = \\\nx \\\ny\nvirtual_server $A 80 {\n}\n", 4),
        ("$A = \\\nx \\\n$A\nvirtual_server 192.0.2.1 80 {\n$A\n}\n", 5),
        ("\n$A = \\\nx \\\n", 2),
    ] {
        let error = import(Format::Keepalived, "f", text, &NoFiles).expect_err(text);
        assert!(error.line == line && error.to_string().contains("several lines"), "{error}");
    }
    let found = imported("virtual_server \\\n 192.0.2.1 80 {\n real_server 10.0.0.1 80 {\n }\n}\n");
    assert_eq!(found.listeners, 1);
}

#[test]
fn interfaces_of_addresses_are_taken_and_must_be_checked() {
    let text = "vrrp_instance a {\n interface eth0\n virtual_ipaddress {\n 192.0.2.1/24 dev eth1 label eth1:0\n 192.0.2.2\n }\n \
                virtual_ipaddress_excluded {\n 192.0.2.3 dev eth2\n }\n}\n";
    let found = imported(text);
    assert!(found.toml.contains("interfaces = [\"eth0\", \"eth1\", \"eth2\"] # FILL IN"), "{}", found.toml);
}

#[test]
fn comments_show_no_secret() {
    let text = "$KEY=geheim\nglobal_defs {\n router_id geheim\n}\nvirtual_server 192.0.2.1 80 {\n notify_up \"/x geheim\"\n \
                real_server 10.0.0.1 80 {\n MISC_CHECK {\n misc_path \"/x geheim\"\n }\n HTTP_GET { url { path /geheim }\n }\n }\n}\n";
    let found = imported(text);
    let lines: Vec<&str> = found.toml.lines().filter(|line| line.contains("geheim")).collect();
    assert!(lines.is_empty(), "{lines:?}");
}

struct Nothing;

impl Files for Nothing {
    fn read(&self, _: &str, _: &str, _: crate::Budget) -> Result<Vec<(String, String)>, String> {
        Ok(Vec::new())
    }
}

#[test]
fn include_that_matches_nothing_is_noted() {
    for (format, text) in [
        (Format::Keepalived, "include conf.d/*.conf\n"),
        (Format::Nginx, "stream { include conf.d/*.conf; }\n"),
    ] {
        let found = import(format, "f", text, &Nothing).expect("readable");
        assert_note(&found, 1, "no file here matches: import it on its host, or copy the files");
    }
}
