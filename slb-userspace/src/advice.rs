//! Remedies for kernel errors, by the operation that failed: an errno alone says neither what is wrong nor how to fix
//! it.

use std::io;

use nix::errno::Errno;

/// The operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Creating a BPF map.
    MakeMap,
    /// Loading a BPF program.
    LoadProgram,
    /// Attaching a program in native XDP.
    AttachNatively,
    /// Attaching a program in generic XDP.
    AttachGenerically,
    /// Mounting a BPF file system.
    MountBpfFs,
    /// Creating or reading directories of a BPF file system.
    UseBpfFs,
    /// Making a network namespace.
    MakeNamespace,
    /// Opening the TUN driver.
    OpenTun,
    /// Binding a Unix socket.
    Bind,
    /// Creating or writing files in a configured directory.
    Write,
}

/// Adds the remedy to an error with an errno among its causes, if one is known.
pub fn with_advice(error: anyhow::Error, tried: Attempt) -> anyhow::Error {
    match errno(&error).and_then(|errno| of(tried, errno)) {
        Some(advice) => error.context(advice),
        None => error,
    }
}

/// The errno among the causes of an error.
pub fn errno(error: &anyhow::Error) -> Option<Errno> {
    error.chain().find_map(|cause| {
        let io = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        io.map(Errno::from_raw).or_else(|| cause.downcast_ref::<Errno>().copied())
    })
}

const NO_BPF: &str = "this process may not use BPF: it needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (containers: \
                      --privileged, or --cap-add), and neither a seccomp profile nor kernel lockdown \
                      (/sys/kernel/security/lockdown) that forbids BPF";

/// The remedy, if one is known.
fn of(tried: Attempt, errno: Errno) -> Option<&'static str> {
    match tried {
        Attempt::MakeMap => advice_on_maps(errno),
        Attempt::LoadProgram => match errno {
            Errno::EACCES => Some(
                "the kernel's verifier refuses the program: does the process have CAP_PERFMON, and is the kernel Linux 6.1 or later? \
                 If so, please report this with the text that follows",
            ),
            _ => advice_on_maps(errno),
        },
        Attempt::AttachNatively => advice_on_native(errno),
        Attempt::AttachGenerically => match errno {
            Errno::EPERM | Errno::EACCES => Some(NO_BPF),
            Errno::ERANGE | Errno::EINVAL | Errno::EOPNOTSUPP => Some(
                "the interface takes no XDP program in the generic hook: leave it out of [daemon] interfaces",
            ),
            _ => None,
        },
        Attempt::MountBpfFs => match errno {
            Errno::EPERM | Errno::EACCES => Some(
                "this process may not mount: mount it before the start, `mount -t bpf bpf /sys/fs/bpf`; in a container, bind-mount the \
                 host's /sys/fs/bpf",
            ),
            Errno::ENODEV => Some("this kernel has no BPF file system: it needs CONFIG_BPF_SYSCALL"),
            Errno::ENOENT => Some(
                "sysfs is not mounted: mount it first, `mount -t sysfs sysfs /sys`; in a container, bind-mount the host's /sys/fs/bpf",
            ),
            _ => advice_on_files(errno),
        },
        Attempt::UseBpfFs => match errno {
            Errno::EPERM | Errno::EACCES => Some(
                "this user may not use it: let root make the directory (`chmod a+x /sys/fs/bpf; install -d -m 700 -o USER \
                 DIRECTORY`), or run as the owner of the BPF file system; one in a user namespace (rootless containers) cannot use \
                 the host's",
            ),
            Errno::ENOENT => Some(
                "its parent directory does not exist: make that first, or set the path to another directory",
            ),
            _ => advice_on_files(errno),
        },
        Attempt::MakeNamespace => match errno {
            Errno::EPERM => Some(
                "that needs CAP_SYS_ADMIN: add it to AmbientCapabilities and CapabilityBoundingSet of the unit, with \
                 `RestrictNamespaces=net`",
            ),
            _ => None,
        },
        Attempt::OpenTun => match errno {
            Errno::EPERM | Errno::EACCES => Some(
                "this user may not use it: give it mode 0666, as udev does; add `DeviceAllow=/dev/net/tun rw` to the unit",
            ),
            Errno::ENOENT => Some(
                "load the module `tun`, and let the unit see the device (`PrivateDevices=no`; containers: `--device`)",
            ),
            _ => None,
        },
        Attempt::Bind => match errno {
            Errno::EADDRINUSE => Some("a file is in its place: remove it, or set the path to another one"),
            _ => advice_on_files(errno),
        },
        Attempt::Write => advice_on_files(errno),
    }
}

fn advice_on_maps(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EPERM | Errno::EACCES => Some(NO_BPF),
        Errno::ENOMEM | Errno::ENOSPC | Errno::E2BIG => Some(
            "the kernel has no memory for it: lower [daemon] flow_table_entries or max_servers, or raise the memory limit of this \
             service (`MemoryMax`, or the container's)",
        ),
        Errno::ENOSYS => Some("this kernel has no BPF: it needs CONFIG_BPF_SYSCALL"),
        _ => None,
    }
}

