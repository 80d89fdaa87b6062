//! The XDP hook that can forward between all interfaces.
//!
//! A native program redirects frames to another interface's driver, which must support that. Otherwise the kernel drops
//! the frame after the program has counted it as forwarded. Generic XDP sends socket buffers, which every interface
//! transmits.

use super::Native;

/// An XDP hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Native XDP: in the driver.
    Native,
    /// Generic XDP: behind the driver, on socket buffers.
    Generic,
}

impl Hook {
    /// The name in configuration and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What forwarding requires of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookScope {
    /// It is the only interface: frames leave by the interface they arrived at.
    Single,
    /// Frames leave by other interfaces too.
    Several,
}

impl HookScope {
    /// The role of each of this many interfaces.
    pub fn of(interfaces: usize) -> Self {
        if interfaces > 1 { Self::Several } else { Self::Single }
    }
}

/// Why an interface cannot take part in native forwarding; `None` if it can.
pub fn conflict(native: &Native, scope: HookScope) -> Option<&str> {
    let needed = match scope {
        HookScope::Single => &[&native.run, &native.back][..],
        HookScope::Several => &[&native.run, &native.redirect, &native.receive, &native.back],
    };
    needed.iter().find_map(|ability| ability.as_ref().err()).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_interface_does_not_need_xdp_redirect() {
        let able = Native { run: Ok(()), redirect: Ok(()), receive: Ok(()), back: Ok(()) };
        let no = || Err("no".to_owned());
        for (native, alone, among) in [
            (able.clone(), true, true),
            (Native { redirect: no(), ..able.clone() }, true, false),
            (Native { receive: no(), ..able.clone() }, true, false),
            (Native { back: no(), ..able.clone() }, false, false),
            (Native { run: no(), ..able }, false, false),
        ] {
            assert_eq!(conflict(&native, HookScope::of(1)).is_none(), alone, "{native:?}");
            assert_eq!(conflict(&native, HookScope::of(2)).is_none(), among, "{native:?}");
        }
    }
}
