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
pub enum Role {
    /// It is the only interface: frames leave by the interface they arrived at.
    Alone,
    /// Frames leave by other interfaces too.
    Among,
}

impl Role {
    /// The role of each of this many interfaces.
    pub fn of(interfaces: usize) -> Self {
        if interfaces > 1 { Self::Among } else { Self::Alone }
    }
}

/// Why an interface cannot take part in native forwarding; `None` if it can.
pub fn conflict(native: &Native, role: Role) -> Option<&str> {
    let needed = match role {
        Role::Alone => &[&native.run, &native.back][..],
        Role::Among => &[&native.run, &native.redirect, &native.receive, &native.back],
    };
    needed.iter().find_map(|ability| ability.as_ref().err()).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_alone_need_not_redirect() {
        let able = Native { run: Ok(()), redirect: Ok(()), receive: Ok(()), back: Ok(()) };
        let no = || Err("no".to_owned());
        for (native, alone, among) in [
            (able.clone(), true, true),
            (Native { redirect: no(), ..able.clone() }, true, false),
            (Native { receive: no(), ..able.clone() }, true, false),
            (Native { back: no(), ..able.clone() }, false, false),
            (Native { run: no(), ..able }, false, false),
        ] {
            assert_eq!(conflict(&native, Role::of(1)).is_none(), alone, "{native:?}");
            assert_eq!(conflict(&native, Role::of(2)).is_none(), among, "{native:?}");
        }
    }
}