fn advice_on_native(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::ERANGE => Some(
            "the MTU is too large for native XDP, which needs a packet in one page, about 3,500 bytes at most (of a veth, its peer's MTU \
             counts): lower it, `ip link set dev NAME mtu 3498`, or set [daemon] xdp_mode = \"generic\"",
        ),
        Errno::EINVAL => Some(
            "the driver refuses native XDP in its present setting, most often for the MTU: lower it to 1500, or set [daemon] xdp_mode = \
             \"generic\"; the kernel's log (`dmesg`) may name the reason",
        ),
        Errno::EOPNOTSUPP => Some(
            "the driver has no native XDP, or none beside an offload: try `ethtool -K NAME lro off`, or set [daemon] xdp_mode = \"generic\"",
        ),
        Errno::ENOMEM | Errno::ENOSPC => Some(
            "the driver has no queues left for native XDP: lower their number, `ethtool -L NAME combined N` with half as many, or set \
             [daemon] xdp_mode = \"generic\"",
        ),
        Errno::EPERM | Errno::EACCES => Some(NO_BPF),
        _ => None,
    }
}

fn advice_on_files(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EROFS => Some(
            "the file system is read-only: set the path to a directory on another one (systemd: `ReadWritePaths`)",
        ),
        Errno::ENOSPC | Errno::EDQUOT => Some("no space is left there: make room"),
        Errno::ENOENT | Errno::ENOTDIR => {
            Some("a directory above it cannot be made: set the path to a directory that exists")
        }
        Errno::EACCES | Errno::EPERM => Some(
            "this process may not write there: give it the right to, or set the path to another directory",
        ),
        Errno::ENAMETOOLONG => Some("the path is too long: set a shorter one"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn said(errno: Errno, tried: Attempt) -> String {
        let error = anyhow::Error::from(io::Error::from(errno)).context("`bpf_link_create` failed");
        format!("{:#}", with_advice(error, tried).context("cannot attach to eth0"))
    }

    #[test]
    fn advice_stands_between_failed_action_and_kernel_error() {
        let said = said(Errno::ERANGE, Attempt::AttachNatively);
        assert!(said.starts_with("cannot attach to eth0: the MTU is too large for native XDP"), "{said}");
        assert!(
            said.ends_with("`bpf_link_create` failed: Numerical result out of range (os error 34)"),
            "{said}"
        );
    }

    #[test]
    fn nix_errno_gets_advice_and_other_errors_stay_unchanged() {
        let error = Err::<(), _>(Errno::EROFS).context("cannot make /run/slb").unwrap_err();
        let error = format!("{:#}", with_advice(error, Attempt::Write));
        assert!(error.contains("read-only") && error.ends_with("EROFS: Read-only file system"), "{error}");
        assert_eq!(said(Errno::ENODEV, Attempt::AttachNatively).matches(": ").count(), 2);
        let plain = with_advice(anyhow::anyhow!("no number"), Attempt::Bind);
        assert_eq!(format!("{plain:#}"), "no number");
    }

    /// Common errors have a remedy that names an action.
    #[test]
    fn common_errors_have_advice_for_the_failed_action() {
        for (tried, numbers, words) in [
            (Attempt::MakeMap, &[Errno::EPERM][..], "CAP_BPF"),
            (Attempt::MakeMap, &[Errno::ENOMEM, Errno::ENOSPC], "flow_table_entries"),
            (Attempt::LoadProgram, &[Errno::EPERM], "lockdown"),
            (Attempt::LoadProgram, &[Errno::EACCES], "CAP_PERFMON"),
            (
                Attempt::AttachNatively,
                &[Errno::ERANGE, Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOMEM],
                "xdp_mode",
            ),
            (Attempt::AttachGenerically, &[Errno::EPERM], "CAP_NET_ADMIN"),
            (Attempt::MountBpfFs, &[Errno::EPERM], "bind-mount"),
            (Attempt::MountBpfFs, &[Errno::ENOENT], "sysfs"),
            (Attempt::UseBpfFs, &[Errno::EPERM, Errno::EACCES], "user namespace"),
            (Attempt::UseBpfFs, &[Errno::ENOENT], "make"),
            (Attempt::MakeNamespace, &[Errno::EPERM], "CAP_SYS_ADMIN"),
            (Attempt::OpenTun, &[Errno::EPERM, Errno::EACCES], "DeviceAllow"),
            (Attempt::OpenTun, &[Errno::ENOENT], "module"),
            (Attempt::Bind, &[Errno::EADDRINUSE], "remove it"),
            (Attempt::Write, &[Errno::EROFS], "read-only"),
            (Attempt::Write, &[Errno::ENOENT], "exists"),
        ] {
            for number in numbers {
                let advice = of(tried, *number).unwrap_or_default();
                assert!(advice.contains(words), "{tried:?} {number}: {advice:?}");
            }
        }
    }

    /// An existing directory is on a mounted file system.
    #[test]
    fn mounted_bpf_file_system_gets_no_advice_to_mount() {
        for number in [Errno::EPERM, Errno::EACCES, Errno::ENOENT, Errno::EROFS, Errno::ENOTDIR] {
            let advice = of(Attempt::UseBpfFs, number).unwrap_or_default();
            assert!(
                !advice.is_empty() && !advice.contains("mount -t") && !advice.contains("bind-mount"),
                "{number}: {advice}"
            );
        }
    }
}
