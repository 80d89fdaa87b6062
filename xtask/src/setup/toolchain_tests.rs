use std::cell::{Cell, RefCell};

use super::*;

/// Runs `completed` with a rustup whose installations end in these states, and fail unless that is `Working`. Returns
/// whether it succeeds, the last state, and what was done.
fn complete(before: PinnedState, after: &[PinnedState]) -> (bool, PinnedState, Vec<&'static str>) {
    let (state, log) = (Cell::new(before), RefCell::new(Vec::new()));
    let after = RefCell::new(after.iter());
    let install = || {
        log.borrow_mut().push("install");
        state.set(*after.borrow_mut().next().context("no further installation")?);
        if state.get() == PinnedState::Working { Ok(()) } else { Err(anyhow!("interrupted")) }
    };
    let remove = || {
        log.borrow_mut().push("remove");
        state.set(PinnedState::Absent);
        Ok(())
    };
    let succeeds = completed(|| state.get(), install, remove).is_ok();
    (succeeds, state.get(), log.into_inner())
}

#[test]
fn toolchain_that_rustup_completes_is_not_removed() {
    for before in [PinnedState::Absent, PinnedState::Working, PinnedState::Broken] {
        let done = complete(before, &[PinnedState::Working]);
        assert_eq!(done, (true, PinnedState::Working, vec!["install"]), "{before:?}");
    }
}

#[test]
fn broken_toolchain_is_installed_anew() {
    let done = complete(PinnedState::Broken, &[PinnedState::Broken, PinnedState::Working]);
    assert_eq!(done, (true, PinnedState::Working, vec!["install", "remove", "install"]));
}

/// The time limit ends it, and is not waited for twice.
#[test]
fn interrupted_download_is_removed() {
    let done = complete(PinnedState::Absent, &[PinnedState::Broken]);
    assert_eq!(done, (false, PinnedState::Absent, vec!["install", "remove"]));
}

#[test]
fn nothing_is_removed_without_the_network() {
    let done = complete(PinnedState::Absent, &[PinnedState::Absent]);
    assert_eq!(done, (false, PinnedState::Absent, vec!["install"]));
}

#[test]
fn linker_is_blamed_only_for_a_build_that_compiles() {
    let failed = |why: &str| Err(why.to_owned());
    assert_eq!(trial(Ok(()), || panic!("nothing to find out")), Trial::Passed);
    assert_eq!(trial(failed("link"), || Ok(())), Trial::Failed("link".to_owned()));
    assert_eq!(trial(failed("build"), || failed("network")), Trial::NotTried("network".to_owned()));
}
