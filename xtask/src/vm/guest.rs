//! Builds the guest: an initramfs with programs of this machine and modules of the kernel.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use ebpf_build::toolchain::Search;

use super::{
    kernel::{Image, Kernel},
    modules,
};
use crate::process::target_dir;

/// Programs of this machine that the tests run.
const TOOLS: [&str; 3] = ["ip", "ethtool", "teamnl"];
/// Programs of SLB that the tests run.
const PROGRAMS: [&str; 3] = ["slbd", "slb", "slb-toa"];
/// Directory of the test programs in the guest.
const HOME: &str = "slb";

/// Markers on the console before and after the output of a test program. The exit status follows the second one.
pub(super) const BEGIN: &str = "vm: begin ";
pub(super) const END: &str = "vm: end ";

/// A test program, and its tests to run.
pub(super) struct Run {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    /// Modules that the tests need, without the dependencies of these modules.
    pub(super) modules: &'static [&'static str],
    /// Parts of the names of the tests.
    pub(super) tests: Vec<String>,
}

/// Writes the initramfs of a kernel and returns its path.
///
/// # Errors
/// The kernel lacks a module, or a program is missing.
pub(super) fn initramfs(search: &Search, kernel: Kernel, image: &Image, runs: &[Run]) -> Result<PathBuf> {
    let directory = target_dir()?.join("vm");
    let root = directory.join(format!("{kernel}.root"));
    let _ = fs::remove_dir_all(&root);
    for directory in
        ["proc", "sys", "dev", "run", "tmp", "etc", "root", "usr", "var", "bin", "sbin", "modules", HOME]
    {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = tool(search, "busybox")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    let modules = runs.iter().map(|run| unpack_modules(&busybox, image, &root, run.modules));
    let modules = modules.collect::<Result<Vec<_>>>()?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    write_program(&root.join("init"), &script(&modules, runs))?;
    let mut libraries = BTreeSet::new();
    for name in TOOLS {
        let program = tool(search, name)?;
        fs::copy(&program, root.join("sbin").join(name))?;
        libraries.extend(needed(&program)?);
    }
    let built = PROGRAMS.map(|name| Ok((name, target_dir()?.join("debug").join(name))));
    let built = built.into_iter().collect::<Result<Vec<_>>>()?;
    for (name, path) in runs.iter().map(|run| (run.name, run.path.clone())).chain(built) {
        strip(&path, &root.join(HOME).join(name))?;
        libraries.extend(needed(&path)?);
    }
    for library in libraries {
        let to = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("a library lies in no directory")?)?;
        fs::copy(&library, to)?;
    }
    let archive = directory.join(format!("{kernel}.cpio"));
    pack(&busybox, &root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// Packs a directory as an initramfs.
fn pack(busybox: &Path, root: &Path, archive: &Path) -> Result<()> {
    let script = "\"$0\" find . | \"$0\" cpio -o -H newc";
    let mut command = Command::new(busybox);
    command.args(["sh", "-c", script]).arg(busybox).current_dir(root);
    let status = command.stdout(File::create(archive)?).stderr(Stdio::null()).status()?;
    if !status.success() {
        bail!("cannot pack {}", archive.display());
    }
    Ok(())
}

/// Adds the decompressed modules, and returns their paths in the guest in load order.
fn unpack_modules(busybox: &Path, image: &Image, root: &Path, names: &[&str]) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for module in modules::in_order(&image.modules, names)? {
        let from = image.modules.join(&module);
        let name = Path::new(&module).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let path = format!("modules/{}", name.trim_end_matches(".xz"));
        if name.ends_with(".xz") {
            let output = Command::new(busybox).args(["unxz", "-c"]).arg(&from).output()?;
            if !output.status.success() {
                bail!("cannot unpack {}", from.display());
            }
            fs::write(root.join(&path), output.stdout)?;
        } else {
            fs::copy(&from, root.join(&path))?;
        }
        paths.push(path);
    }
    Ok(paths)
}

fn write_program(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o755).open(path)?;
    Ok(file.write_all(content.as_bytes())?)
}

/// Script of the first process. It mounts the system's file systems, loads modules, runs the tests, and powers off.
/// `modules` are the module paths of each run.
fn script(modules: &[Vec<String>], runs: &[Run]) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         /bin/busybox mount -t devtmpfs dev /dev\n\
         exec </dev/console >/dev/console 2>&1\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/sbin:/bin HOME=/root\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mkdir -p /dev/pts /dev/shm\n\
         mount -t tmpfs tmp /tmp\n\
         mount -t tmpfs run /run\n\
         ln -s /run /var/run\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t cgroup2 none /sys/fs/cgroup\n\
         mount -t debugfs debug /sys/kernel/debug\n\
         ln -s /proc/self/fd /dev/fd\n\
         dmesg -n 1\n\
         ip link set lo up\n\
         echo 1 > /proc/sys/net/core/bpf_jit_enable\n",
    );
    for (Run { name, tests, .. }, modules) in runs.iter().zip(modules) {
        for module in modules {
            let _ = writeln!(
                script,
                "[ -e /{module}.loaded ] || insmod /{module} || echo 'vm: {module} cannot be loaded'\n: > /{module}.loaded"
            );
        }
        let tests = tests.iter().map(|test| format!(" '{}'", test.replace('\'', ""))).collect::<String>();
        let _ = writeln!(
            script,
            "echo '{BEGIN}{name}'\n\
             cd /{HOME}; ./{name} --show-output --test-threads=1{tests}\n\
             echo \"{END}{name} $?\""
        );
    }
    script.push_str("poweroff -f\n");
    script
}

fn tool(search: &Search, name: &str) -> Result<PathBuf> {
    search.program(name).with_context(|| format!("there is no {name} here: run cargo xtask setup --vm"))
}

/// Copies a program without debug information, which is most of its size.
fn strip(program: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(program).status();
    if !status.is_ok_and(|status| status.success()) {
        fs::copy(program, to).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    Ok(())
}

/// Shared libraries of a program, and its loader.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(libraries(&String::from_utf8_lossy(&output.stdout)))
}

fn libraries(answer: &str) -> Vec<PathBuf> {
    answer.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let answer =
            "\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/libc.so.6 (0x0)\n\t/lib64/ld-linux.so.2 (0x0)\n";
        assert_eq!(libraries(answer), ["/lib/libc.so.6", "/lib64/ld-linux.so.2"].map(PathBuf::from));
    }

    #[test]
    fn each_test_program_runs_between_its_marks() {
        let run = Run {
            name: "packets",
            path: PathBuf::new(),
            modules: &["veth"],
            tests: vec!["in_the_kernel".to_owned()],
        };
        let script = script(&[vec!["modules/veth.ko".to_owned()]], &[run]);
        let places = [
            "insmod /modules/veth.ko",
            "echo 'vm: begin packets'",
            "./packets --show-output",
            "vm: end packets $?",
        ]
        .map(|part| script.find(part).unwrap());
        assert!(places.is_sorted(), "{script}");
        assert!(script.ends_with("poweroff -f\n"));
    }
}
