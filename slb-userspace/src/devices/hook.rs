//! Which hook of XDP can forward between interfaces.
//!
//! A native program hands frames to the driver of another interface, which takes them only if it knows how to send such
//! frames; what it does not take is lost in the kernel, after the program has counted it as forwarded. The generic hook sends
//! socket buffers, which every interface takes.

use super::Native;

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Native,
    /// In the kernel, after the driver.
    Generic,
}

impl Hook {
    /// Its name in configuration and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What an interface has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is the only one: frames leave by the interface they came in by.
    Alone,
    /// Frames leave by other interfaces, too.
    Among,
}

impl Role {
    /// The role of each of so many interfaces.
    pub fn of(interfaces: usize) -> Self {
        if interfaces > 1 { Self::Among } else { Self::Alone }
    }
}

/// Why an interface cannot take part where programs run natively, if so.
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
