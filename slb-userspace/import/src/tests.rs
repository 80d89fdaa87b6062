//! Properties of all formats: no text panics, each line is accounted for, and each result is a valid configuration.

use proptest::{prelude::*, sample};

use crate::{Format, NoFiles, ledger::Ledger, model::Model, source::Sources};

const FORMATS: [Format; 4] = [Format::Keepalived, Format::Ipvsadm, Format::Haproxy, Format::Nginx];

/// Pieces of all formats.
const PIECES: [&str; 92] = [
    "virtual_server",
    "virtual_server_group",
    "group",
    "fwmark",
    "real_server",
    "sorry_server",
    "lb_kind",
    "lb_algo",
    "DR",
    "NAT",
    "TUN",
    "sh",
    "fo",
    "rr",
    "delay_loop",
    "persistence_timeout",
    "quorum",
    "weight",
    "TCP_CHECK",
    "HTTP_GET",
    "DNS_CHECK",
    "MISC_CHECK",
    "url",
    "path",
    "status_code",
    "connect_port",
    "retry",
    "protocol",
    "UDP",
    "-A",
    "-a",
    "-t",
    "-u",
    "-f",
    "-s",
    "-r",
    "-g",
    "-i",
    "-m",
    "-w",
    "-p",
    "192.0.2.1:80",
    "[2001:db8::1]:80",
    "10.0.0.1:80",
    "10.0.0.2:0",
    "frontend",
    "backend",
    "listen",
    "defaults",
    "mode",
    "tcp",
    "http",
    "bind",
    "server",
    "balance",
    "source",
    "default_backend",
    "option",
    "httpchk",
    "http-check",
    "expect",
    "status",
    "check",
    "inter",
    "backup",
    "ssl",
    "stick",
    "on",
    "src",
    "timeout",
    "client",
    "stream",
    "upstream",
    "proxy_pass",
    "proxy_bind",
    "transparent",
    "max_fails=3",
    "weight=7",
    "{",
    "}",
    ";",
    "\n",
    "\n",
    "\n",
    "*:80",
    "127.0.0.1:80",
    "192.0.2.1",
    "0",
    "65536",
    "99999999999",
    "web.example:80",
    "ß\u{7f}",
];

/// What is checked of each text that can be read.
fn check(format: Format, text: &str) -> Result<(), TestCaseError> {
    let Ok(imported) = crate::import(format, "source", text, &NoFiles) else { return Ok(()) };
    if let Err(error) = slb_config::parse("slb.toml", &imported.toml) {
        return Err(TestCaseError::fail(format!("{error}\n{}\nof\n{text}", imported.toml)));
    }
    let unaccounted = unaccounted(format, text);
    prop_assert!(
        unaccounted.is_empty(),
        "lines {:?} of\n{}\nare not in\n{}",
        unaccounted,
        text,
        imported.toml
    );
    for note in &imported.notes {
        let written = format!("# source:{}", note.first_line);
        prop_assert!(imported.toml.contains(&written), "{} is missing in\n{}", written, imported.toml);
    }
    Ok(())
}

/// Lines with content that are neither part of the result nor in a note.
fn unaccounted(format: Format, text: &str) -> Vec<usize> {
    let mut sources = Sources::new("source", text, &NoFiles);
    let (mut ledger, mut model) = (Ledger::default(), Model::default());
    let read = match format {
        Format::Keepalived => crate::keepalived::read(&mut sources, &mut ledger, &mut model),
        Format::Ipvsadm => crate::ipvsadm::read(&sources, &mut ledger, &mut model),
        Format::Haproxy => crate::haproxy::read(&sources, &mut ledger, &mut model),
        Format::Nginx => crate::nginx::read(&mut sources, &mut ledger, &mut model),
    };
    if read.is_err() {
        return Vec::new();
    }
    let _ = crate::fit::fit(model, &mut ledger);
    let notes = ledger.notes(&sources);
    let is_accounted = |line: usize| {
        ledger.is_used(0, line) || notes.iter().any(|note| note.first_line <= line && line <= note.last_line)
    };
    text.lines()
        .enumerate()
        .filter(|(_, text)| !format.is_comment(text.trim()))
        .map(|(index, _)| index + 1)
        .filter(|line| !is_accounted(*line))
        .collect()
}

fn format() -> impl Strategy<Value = Format> {
    sample::select(FORMATS.as_slice())
}

