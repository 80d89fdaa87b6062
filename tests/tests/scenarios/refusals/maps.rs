//! Pinned maps with the right names and another layout are neither used nor changed.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use slb_common::abi::{ABI_VERSION, control::Control};
use slb_tests::{World, scenario};

use super::{WEIGHTS, works};

const INSTEAD: &str = "run `slbd detach`, which interrupts forwarding until the next start";

#[test]
fn maps_with_another_layout_are_refused() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        world.terminate()?;
        let maps = world.plan.pin_dir.join(format!("v{ABI_VERSION}/maps"));
        // Another number of entries, another value size, another map type.
        for (name, other) in
            [("ROUND_ROBIN", "CONNECTIONS"), ("SERVICES", "ROUND_ROBIN"), ("CONTROL", "TOTALS")]
        {
            swap(&maps, name, other)?;
            let words = format!("{} is not a map of this program (type, key size", maps.join(name).display());
            is_refused(world, &[&words, INSTEAD])?;
            swap(&maps, name, other)?;
        }
        world.start()?;
        works(world)
    });
}

#[test]
fn maps_of_another_version_are_refused() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        world.terminate()?;
        let pin = world.plan.pin_dir.join(format!("v{ABI_VERSION}/maps/CONTROL"));
        let mut map: Array<_, Control> = Map::from_map_data(MapData::from_pin(&pin)?)?.try_into()?;
        let control = map.get(&0, 0)?;
        map.set(0, Control { abi_version: ABI_VERSION + 1, ..control }, 0)?;
        let words = format!(
            "{} says that the maps are of ABI version {}, and this program uses {ABI_VERSION}",
            pin.display(),
            ABI_VERSION + 1
        );
        is_refused(world, &[&words, INSTEAD])?;
        map.set(0, control, 0)?;
        world.start()?;
        works(world)
    });
}

/// The version of 171a702 and a newer one.
#[test]
fn pins_that_cannot_be_taken_over_are_refused() {
    scenario!(&WEIGHTS, |world| {
        world.start()?;
        world.terminate()?;
        let programs = world.programs()?;
        for version in [6, ABI_VERSION + 1] {
            let other = world.plan.pin_dir.join(format!("v{version}"));
            fs::rename(world.pins(), &other)?;
            let output = world.slbd("run", &world.plan.toml())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success(), "{said}");
            for words in [
                format!("holds pins of another version (v{version}; this program uses v{ABI_VERSION}"),
                "nothing was changed, and forwarding continues".to_owned(),
                "run `slbd detach` first, which interrupts forwarding until the next start".to_owned(),
            ] {
                ensure!(said.contains(&words), "no `{words}` in: {said}");
            }
            ensure!(!world.pins().exists() && other.join("maps/CONTROL").exists(), "the pins have changed");
            ensure!(world.programs()? == programs, "another program");
            works(world)?;
            fs::rename(&other, world.pins())?;
        }
        world.start()?;
        works(world)
    });
}

fn swap(maps: &Path, one: &str, other: &str) -> Result<()> {
    let [one, other, aside] = [one, other, "ASIDE"].map(|name| maps.join(name));
    fs::rename(&one, &aside)?;
    fs::rename(&other, &one)?;
    Ok(fs::rename(&aside, &other)?)
}

/// A start and `slb status` refuse the maps, and the attached programs go on forwarding.
fn is_refused(world: &World, words: &[&str]) -> Result<()> {
    let output = world.slbd("run", &world.plan.toml())?;
    let started = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{started}");
    let pins = world.plan.pin_dir.display().to_string();
    let looked = world.slb_refused(&["status", "--pin-dir", &pins])?;
    ensure!(looked.contains("no daemon listens, and its pins cannot be read"), "{looked}");
    for said in [started, looked] {
        ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    works(world)
}
