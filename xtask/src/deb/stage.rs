//! The tree of a package before it is built.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Shells, by the directory of `cargo xtask manual`: the directory of completions, and the file's name around that of the
/// program.
const SHELLS: [(&str, &str, &str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions", "", ".bash"),
    ("zsh", "usr/share/zsh/vendor-completions", "_", ""),
    ("fish", "usr/share/fish/vendor_completions.d", "", ".fish"),
];
/// Names of maintainer scripts.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// The tree.
pub(super) struct Stage {
    root: PathBuf,
    workspace: PathBuf,
}

impl Stage {
    /// An empty tree at `root`.
    pub(super) fn create(root: PathBuf, workspace: PathBuf) -> Result<Self> {
        let stage = Self { root, workspace };
        stage.directory(&stage.root.join("DEBIAN"))?;
        Ok(stage)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a directory, and those above it, with a mode that does not depend on the umask.
    fn directory(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            if let Some(parent) = path.parent().filter(|parent| parent.starts_with(&self.root)) {
                self.directory(parent)?;
            }
            fs::create_dir_all(path).with_context(|| path.display().to_string())?;
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.root.join(path);
        self.directory(path.parent().context("a file is in a directory")?)?;
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(path)
    }

    /// Copies a file to a path of the tree.
    pub(super) fn install(&self, from: &Path, path: &str, mode: u32) -> Result<PathBuf> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(path, &content, mode)
    }

    /// Installs manual pages and completions of a program.
    pub(super) fn manual_of(&self, program: &str, manual: &Path) -> Result<()> {
        let pages = fs::read_dir(manual.join("man"))?.collect::<std::io::Result<Vec<_>>>()?;
        for page in pages {
            let file = page.file_name().to_string_lossy().into_owned();
            let (name, section) = file.rsplit_once('.').context("a page has a section")?;
            if is_page_of(name, program) {
                let path = format!("usr/share/man/man{section}/{file}.gz");
                self.write(&path, &gzip(&fs::read(page.path())?)?, 0o644)?;
            }
        }
        for (shell, directory, prefix, suffix) in SHELLS {
            let from = manual.join(shell).join(format!("{prefix}{program}{suffix}"));
            // bash-completion looks for the name of the program.
            let name =
                if shell == "bash" { program.to_owned() } else { format!("{prefix}{program}{suffix}") };
            self.install(&from, &format!("{directory}/{name}"), 0o644)?;
        }
        Ok(())
    }

    /// Writes the copyright file.
    pub(super) fn copyright(&self, package: &str) -> Result<()> {
        let template = fs::read_to_string(self.workspace.join("packaging/deb/copyright"))?;
        let licence = fs::read_to_string(self.workspace.join("LICENSE-MIT"))?;
        let line = |line: &str| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") };
        let licence: String = licence.trim_end().lines().map(line).collect();
        let text = template.replace("@MIT@\n", &licence);
        self.write(&format!("usr/share/doc/{package}/copyright"), text.as_bytes(), 0o644).map(drop)
    }

    /// Writes Debian's changelog, and for `slb` that of the project.
    pub(super) fn changelog(&self, package: &str, version: &str) -> Result<()> {
        let date = Command::new("git")
            .args(["log", "-1", "--format=%cD"])
            .current_dir(&self.workspace)
            .output()
            .context("cannot run git")?;
        let date = String::from_utf8(date.stdout)?;
        let entry = format!(
            "{package} ({version}) unstable; urgency=medium\n\n  * Package of this release; changes are in CHANGELOG.md.\n\n \
             -- The SLB Authors <maintainers@slb.invalid>  {}\n",
            date.trim()
        );
        let path = format!("usr/share/doc/{package}/changelog.Debian.gz");
        self.write(&path, &gzip(entry.as_bytes())?, 0o644)?;
        let text = fs::read(self.workspace.join("CHANGELOG.md"))?;
        self.write(&format!("usr/share/doc/{package}/changelog.gz"), &gzip(&text)?, 0o644).map(drop)
    }

    /// Writes the control files. The libraries that `programs` use become dependencies.
    pub(super) fn control(
        &self,
        programs: &[String],
        package: &str,
        version: &str,
        architecture: &str,
    ) -> Result<()> {
        let from = self.workspace.join("packaging/deb").join(package);
        let template = fs::read_to_string(from.join("control"))?;
        let depends = self.libraries(programs)?;
        let size = Command::new("du").args(["-sk", "--exclude=DEBIAN"]).arg(&self.root).output()?.stdout;
        let size = String::from_utf8(size)?.split_whitespace().next().unwrap_or("0").to_owned();
        let fields = format!("Version: {version}\nArchitecture: {architecture}\nInstalled-Size: {size}\n");
        let (head, rest) = template.split_once('\n').context("a control file has lines")?;
        let text = format!("{head}\n{fields}{rest}").replace("@DEPENDS@", &depends);
        self.write("DEBIAN/control", text.as_bytes(), 0o644)?;
        self.install(&from.join("conffiles"), "DEBIAN/conffiles", 0o644)?;
        for script in SCRIPTS.into_iter().filter(|script| from.join(script).exists()) {
            self.install(&from.join(script), &format!("DEBIAN/{script}"), 0o755)?;
        }
        let sums = "find . -path ./DEBIAN -prune -o -type f -printf '%P\\0' | sort -z | xargs -0 md5sum";
        let sums = output(Command::new("sh").args(["-c", sums]).current_dir(&self.root))?;
        self.write("DEBIAN/md5sums", &sums, 0o644).map(drop)
    }

    /// Dependencies on shared libraries, from the symbols that programs use.
    fn libraries(&self, programs: &[String]) -> Result<String> {
        // dpkg-shlibdeps wants a source package around it.
        let beside = self.root.with_extension("source");
        fs::create_dir_all(beside.join("debian"))?;
        fs::write(beside.join("debian/control"), "Source: slb\n\nPackage: slb\nArchitecture: any\n")?;
        let programs = programs.iter().map(|program| self.root.join(program));
        let said = output(Command::new("dpkg-shlibdeps").arg("-O").args(programs).current_dir(&beside))?;
        fs::remove_dir_all(&beside)?;
        let said = String::from_utf8(said)?;
        let depends = said.trim().strip_prefix("shlibs:Depends=").context("no dependencies")?;
        Ok(depends.to_owned())
    }
}

/// Whether a page is one of a program or of its subcommands: `slb-status` of `slb`, `slb-decap` not.
fn is_page_of(page: &str, program: &str) -> bool {
    let is_other =
        |other: &str| other != program && (page == other || page.starts_with(&format!("{other}-")));
    (page == program || page.starts_with(&format!("{program}-")))
        && !["slb-decap", "slb-toa"].into_iter().any(is_other)
}

/// Compresses without name and time.
fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .args(["-9", "-n"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run gzip")?;
    let mut input = child.stdin.take().context("gzip has an input")?;
    let content = content.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&content));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer to gzip panicked"))??;
    ensure!(output.status.success(), "gzip failed: {}", output.status);
    Ok(output.stdout)
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::is_page_of;

    #[test]
    fn pages_belong_to_the_program_of_their_longest_name() {
        for (page, program, belongs) in [
            ("slb", "slb", true),
            ("slb-status", "slb", true),
            ("slb-decap", "slb", false),
            ("slb-toa-attach", "slb", false),
            ("slbd-run", "slb", false),
            ("slbd-run", "slbd", true),
            ("slb-decap-attach", "slb-decap", true),
            ("slb-toa", "slb-decap", false),
        ] {
            assert_eq!(is_page_of(page, program), belongs, "{page} of {program}");
        }
    }
}
