//! Names, addresses, servers and table sizes that break a rule.

use super::{super::Diagnostic, changed, check, errors};

const VIP: &str = "\"192.0.2.10\"";
const SERVER_1: &str = "\"10.0.0.11\"";
const PORT_1: &str = "port = 8080 }";

#[test]
fn invalid_names_are_refused() {
    let long = format!("name = \"{}\"", "x".repeat(64));
    check(&[
        (
            "name = \"shop\"",
            "name = \"my shop\"",
            "5:8",
            &["a name cannot contain ` `", "for example \"my-shop\""],
        ),
        ("name = \"shop\"", "name = \"\"", "5:8", &["0 characters", "1 to 63"]),
        ("name = \"shop\"", &long, "5:8", &["64 characters", "1 to 63"]),
        ("name = \"dns\"", "name = \"dnß\"", "12:8", &["`ß`", "A-Z a-z 0-9 . _ -"]),
        ("name = \"dns\"", "name = 1", "12:8", &["expected a string for `name`, found an integer"]),
        ("name = \"shop\"\n", "", "4:1", &["`name` is missing", "this needs `name`"]),
        ("name = \"dns\"\n", "", "11:1", &["`name` is missing"]),
        (
            "name = \"dns\"",
            "name = \"web\"",
            "18:8",
            &["listener `web` appears twice", "again here", "12 | name = \"web\"", "first here"],
        ),
        (
            "[[server_group]]",
            "[[server_group]]\nname = \"web\"\n[[server_group]]",
            "26:8",
            &["server group `web` appears twice", "first here"],
        ),
        (
            "[[server_group]]",
            "[[primary_secondary_group]]\nname = \"web\"\n\
             primary = { address = \"10.0.0.31\", port = 80 }\n\
             secondary = { address = \"10.0.0.32\", port = 80 }\n[[server_group]]",
            "24:8",
            &["primary/secondary server group `web` appears twice", "first here"],
        ),
        (
            "[[server_group]]",
            "[[load_balancer]]\nname = \"shop\"\naddresses = [\"192.0.2.11\"]\n[[server_group]]",
            "24:8",
            &["load balancer `shop` appears twice", "5 | name = \"shop\"", "first here"],
        ),
    ]);
}

#[test]
fn reference_to_a_group_without_a_name_is_refused_too() {
    let report = errors(&changed("name = \"web\"\nservers", "servers"));
    let messages: Vec<_> = report.diagnostics().iter().map(Diagnostic::message).collect();
    assert_eq!(messages, ["server group `web` does not exist", "`name` is missing"], "{report}");
    assert!(report.to_string().contains("the file has no server group"), "{report}");
}

#[test]
fn invalid_addresses_are_refused() {
    check(&[
        ("addresses = [\"192.0.2.10\"]\n", "", "4:1", &["`addresses` is missing"]),
        ("[\"192.0.2.10\"]", "[]", "6:13", &["`addresses` is empty", "at least one"]),
        (VIP, "\"192.0.2.300\"", "6:14", &["`192.0.2.300` is not an IP address", "2001:db8::10"]),
        (VIP, "\"192.0.2.10/24\"", "6:14", &["write \"192.0.2.10\"", "without a prefix length"]),
        (VIP, "\"192.0.2.10:80\"", "6:14", &["write \"192.0.2.10\"", "ports have a field"]),
        (VIP, "\"www.example.org\"", "6:14", &["host names are not looked up"]),
        (VIP, "\"fe80::1%eth0\"", "6:14", &["link-local"]),
        (VIP, "10", "6:14", &["expected a string", "an IP address in quotes"]),
        (VIP, "\"0.0.0.0\"", "6:14", &["unspecified"]),
        (VIP, "\"224.0.0.1\"", "6:14", &["multicast"]),
        (VIP, "\"255.255.255.255\"", "6:14", &["broadcast"]),
        (VIP, "\"127.0.0.1\"", "6:14", &["loopback", "never leave"]),
        (VIP, "\"::1\"", "6:14", &["loopback"]),
        (VIP, "\"::\"", "6:14", &["unspecified"]),
        (VIP, "\"ff02::1\"", "6:14", &["multicast"]),
        (VIP, "\"::ffff:192.0.2.1\"", "6:14", &["IPv4-mapped", "write the IPv4 address itself"]),
        (VIP, "\"192.0.2.10\", \"192.0.2.10\"", "6:28", &["VIP `192.0.2.10` appears twice", "first here"]),
        (SERVER_1, "\"fe80::1\"", "26:15", &["link-local", "never forwarded"]),
        (SERVER_1, "\"0.0.0.0\"", "26:15", &["unspecified"]),
        (SERVER_1, "\"239.1.1.1\"", "26:15", &["multicast"]),
        (SERVER_1, "\"127.0.0.1\"", "26:15", &["loopback"]),
        (
            SERVER_1,
            "\"192.0.2.10\"",
            "26:15",
            &["server address `192.0.2.10` is a VIP", "return to SLB", "a VIP of load balancer `shop`"],
        ),
        ("\"10.0.0.21\"", "\"192.0.2.10\"", "9:11", &["is a VIP", "a VIP of load balancer `shop`"]),
        ("\"10.0.0.21\"", "\"127.0.0.1\"", "9:11", &["loopback"]),
        (
            "[[server_group]]",
            "[[load_balancer]]\nname = \"b\"\naddresses = [\"192.0.2.10\"]\n[[server_group]]",
            "25:14",
            &["appears twice", "one load balancer", "in load balancer `shop`"],
        ),
        (
            "[[server_group]]",
            "[[load_balancer]]\nname = \"b\"\naddresses = [\"10.0.0.21\"]\n[[server_group]]",
            "9:11",
            &["is a VIP", "a VIP of load balancer `b`"],
        ),
    ]);
}

