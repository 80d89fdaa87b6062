//! A DNS query as payload of a `udp` check (RFC 1035, 4.1).

/// Numbers of record types that keepalived knows.
const TYPES: [(&str, u16); 9] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("RRSIG", 46),
    ("DNSKEY", 48),
];

/// Query and question for a name, as SLB writes bytes. `None` if the name or the type cannot be asked for.
pub(super) fn query(name: &str, kind: &str) -> Option<(String, String)> {
    let (_, number) = TYPES.iter().find(|(word, _)| word.eq_ignore_ascii_case(kind))?;
    let mut question = String::new();
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.len() > 250 {
        return None;
    }
    for label in labels.split('.').filter(|_| !labels.is_empty()) {
        if !(1..=63).contains(&label.len()) || !label.is_ascii() {
            return None;
        }
        question += &format!("{:02x}", label.len());
        question.extend(label.bytes().map(|byte| format!("{byte:02x}")));
    }
    question += &format!("00{number:04x}0001");
    // Any id, recursion desired, one question.
    let request = format!("hex:534c01000001000000000000{question}");
    Some((request, format!("hex:{question}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_asks_for_name_and_type() {
        let (request, question) = query("a.example.", "aaaa").expect("query");
        assert_eq!(question, "hex:0161076578616d706c6500001c0001");
        assert_eq!(request, "hex:534c010000010000000000000161076578616d706c6500001c0001");
        assert_eq!(query(".", "NS").expect("root").1, "hex:0000020001");
        assert_eq!(query("a..b", "A"), None);
        assert_eq!(query("a", "NONE"), None);
    }
}
