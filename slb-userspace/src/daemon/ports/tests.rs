use super::*;

#[test]
fn interface_is_found_by_its_name_and_altnames() {
    let link = |index, name: &str, altnames: &[&str]| Link {
        altnames: altnames.iter().map(|name| (*name).to_owned()).collect(),
        ..Link::sample(index, name)
    };
    let links = by_names(vec![link(1, "lo", &[]), link(2, "eth0", &["enp9s0", "uplink"])]);
    let found: Vec<_> = links.iter().map(|(name, link)| (name.as_str(), link.index)).collect();
    assert_eq!(found, [("enp9s0", 2), ("eth0", 2), ("lo", 1), ("uplink", 2)]);
    assert_eq!(missing(&["uplink".to_owned(), "eth1".to_owned()], &links), ["eth1"]);
}