#[test]
fn invalid_servers_are_refused() {
    check(&[
        ("address = \"10.0.0.11\", ", "", "26:3", &["`address` is missing"]),
        (", port = 8080 }", " }", "26:3", &["`port` is missing"]),
        ("address = \"10.0.0.21\"\n", "weight = 1\n", "8:1", &["`address` is missing"]),
        (
            "\"10.0.0.12\", port = 8081",
            "\"10.0.0.11\", port = 8080",
            "27:15",
            &["server `10.0.0.11:8080` appears twice", "26 |", "first here"],
        ),
        (
            "address = \"10.0.0.21\"\n",
            "address = \"10.0.0.21\"\n[[load_balancer.server]]\naddress = \"10.0.0.21\"\n",
            "11:11",
            &["server `10.0.0.21` appears twice", "first here"],
        ),
        (PORT_1, "port = 8080, weight = 300 }", "26:50", &["`weight` is out of range", "0 to 100"]),
        (PORT_1, "port = 8080, weight = 101 }", "26:50", &["`weight` is out of range", "0 to 100"]),
        (PORT_1, "port = 8080, weight = -1 }", "26:50", &["`weight` is out of range", "0 to 100"]),
        (
            PORT_1,
            "port = 8080, weight = 1.5 }",
            "26:50",
            &["expected an integer", "a number with a fraction"],
        ),
        (PORT_1, "port = 8080, weight = 99999999999999999999 }", "26:50", &["`weight` is out of range"]),
        (
            "address = \"10.0.0.21\"\n",
            "address = \"10.0.0.21\"\nweight = 101\n",
            "10:10",
            &["`weight` is out of range"],
        ),
        (PORT_1, "port = 0 }", "26:35", &["`port` is out of range", "1 to 65535"]),
        (
            PORT_1,
            "port = \"80\" }",
            "26:35",
            &["expected an integer for `port`, found a string", "without quotes: `port = 80`"],
        ),
        (
            PORT_1,
            "port = \"http\" }",
            "26:35",
            &["expected an integer for `port`, found a string", "1 to 65535"],
        ),
    ]);
}

#[test]
fn invalid_table_sizes_are_refused() {
    check(&[
        (
            "name = \"shop\"",
            "name = \"shop\"\ntable_size = 1000",
            "6:14",
            &["not a prime", "the nearest ones are 997 and 1009"],
        ),
        ("servers = [", "table_size = 65536\nservers = [", "25:14", &["not a prime", "65521 and 65537"]),
        ("servers = [", "table_size = 241\nservers = [", "25:14", &["out of range", "251 to 65537"]),
        ("servers = [", "table_size = 65539\nservers = [", "25:14", &["out of range", "251 to 65537"]),
    ]);
}

#[test]
fn invalid_interface_roles_are_refused() {
    const ETH0: &str = "[\"eth0\"]";
    check(&[
        (
            ETH0,
            "[{ name = \"eth0\", role = \"servers\" }]",
            "2:39",
            &["`role` cannot be `servers`", "\"client\", \"server\", \"both\"", "did you mean \"server\"?"],
        ),
        (
            ETH0,
            "[{ role = \"client\" }]",
            "2:15",
            &["`name` is missing", "{ name = \"eth1\", role = \"server\" }"],
        ),
        (ETH0, "[\"eth0\", { name = \"eth0\" }]", "2:32", &["interface `eth0` appears twice", "first here"]),
        (ETH0, "[{ name = \"eth0\", rule = \"client\" }]", "2:32", &["rule"]),
        (ETH0, "[{ name = 7 }]", "2:24", &["expected a string", "found an integer"]),
        (ETH0, "[7]", "2:15", &["expected a string", "found an integer"]),
        (
            ETH0,
            "[{ name = \"eth0\", role = \"server\" }]",
            "2:14",
            &["every interface has the role \"server\"", "\"client\" or \"both\""],
        ),
    ]);
}
