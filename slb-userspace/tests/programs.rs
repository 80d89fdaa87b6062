//! The programs as their user starts them.

use std::process::Command;

fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn version_names_program_release_commit_and_abi() {
    let programs = [
        (env!("CARGO_BIN_EXE_slbd"), "slbd", slb_common::abi::ABI_VERSION),
        (env!("CARGO_BIN_EXE_slb"), "slb", slb_common::abi::ABI_VERSION),
        (env!("CARGO_BIN_EXE_slb-decap"), "slb-decap", slb_common::abi::decap::DECAP_ABI_VERSION),
    ];
    for (path, name, abi) in programs {
        let (code, printed, _) = run(path, &["--version"]);
        let commit = env!("SLB_GIT");
        let release = env!("CARGO_PKG_VERSION");
        assert_eq!(printed, format!("{name} {release} (git {commit}, ABI {abi})\n"));
        assert_eq!(code, Some(0));
    }
}

#[test]
fn decap_attach_without_vips_is_refused() {
    let attach = ["attach", "--interface", "lo", "--from", "192.0.2.1"];
    let (code, _, error) = run(env!("CARGO_BIN_EXE_slb-decap"), &attach);
    assert_eq!(code, Some(1));
    assert!(error.contains("no VIP given") && error.contains("--any-vip"), "{error}");
    let both = [&attach[..], &["--vip", "198.51.100.10", "--any-vip"]].concat();
    let (code, _, error) = run(env!("CARGO_BIN_EXE_slb-decap"), &both);
    assert_eq!(code, Some(2));
    assert!(error.contains("cannot be used with"), "{error}");
}

fn written(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

#[test]
fn import_writes_a_configuration_that_check_accepts() {
    let sources = [
        (
            "keepalived",
            "virtual_server 192.0.2.1 80 {\n lb_algo wrr\n real_server 10.0.0.1 80 {\n TCP_CHECK {\n }\n }\n}\n",
        ),
        ("ipvsadm", "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 1\n"),
        ("haproxy", "listen web\n bind 192.0.2.1:80\n mode tcp\n server a 10.0.0.1:80 check\n"),
        ("nginx", "stream { server { listen 192.0.2.1:80; proxy_pass 10.0.0.1:80; } }\n"),
    ];
    for (format, text) in sources {
        let (_source, path) = written("source.conf", text);
        let (code, toml, summary) = run(env!("CARGO_BIN_EXE_slb"), &["import", format, &path]);
        assert_eq!(code, Some(0), "{summary}");
        assert!(summary.contains("listeners: 1;"), "{summary}");
        let (_target, path) = written("slb.toml", &toml);
        let (code, checked, errors) = run(env!("CARGO_BIN_EXE_slbd"), &["check", "--config", &path]);
        assert_eq!(code, Some(0), "{errors}\n{toml}");
        assert!(checked.contains("ok: 1 load balancer, 1 listener, 1 server group, 1 server"), "{checked}");
    }
}

#[test]
fn import_of_an_unreadable_file_prints_its_place_and_no_configuration() {
    for (format, text, part) in [
        (
            "keepalived",
            "global_defs {\n}\nvirtual_server 192.0.2.1 80 {\n",
            ":3: the block `virtual_server` has no end",
        ),
        (
            "ipvsadm",
            "# saved\nTCP 192.0.2.1:80 rr\n",
            ":2: `TCP` is no option: expected a line of `ipvsadm -S -n`",
        ),
        ("haproxy", "server a 10.0.0.1:80\n", ":1: `server` in no section: expected"),
        ("nginx", "stream {\n server {\n  listen 80\n }\n}\n", ":3: `listen` has no end: expected `;`"),
        ("nginx", "stream {\n include absent.conf;\n}\n", ":2: `include absent.conf`: "),
        ("nginx", "\u{0}{", ":1: "),
    ] {
        let (_source, path) = written("source.conf", text);
        let (code, toml, error) = run(env!("CARGO_BIN_EXE_slb"), &["import", format, &path]);
        assert_eq!((code, toml.as_str()), (Some(1), ""), "{error}");
        assert!(error.contains(&format!("{path}{part}")), "{error}");
    }
    let (code, toml, error) = run(env!("CARGO_BIN_EXE_slb"), &["import", "nginx", "/absent/nginx.conf"]);
    assert_eq!((code, toml.as_str()), (Some(1), ""));
    assert!(error.contains("/absent/nginx.conf: cannot be read"), "{error}");
}

#[test]
fn import_reads_included_files_beside_the_first_one() {
    let (directory, path) = written("nginx.conf", "events {}\nstream {\n include stream.d/*.conf;\n}\n");
    let streams = directory.path().join("stream.d");
    std::fs::create_dir(&streams).unwrap();
    for port in [81, 82] {
        let text = format!(
            "server {{\n listen 192.0.2.1:{port};\n proxy_pass 10.0.0.1:{port};\n tcp_nodelay on;\n}}\n"
        );
        std::fs::write(streams.join(format!("{port}.conf")), text).unwrap();
    }
    let (code, toml, summary) = run(env!("CARGO_BIN_EXE_slb"), &["import", "nginx", &path]);
    assert_eq!(code, Some(0), "{summary}");
    assert!(toml.contains("port = 81") && toml.contains("port = 82"), "{toml}");
    assert!(toml.contains("82.conf:4: `tcp_nodelay on;`"), "{toml}");
}

#[test]
fn import_matches_names_as_the_shell_does() {
    // The directory has characters of patterns, and a hidden file lies in it.
    let directory = tempfile::TempDir::new().unwrap();
    let inner = directory.path().join("a[1]*");
    std::fs::create_dir(&inner).unwrap();
    let server = |port: u16| format!("server {{ listen 192.0.2.1:{port}; proxy_pass 10.0.0.1:{port}; }}\n");
    std::fs::write(inner.join("81.conf"), server(81)).unwrap();
    std::fs::write(inner.join(".82.conf"), server(82)).unwrap();
    std::fs::create_dir(inner.join("deep")).unwrap();
    std::fs::write(inner.join("deep/83.conf"), server(83)).unwrap();
    let path = inner.join("nginx.conf.main");
    std::fs::write(&path, "stream {\n include *.conf;\n include none/*.conf;\n}\n").unwrap();
    let (code, toml, summary) = run(env!("CARGO_BIN_EXE_slb"), &["import", "nginx", path.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{summary}");
    assert!(toml.contains("port = 81"), "{toml}");
    assert!(!toml.contains("port = 82") && !toml.contains("port = 83"), "{toml}");
    assert!(toml.contains(":3: `include none/*.conf;`: no file here matches"), "{toml}");
}

#[test]
fn import_refuses_too_many_included_files_before_it_reads_them() {
    let (directory, path) = written("nginx.conf", "stream {\n include d/*.conf;\n}\n");
    let files = directory.path().join("d");
    std::fs::create_dir(&files).unwrap();
    for number in 0..1_001 {
        // Reading one of them would be another error.
        std::fs::write(files.join(format!("{number}.conf")), [0xff]).unwrap();
    }
    let (code, toml, error) = run(env!("CARGO_BIN_EXE_slb"), &["import", "nginx", &path]);
    assert_eq!((code, toml.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains(":2: ") && error.contains("1,000 files"), "{error}");
}

#[test]
fn import_reads_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_slb"))
        .args(["import", "ipvsadm", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(
        &mut input,
        b"-A -u 192.0.2.1:53 -s rr\n-a -u 192.0.2.1:53 -r 10.0.0.1:53 -g\n",
    )
    .unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let toml = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && toml.contains("mode = \"dsr\""), "{toml}");
}
