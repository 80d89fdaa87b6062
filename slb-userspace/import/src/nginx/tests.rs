use crate::{Format, NoFiles, NoteKind, import};

pub(crate) const SITE: &str = "\
worker_processes auto;
events {
    worker_connections 1024;
}
http {
    server { listen 80; }
}
stream {
    log_format basic '$remote_addr';
    proxy_timeout 20m;
    map $ssl_preread_server_name $name {
        default web;
    }
    upstream web {
        hash $remote_addr consistent;
        zone web 64k;
        server 10.0.0.1:8443 weight=5 max_fails=3 fail_timeout=30s;
        server 10.0.0.2:8443 max_fails=3 fail_timeout=30s max_conns=10;
        server [fd00::1]:8443 backup;
        server web3.example:8443;
        server unix:/run/web.sock;
    }
    upstream dns {
        server 10.0.0.3:53;
        server 10.0.0.4:53 down;
    }
    server {
        listen 192.0.2.10:443;
        listen [2001:db8::10]:443 reuseport;
        proxy_pass web;
        proxy_bind 10.0.0.5;
        allow 192.0.2.0/24;
    }
    server {
        listen 53 udp;
        listen 53;
        proxy_pass dns;
        proxy_responses 1;
    }
    server {
        listen 8443;
        proxy_pass $name;
        ssl_preread on;
    }
    server {
        listen 9443 ssl;
        proxy_pass web;
    }
    server {
        listen 9000;
        proxy_pass 10.0.0.9:9000;
        health_check interval=10 passes=2 fails=20;
    }
}
";

fn imported(text: &str) -> crate::Imported {
    let imported = import(Format::Nginx, "nginx.conf", text, &NoFiles).expect("readable");
    slb_config::parse("slb.toml", &imported.toml)
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.toml));
    imported
}

#[test]
fn servers_and_upstreams_become_listeners_and_groups() {
    let found = imported(SITE);
    let toml = &found.toml;
    assert_eq!(found.listeners, 4, "{toml}");
    for part in [
        "addresses = [\"192.0.2.10\"]",
        "scheduler = \"maglev-client\"",
        "scheduler = \"wrr\"",
        "established_timeout = \"900s\"",
        "local_addresses = [\"10.0.0.5\"]",
        "passive = { failures = 3, within = \"30s\" }",
        "{ address = \"10.0.0.1\", port = 8443, weight = 5 }",
        "{ address = \"10.0.0.4\", port = 53, weight = 0 }",
        "# { address = \"web3.example\", port = 8443, weight = 1 }, # FILL IN the address",
        "interval = \"10s\", healthy_threshold = 2, unhealthy_threshold = 10",
        "protocol = \"udp\"",
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
    has(1, "processes");
    has(6, "layer 4");
    has(9, "logs no connections");
    has(10, "1200s became 900s");
    has(12, "variables");
    has(18, "max_conns");
    has(19, "no IPv4 servers");
    has(20, "host names");
    has(29, "no IPv6 servers");
    has(21, "socket");
    has(32, "access_list");
    assert!(found.toml.contains("# - `[[access_list]]`"), "{}", found.toml);
    has(38, "90 s");
    has(42, "variable");
    has(46, "it has no address");
    has(52, "20 became 10");
}

#[test]
fn file_of_a_stream_block_is_read_alone() {
    let found = imported("upstream a { server 10.0.0.1:1; }\nserver { listen 192.0.2.1:1; proxy_pass a; }\n");
    assert_eq!(found.listeners, 1);
    let found = imported("server { listen 80; location / { root /x; } }\n");
    assert_eq!(found.listeners, 0);
    assert!(found.notes.iter().any(|note| note.kind == NoteKind::LeftOut && note.first_line == 1));
}

#[test]
fn transparent_proxies_are_mode_nat() {
    let found = imported(
        "stream { server { listen 192.0.2.1:1; proxy_bind $remote_addr transparent; proxy_pass 10.0.0.1:1; } }\n",
    );
    assert!(!found.toml.contains("full-nat"), "{}", found.toml);
    assert!(found.toml.contains("route their answers"), "{}", found.toml);
}

fn assert_note(found: &crate::Imported, line: usize, part: &str) {
    let here = found.notes.iter().filter(|note| note.first_line <= line && line <= note.last_line);
    let notes: Vec<&str> = here.map(|note| note.reason.as_str()).collect();
    assert!(notes.iter().any(|note| note.contains(part)), "{line}: {part}: {notes:?}\n{}", found.toml);
}

#[test]
fn off_undoes_what_a_server_inherits() {
    let server = "listen 192.0.2.1:1;\nproxy_pass 10.0.0.1:1;\n";
    let found = imported(&format!("stream {{\nproxy_ssl on;\nserver {{\n{server}proxy_ssl off;\n}}\n}}\n"));
    assert_eq!(found.listeners, 1, "{}", found.toml);
    for bind in ["$remote_addr transparent", "10.9.0.1"] {
        let text = format!("stream {{\nproxy_bind {bind};\nserver {{\n{server}proxy_bind off;\n}}\n}}\n");
        let found = imported(&text);
        assert!(found.toml.contains("full-nat"), "{}", found.toml);
        assert!(!found.toml.contains("local_addresses = [\"10.9.0.1\"]"), "{}", found.toml);
    }
    let text = format!(
        "stream {{\nproxy_bind $remote_addr transparent;\nserver {{\n{server}proxy_bind 10.9.0.1;\n}}\n}}\n"
    );
    assert!(imported(&text).toml.contains("full-nat"));
}

#[test]
fn lines_that_others_replace_are_noted() {
    let text = "stream {\nproxy_timeout 1m;\nproxy_timeout 2m;\nupstream a {\nleast_conn;\nhash $remote_addr;\nserver \
                10.0.0.1:1;\n}\nserver {\nlisten 192.0.2.1:1;\nproxy_pass a;\nproxy_timeout 3m;\nproxy_timeout 4m;\n}\n}\n";
    let found = imported(text);
    for (line, by) in [(2, "line 3"), (3, "sets its own"), (5, "line 6"), (12, "line 13")] {
        assert_note(&found, line, by);
    }
}

#[test]
fn timeout_of_udp_is_noted() {
    let text =
        "stream {\nserver {\nlisten 192.0.2.1:53 udp;\nproxy_pass 10.0.0.1:53;\nproxy_timeout 20s;\n}\n}\n";
    assert_note(&imported(text), 5, "90 s");
}

#[test]
fn comments_show_no_secret() {
    let text = "env KEY=geheim;\nstream {\nset $key geheim;\njs_set $x geheim;\nserver { listen 81 ssl; ssl_password_file geheim; }\n\
                server {\nlisten 80 so_keepalive=geheim;\nproxy_pass 10.0.0.1:80;\nproxy_ssl_name geheim;\nhealth_check send=geheim \
                x=geheim;\ncheck_http_send \"geheim\";\ngeheim:1 2;\n}\n}\n";
    let found = imported(text);
    let lines: Vec<&str> = found.toml.lines().filter(|line| line.contains("geheim")).collect();
    assert!(lines.is_empty(), "{lines:?}");
}