/// Texts that each format can read, to mutate.
const VALID: [(Format, &str); 4] = [
    (
        Format::Keepalived,
        "virtual_server_group g {\n192.0.2.1-3 80\n}\nvirtual_server group g {\nlb_kind TUN\nlb_algo fo\nquorum 2\n\
         sorry_server 10.0.0.9 80\nreal_server 10.0.0.1 80 {\nHTTP_GET {\nurl {\npath /\n}\nretry 9\n}\n}\n\
         real_server 10.0.0.2 81 {\nweight 300\nTCP_CHECK {\nconnect_port 9\n}\n}\n}\nvirtual_server 192.0.2.4 0 {\nprotocol UDP\n\
         real_server 10.0.0.1 0 {\nDNS_CHECK {\n}\n}\n}\n",
    ),
    (
        Format::Ipvsadm,
        "-A -t 192.0.2.1:80 -s fo -p 9999\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 1\n-a -t 192.0.2.1:80 -r \
         10.0.0.2:81 -m -w 1000\n-A -u [2001:db8::1]:0 -s mh -b mh-port\n-a -u [2001:db8::1]:0 -r [fd00::1]:0 -i -w 0\n",
    ),
    (
        Format::Haproxy,
        "defaults\nmode tcp\ntimeout client 1h\nfrontend f\nbind *:80,[::]:80\nbind 192.0.2.1:7000-7003\ndefault_backend b\n\
         backend b\nbalance source\noption httpchk GET /x\nserver a 10.0.0.1:80 check inter 1 weight 256\nserver b \
         10.0.0.2:81 check backup rise 99\nserver c fd00::1:80\nlisten l\nbind :25\nserver a 10.0.0.1\n",
    ),
    (
        Format::Nginx,
        "stream {\nupstream a {\nhash $x;\nserver 10.0.0.1:80 max_fails=0;\nserver 10.0.0.2:80 backup;\nserver [fd00::1]:80 \
         down;\n}\nserver {\nlisten 80;\nlisten 80 udp;\nlisten [::]:80 ipv6only=off;\nproxy_pass a;\nproxy_timeout 1s;\n}\n\
         server {\nlisten 192.0.2.1:90-99;\nproxy_pass 10.0.0.1:80;\n}\n}\n",
    ),
];

/// Texts with more keywords, also such that have no effect where they stand.
const RICH: [(Format, &str); 3] = [
    (
        Format::Keepalived,
        "$PORT=80\nvrrp_instance v {\ninterface eth0\nvirtual_ipaddress {\n192.0.2.1 dev eth1\n}\n}\n\
         virtual_server 192.0.2.1 $PORT {\ndelay_loop 6\nretry 2\ndelay_before_retry 2\nconnect_timeout 4\nlb_algo sh\n\
         sh-port\nlb_kind DR\npersistence_timeout 60\nprotocol TCP\nquorum 1\nvirtualhost web.example\nalpha\n\
         real_server 10.0.0.1 80 {\nweight 2\nTCP_CHECK {\nconnect_port 81\nconnect_timeout 5\nenable_sni\n}\n}\n\
         real_server 10.0.0.2 80 {\nweight 2\ndelay_loop 7\nretry 1\nconnect_timeout 2\n}\n\
         real_server 10.0.0.3 80 {\ndelay_loop 9\nTCP_CHECK {\nretry 5\n}\n}\n}\n\
         virtual_server 192.0.2.2 53 {\nprotocol UDP\nlb_algo mh\nmh-port\nquorum 3\nsorry_server 10.0.0.9 53\n\
         real_server 10.0.0.5 53 {\nUDP_CHECK {\nrequire_reply 01\nretry 3\n}\n}\n}\n\
         virtual_server 192.0.2.3 443 {\nlb_algo rr\nsh-port\nvirtualhost web.example\nreal_server 10.0.0.1 443 {\n\
         SSL_GET {\nvirtualhost a.example\nenable_sni\nurl {\npath /\nvirtualhost b.example\n}\nurl {\npath /b\n}\n}\n\
         TCP_CHECK {\nconnect_timeout 3\n}\n}\n}\n\
         virtual_server 192.0.2.4 80 {\ndelay_loop 5\nreal_server 10.0.0.1 80 {\nretry 3\n}\n}\n",
    ),
    (
        Format::Haproxy,
        "defaults\nmode tcp\nbalance leastconn\noption httpchk GET /x\ntimeout connect 4s\ntimeout client 1m\ntimeout \
         server 2m\ntimeout check 2s\nretries 3\nfrontend f\nbind 192.0.2.1:80\nbind [::]:81 v6only\nacl a src \
         10.0.0.0/8\ntcp-request connection reject if !a\nuse_backend b if a\nuse_backend c\nuse_backend b\n\
         default_backend b\nstick-table type ip size 1m expire 1m\ntimeout server 9m\nbackend b\nserver x 10.0.0.1:80\n\
         backend c\nno option httpchk\nhash-type consistent\ntimeout client 7m\ntimeout tunnel 5m\nstick-table type ip \
         size 1m expire 10m\ndefault-server check inter 3s\noption allbackups\nserver a 10.0.0.1:80\nserver b 10.0.0.2:80 \
         source 10.9.0.1\nserver c 10.0.0.3:80 backup\nserver d 10.0.0.4:80 backup\nlisten l\nbind \
         192.0.2.2:25\ndisabled\nstick-table type ip size 1m expire 10m\nstick on src\nsource 10.9.0.2\ntimeout check \
         4s\nserver a 10.0.0.1\nserver b 10.0.0.1 backup\nlisten m\nbind 192.0.2.3:25\ndefault_backend c\nserver a \
         10.0.0.7:25\ndefault-server weight 3\n",
    ),
    (
        Format::Nginx,
        "worker_processes 1;\nstream {\nproxy_timeout 2m;\nproxy_bind 10.9.0.1;\nproxy_ssl on;\nupstream a {\nzone a \
         64k;\nleast_conn;\nserver 10.0.0.1:80 max_fails=2 fail_timeout=20s;\nserver 10.0.0.2:80 max_fails=2 \
         fail_timeout=20s;\nserver 10.0.0.3:80 backup;\n}\nserver {\nlisten 192.0.2.1:80;\nproxy_pass a;\nproxy_ssl \
         off;\nproxy_bind off;\nproxy_ssl_name x;\nproxy_timeout 3m;\n}\nserver {\nlisten 192.0.2.1:53 udp;\nproxy_ssl \
         off;\nproxy_pass 10.0.0.4:53;\nproxy_timeout 20s;\nproxy_responses 1;\n}\nserver {\nlisten 192.0.2.2:80;\n\
         proxy_ssl off;\nhealth_check interval=3;\nhealth_check interval=4;\nproxy_pass a;\nproxy_pass 10.0.0.5:80;\n}\n}\n",
    ),
];

