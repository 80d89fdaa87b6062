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
