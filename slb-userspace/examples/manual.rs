//! Writes manual pages and shell completions of all programs, from their command lines, into a directory: `man/`, and
//! `bash/`, `zsh/`, `fish/`. `cargo xtask manual` runs it.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

#[path = "../src/bin/slb.rs"]
#[expect(dead_code, reason = "only the command line is used")]
mod slb;
#[path = "../src/bin/slb-decap.rs"]
#[expect(dead_code, reason = "only the command line is used")]
mod slb_decap;
#[path = "../src/bin/slb-toa.rs"]
#[expect(dead_code, reason = "only the command line is used")]
mod slb_toa;
#[path = "../src/bin/slbd.rs"]
#[expect(dead_code, reason = "only the command line is used")]
mod slbd;

const SHELLS: [(Shell, &str); 3] = [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];

/// Files, and other pages, of each program.
const DAEMON: &str = ".SH FILES\n.TP\n/etc/slb/slb.toml\nThe configuration. /usr/share/doc/slb describes every setting.\n\
    .TP\n/etc/default/slbd\nEnvironment and arguments of the service.\n\
    .TP\n/run/slb/slbd.sock\nThe socket of the API.\n\
    .TP\n/sys/fs/bpf/slb\nPins of maps and links: forwarding goes on while they exist.\n\
    .TP\n/var/lib/slb\nWeights and admin states set at run time, and state that a restart needs.\n\
    .SH SEE ALSO\n\\fBslb\\fR(1), \\fBslb\\-decap\\fR(8), \\fBslb\\-toa\\fR(8)\n";
const CLIENT: &str = ".SH FILES\n.TP\n/run/slb/slbd.sock\nThe socket of the daemon. It is open to root and to the group slb.\n\
    .SH SEE ALSO\n\\fBslbd\\fR(8)\n";
const SERVER: &str = ".SH SEE ALSO\n\\fBslbd\\fR(8), \\fBslb\\fR(1)\n";

fn main() -> Result<()> {
    let to = env::args_os().nth(1).map(PathBuf::from).context("usage: manual DIRECTORY")?;
    for (command, section, rest) in [
        (slb::Arguments::command(), "1", CLIENT),
        (slbd::Arguments::command(), "8", DAEMON),
        (slb_decap::Arguments::command(), "8", SERVER),
        (slb_toa::Arguments::command(), "8", SERVER),
    ] {
        let name = command.get_name().to_owned();
        write(command, section, rest, &to).with_context(|| name)?;
    }
    Ok(())
}

fn write(mut command: Command, section: &str, rest: &str, to: &Path) -> Result<()> {
    let name = command.get_name().to_owned();
    // Each page would be repeated as one of `help`.
    let mut documented = command.clone().disable_help_subcommand(true);
    for (shell, directory) in SHELLS {
        let directory = to.join(directory);
        fs::create_dir_all(&directory)?;
        generate_to(shell, &mut command, &name, directory)?;
    }
    let directory = to.join("man");
    fs::create_dir_all(&directory)?;
    documented.build();
    page(&documented, section, rest, &directory)
}

/// Writes the page of a command, and those of its subcommands.
fn page(command: &Command, section: &str, rest: &str, to: &Path) -> Result<()> {
    let visible = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    for subcommand in visible {
        page(subcommand, section, "", to)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(section)
        .source(format!("SLB {}", env!("CARGO_PKG_VERSION")))
        .manual("SLB Manual");
    let mut text = Vec::new();
    man.render(&mut text)?;
    text.write_all(rest.as_bytes())?;
    Ok(fs::write(to.join(format!("{name}.{section}")), text)?)
}