proptest! {
    #[test]
    fn random_text_never_panics(format in format(), text in "\\PC{0,200}") {
        check(format, &text)?;
    }

    #[test]
    fn random_words_are_accounted_for_and_valid(
        format in format(),
        words in proptest::collection::vec(sample::select(PIECES.as_slice()), 0..80),
    ) {
        check(format, &words.join(" "))?;
    }

    #[test]
    fn changed_texts_are_accounted_for_and_valid(
        (format, text) in sample::select(VALID.as_slice()),
        changes in proptest::collection::vec((any::<sample::Index>(), sample::select(PIECES.as_slice()), 0..3_usize), 0..6),
    ) {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (at, piece, how) in changes {
            let line = at.index(lines.len());
            match how {
                0 => {
                    let mut words: Vec<&str> = lines[line].split(' ').collect();
                    let word = at.index(words.len());
                    words[word] = piece;
                    lines[line] = words.join(" ");
                }
                1 => lines[line].push_str(&format!(" {piece}")),
                _ => {
                    let copy = lines[line].clone();
                    lines.insert(at.index(lines.len()), copy);
                }
            }
        }
        check(format, &(lines.join("\n") + "\n"))?;
    }
}

#[test]
fn texts_to_change_are_read_whole() {
    for (format, text) in VALID.into_iter().chain(RICH) {
        let imported =
            crate::import(format, "source", text, &NoFiles).unwrap_or_else(|error| panic!("{error}"));
        assert!(imported.listeners >= 2, "{}", imported.toml);
        check(format, text).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn empty_text_is_an_empty_configuration() {
    for format in FORMATS {
        let imported = crate::import(format, "source", "# nothing\n", &NoFiles).expect("read");
        assert_eq!((imported.listeners, imported.notes.len()), (0, 0));
    }
}

/// The configuration without comments.
fn without_comments(toml: &str) -> String {
    let bare = toml.lines().map(|line| line.split('#').next().unwrap_or_default().trim_end());
    bare.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Lines that say what holds in SLB without them, here or by default.
const WITHOUT_OWN_EFFECT: [&str; 7] = [
    "mode tcp",
    "protocol TCP",
    "path /",
    "status_code 200-299",
    "quorum 1",
    // Both servers of the site must be unhealthy, as without a quorum.
    "quorum 2",
    // Without it there is a note.
    "option allbackups",
];

/// A line whose absence changes nothing has no effect, and a note must say so.
#[test]
fn line_without_effect_is_in_a_note() {
    let sites = [
        (Format::Keepalived, crate::keepalived::tests::SITE),
        (Format::Haproxy, crate::haproxy::tests::SITE),
        (Format::Nginx, crate::nginx::tests::SITE),
    ];
    let mut silent = Vec::new();
    for (format, text) in VALID.into_iter().chain(RICH).chain(sites) {
        let whole = crate::import(format, "source", text, &NoFiles).unwrap_or_else(|error| panic!("{error}"));
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if format.is_comment(line.trim()) || WITHOUT_OWN_EFFECT.contains(&line.trim()) {
                continue;
            }
            let mut fewer = lines.clone();
            fewer.remove(index);
            // Without a brace the rest is another text, or none that can be read.
            let Ok(other) = crate::import(format, "source", &(fewer.join("\n") + "\n"), &NoFiles) else {
                continue;
            };
            let is_noted =
                whole.notes.iter().any(|note| note.first_line <= index + 1 && index < note.last_line);
            if !is_noted && without_comments(&other.toml) == without_comments(&whole.toml) {
                silent.push(format!("{}:{}: {line}", format.name(), index + 1));
            }
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}
