//! Pinned links of programs, as the kernel has them.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::syscall;
use crate::neigh;

/// A link with an open descriptor. It exists as long as its pin or a descriptor does.
#[derive(Debug)]
pub struct Link {
    descriptor: OwnedFd,
    pin: PathBuf,
}

/// Interface and program of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkBinding {
    /// Index of the interface in its network namespace; `None` if the interface is gone or the link is detached.
    pub interface: Option<u32>,
    /// Id of the program.
    pub program: u32,
}

impl LinkBinding {
    /// Whether no interface in `links` has the link's index and runs its program. `false` for a link without an
    /// interface.
    pub fn is_elsewhere(&self, links: &[neigh::Link]) -> bool {
        let here = |index: u32| {
            let link = links.iter().find(|link| link.index == index);
            link.and_then(|link| link.xdp).is_some_and(|xdp| xdp.program == self.program)
        };
        self.interface.is_some_and(|index| !here(index))
    }
}

impl Link {
    /// Opens a pin; `None` if there is none.
    ///
    /// # Errors
    /// The file is not a pin, or may not be opened.
    pub fn open(pin: &Path) -> Result<Option<Self>> {
        let exists = pin.try_exists().with_context(|| format!("cannot look at {}", pin.display()))?;
        if !exists {
            return Ok(None);
        }
        let descriptor = syscall::open_pin(&path(pin)?)
            .with_context(|| format!("cannot open the link {}", pin.display()))?;
        Ok(Some(Self { descriptor, pin: pin.to_owned() }))
    }

    /// Its present interface and program.
    pub fn bound(&self) -> Result<LinkBinding> {
        let info = syscall::link_info(self.descriptor.as_fd())
            .with_context(|| format!("cannot read the link {}", self.pin.display()))?;
        Ok(LinkBinding { interface: Some(info.ifindex).filter(|index| *index != 0), program: info.program })
    }

    /// Id of the program of a link at a cgroup; `None` if it is detached, as when its cgroup is gone.
    pub fn program_at_cgroup(&self) -> Result<Option<u32>> {
        // `struct bpf_link_info` has the cgroup's id where that of an XDP link has the interface.
        self.bound().map(|bound| bound.interface.map(|_| bound.program))
    }

    /// Detaches its program at once, also while it is pinned.
    pub fn detach(&self) -> Result<()> {
        syscall::detach_link(self.descriptor.as_fd())
            .with_context(|| format!("cannot detach the link {}", self.pin.display()))
    }

    /// Whether its pin exists and still is a pin of this link.
    pub fn is_pinned(&self) -> bool {
        let own = syscall::link_info(self.descriptor.as_fd());
        let pinned =
            Self::open(&self.pin).ok().flatten().map(|link| syscall::link_info(link.descriptor.as_fd()));
        matches!((own, pinned), (Ok(own), Some(Ok(pinned))) if own.id == pinned.id)
    }

    /// Restores a missing pin.
    ///
    /// # Errors
    /// The path is in use.
    pub fn pin_again(&self) -> Result<()> {
        syscall::pin(self.descriptor.as_fd(), &path(&self.pin)?)
            .with_context(|| format!("cannot pin {}", self.pin.display()))
    }
}

fn path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| format!("{} has a zero in it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{devices::tests::link, neigh::Xdp};

    #[test]
    fn link_is_elsewhere_unless_its_interface_runs_the_program() {
        let mut here = link(2, "eth0", None);
        let bound = |interface| LinkBinding { interface, program: 7 };
        assert!(bound(Some(2)).is_elsewhere(&[here.clone()]));
        assert!(bound(Some(2)).is_elsewhere(&[]));
        here.xdp = Some(Xdp { native: true, program: 8 });
        assert!(bound(Some(2)).is_elsewhere(&[here.clone()]));
        here.xdp = Some(Xdp { native: true, program: 7 });
        assert!(bound(Some(3)).is_elsewhere(&[here.clone()]));
        assert!(!bound(Some(2)).is_elsewhere(&[here.clone()]));
        assert!(!bound(None).is_elsewhere(&[here]));
    }
}
