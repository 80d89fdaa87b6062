//! What comments may show of the source. Only arguments of keywords that hold no secrets are shown.

/// Longest excerpt, in characters.
const MAX_EXCERPT: usize = 80;
/// Longest unknown keyword: a longer one may be a key.
const MAX_KEYWORD: usize = 32;

/// Keywords, and how many of their arguments hold no secrets.
const SHOWN: [(&[&str], usize); 5] = [
    (
        &[
            "bind",
            "listen",
            "frontend",
            "backend",
            "peers",
            "resolvers",
            "mode",
            "balance",
            "use_backend",
            "default_backend",
            "option",
            "http-check",
            "tcp-check",
            "http-request",
            "maxconn",
            "fullconn",
            "backlog",
            "retries",
            "contimeout",
            "clitimeout",
            "srvtimeout",
            "virtual_server_group",
            "local_address_group",
            "laddr_group_name",
            "lb_algo",
            "lvs_sched",
            "protocol",
            "delay_loop",
            "persistence_timeout",
            "persistence_granularity",
            "quorum",
            "hysteresis",
            "weight",
            "retry",
            "nb_get_retry",
            "nb_sock_retry",
            "delay_before_retry",
            "connect_timeout",
            "connect_port",
            "connect_ip",
            "bindto",
            "bind_port",
            "fwmark",
            "warmup",
            "uthreshold",
            "lthreshold",
            "failover_threshold",
            "est_timeout",
            "bps_limit",
            "cps_limit",
            "misc_timeout",
            "virtualhost",
            "vrrp_instance",
            "vrrp_sync_group",
            "vrrp_script",
            "interface",
            "virtual_router_id",
            "priority",
            "include",
            "upstream",
            "location",
            "proxy_pass",
            "proxy_timeout",
            "proxy_connect_timeout",
            "proxy_responses",
            "proxy_requests",
            "proxy_protocol",
            "proxy_ssl",
            "ssl_preread",
            "tcp_nodelay",
            "allow",
            "deny",
            "least_time",
            "keepalive",
            "preread_timeout",
            "worker_processes",
            "proxy_download_rate",
            "proxy_upload_rate",
            "proxy_next_upstream",
        ],
        1,
    ),
    (
        &[
            "server",
            "real_server",
            "backup_real_server",
            "sorry_server",
            "timeout",
            "hash-type",
            "stick",
            "rate-limit",
            "tcp-request",
            "no",
            "proxy_bind",
            "hash",
            "random",
            "zone",
            "map",
            "geo",
            "split_clients",
            "limit_conn",
        ],
        2,
    ),
    (&["defaults", "virtual_server", "lb_kind", "lvs_method", "server-template", "source"], 3),
    (&["stick-table", "status_code"], 8),
    // ipvsadm.
    (&["-A", "-a", "-C", "--add-service", "--add-server", "/sbin/ipvsadm", "ipvsadm"], 16),
];

/// The beginning of a line as it may stand in a comment: printable, short, without secrets. Empty if nothing may be
/// shown.
pub(crate) fn line(line: &str) -> String {
    // The first statement of a line of nginx; an opening brace belongs to it.
    let statement = match line.find([';', '{']) {
        Some(end) => &line[..=end],
        None => line,
    };
    let is_whole = statement.trim() == line.trim();
    let mut words = statement.split_whitespace().take_while(|word| !word.starts_with('#')).peekable();
    let Some(first) = words.next() else { return String::new() };
    let keyword = first.trim_end_matches([';', '{']);
    let arguments = if keyword.trim_matches('}').is_empty() || is_address(keyword) {
        1
    } else {
        match SHOWN.iter().find(|(keywords, _)| keywords.contains(&keyword)) {
            Some((_, arguments)) => *arguments,
            None if is_keyword(keyword) => 0,
            None => return String::new(),
        }
    };
    let mut shown = first.to_owned();
    for argument in words.by_ref().take(arguments) {
        shown = format!("{shown} {argument}");
    }
    if let Some(brace) = words.next_if_eq(&"{") {
        shown = format!("{shown} {brace}");
    }
    if words.peek().is_some() || !is_whole {
        shown.push_str(" ...");
    }
    printable(&shown)
}

/// A word of the source in the reason of a note, if it looks like the name of an option.
pub(crate) fn word(word: &str) -> String {
    if is_keyword(word) { format!("`{word}`") } else { "an option".to_owned() }
}

fn is_keyword(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    (1..=MAX_KEYWORD).contains(&word.len()) && word.chars().all(allowed)
}

/// Whether a word is an address, a range of addresses, or an address with the length of a prefix.
fn is_address(word: &str) -> bool {
    word.split(['-', '/']).next().is_some_and(|first| first.parse::<std::net::IpAddr>().is_ok())
}

fn printable(text: &str) -> String {
    let shown: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_EXCERPT).collect();
    if text.chars().count() > MAX_EXCERPT { format!("{shown}...") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arguments_of_harmless_keywords_are_shown() {
        for (text, expected) in [
            ("  auth_pass 1234", "auth_pass ..."),
            ("stats auth admin:x", "stats ..."),
            ("proxy_pass web;", "proxy_pass web;"),
            ("server { listen 80; set $a b; }", "server { ..."),
            ("listen 80; ssl_password_file x;", "listen 80; ..."),
            ("real_server 10.0.0.1 80 {", "real_server 10.0.0.1 80 {"),
            ("server a 10.0.0.1:80 check # note", "server a 10.0.0.1:80 ..."),
            ("192.0.2.1-9 80", "192.0.2.1-9 80"),
            ("}", "}"),
            ("MISC_CHECK", "MISC_CHECK"),
            ("http-check send hdr X secret", "http-check send ..."),
            ("$KEY=secret", ""),
            ("user:secret", ""),
            ("a\u{7}b", ""),
            ("bind a\u{7}b", "bind a b"),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
        assert_eq!(line(&"x".repeat(33)), "");
        assert_eq!(line(&format!("bind {}", "x".repeat(200))).len(), MAX_EXCERPT + 3);
    }

    #[test]
    fn words_in_reasons_look_like_options() {
        assert_eq!(word("send-proxy"), "`send-proxy`");
        assert_eq!(word("password=x"), "an option");
        assert_eq!(word(&"x".repeat(33)), "an option");
    }
}
