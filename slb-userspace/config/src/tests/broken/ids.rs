//! Ids: characters, uniqueness in each kind, and the names that stand for them.

use super::{super::accepted, assert_single, changed, check, errors};

const SHOP: &str = "name = \"shop\"";
const DNS: &str = "name = \"dns\"";
const GROUP: &str = "name = \"web\"\nservers";

#[test]
fn invalid_ids_are_refused_with_the_characters_that_may_stand_in_one() {
    check(&[
        (SHOP, "name = \"shop\"\nid = \"a b\"", "6:6", &["an id cannot contain ` `", "for example \"a-b\""]),
        (DNS, "name = \"dns\"\nid = \"\"", "13:6", &["an id cannot have 0 characters", "1 to 63"]),
        (
            GROUP,
            "name = \"web\"\nid = 7\nservers",
            "25:6",
            &["expected a string for `id`", "an id has 1 to 63"],
        ),
    ]);
}

#[test]
fn id_used_twice_in_a_kind_is_refused_with_both_places() {
    let remedy = "write another `id`";
    check(&[
        (
            "name = \"web\"\nprotocol",
            "name = \"web\"\nid = \"dns\"\nprotocol",
            "19:6",
            &["listener id `dns` appears twice", "first here: this name is its id, too", remedy],
        ),
        (
            "[[server_group]]",
            "[[server_group]]\nname = \"old\"\nid = \"web\"\n\n[[server_group]]",
            "28:8",
            &[
                "server group id `web` appears twice",
                "this name is its id, too",
                "first here: this id",
                remedy,
            ],
        ),
    ]);
    // Groups of both kinds are one kind here, as with names.
    let text = changed("server_group = \"web\"", "primary_secondary_group = \"db\"")
        .replace("[[server_group]]\nname = \"web\"", "[[server_group]]\nname = \"web\"\nid = \"g\"")
        + "\n[[primary_secondary_group]]\nname = \"db\"\nid = \"g\"\n\
           primary = { address = \"10.0.0.31\", port = 80 }\nsecondary = { address = \"10.0.0.32\", port = 80 }\n";
    assert_single(
        &errors(&text),
        "33:6",
        &["server group id `g` appears twice", "first here: this id"],
        &text,
    );
    // Load balancers.
    let text = super::super::BASE.to_owned()
        + "\n[[load_balancer]]\nname = \"store\"\nid = \"shop\"\naddresses = [\"192.0.2.11\"]\n";
    assert_single(&errors(&text), "32:6", &["load balancer id `shop` appears twice"], &text);
}

#[test]
fn equal_names_are_reported_once_and_not_again_as_ids() {
    check(&[(
        "name = \"web\"\nprotocol",
        "name = \"dns\"\nprotocol",
        "18:8",
        &["listener `dns` appears twice"],
    )]);
}

#[test]
fn id_is_the_name_unless_it_is_written() {
    let ids = |text: &str| {
        let config = accepted(text);
        let balancer = &config.load_balancers[0];
        [&balancer.id, &balancer.listeners[0].id, &balancer.listeners[1].id, &config.server_groups[0].id]
            .map(ToString::to_string)
    };
    assert_eq!(ids(super::super::BASE), ["shop", "dns", "web", "web"]);
    let text = changed(SHOP, "name = \"store\"\nid = \"shop\"").replace(DNS, "name = \"d\"\nid = \"dns\"");
    let text = text.replace(GROUP, "name = \"web\"\nid = \"g-1\"\nservers");
    assert_eq!(ids(&text), ["shop", "dns", "web", "g-1"]);
    // Listeners of several load balancers may have the same id, and so may things of several kinds.
    let other = "\n[[load_balancer]]\nname = \"store\"\naddresses = [\"192.0.2.11\"]\n\
        [[load_balancer.listener]]\nname = \"names\"\nid = \"dns\"\nprotocol = \"udp\"\nport = 53\nserver_group = \"web\"\n\
        health_check = { kind = \"tcp\", port = 80 }\n";
    assert_eq!(
        accepted(&(super::super::BASE.to_owned() + other)).load_balancers[1].listeners[0].id.as_str(),
        "dns"
    );
}
