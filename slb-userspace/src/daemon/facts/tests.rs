//! What is kept of what probers say, and what the log says of it.

use super::*;
use crate::{
    config::samples::shop,
    control::desired::{self, Server, desired, targets},
    telemetry::logged,
};

/// The facts of a daemon that has just started with this configuration, and the check of its first server.
fn started(config: &Config) -> (Facts, Target) {
    let mut facts = Facts::remembered(config, &State::default(), BTreeMap::new());
    facts.expect(targets(config), BTreeMap::new());
    let target = targets(config).into_iter().next().unwrap();
    (facts, target)
}

fn server_of(config: &Config, facts: &Facts, target: &Target) -> Server {
    let pools = desired(config, facts.known(&Overrides::new())).pools;
    let mut servers = pools.into_iter().flat_map(|pool| pool.servers);
    servers.find(|(address, _)| *address == target.address).unwrap().1
}

#[test]
fn what_is_not_probed_keeps_its_health_and_says_so() {
    use desired::Health::{Healthy, Unhealthy, Unknown};
    let config = shop(&[]);
    let (mut facts, target) = started(&config);
    let mut heard = |news: News| {
        facts.heed(Event { target: target.clone(), news });
        let server = server_of(&config, &facts, &target);
        (server.health, server.detail.unwrap_or_default())
    };
    let is = |health, detail: &str| (health, detail.to_owned());
    let not_probed = || News::NotProbed("not probed: no way".to_owned());
    assert_eq!(heard(not_probed()), is(Unknown, "not probed: no way"));
    assert_eq!(heard(News::Healthy), is(Healthy, ""));
    assert_eq!(heard(not_probed()), is(Healthy, "not probed: no way"));
    assert_eq!(heard(News::Probed), is(Healthy, ""));
    assert_eq!(heard(News::Unhealthy("refused".to_owned())), is(Unhealthy, "refused"));
    assert_eq!(heard(not_probed()), is(Unhealthy, "refused; not probed: no way"));
    facts.forget_not_probed();
    assert_eq!(server_of(&config, &facts, &target).detail.as_deref(), Some("refused"));
}

#[test]
fn what_is_found_out_of_a_failure_is_its_detail_and_no_second_one() {
    let config = shop(&[]);
    let (mut facts, target) = started(&config);
    let log = logged(|| {
        for news in
            [News::Unhealthy("no answer".to_owned()), News::Explained("no answer at the VIP".to_owned())]
        {
            facts.heed(Event { target: target.clone(), news });
        }
    });
    assert_eq!(log.matches(" unhealthy").count(), 1, "{log}");
    assert!(log.contains("no answer at the VIP"), "{log}");
    let server = server_of(&config, &facts, &target);
    assert_eq!(server.detail.as_deref(), Some("no answer at the VIP"));
}
