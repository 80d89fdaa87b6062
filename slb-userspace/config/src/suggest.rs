//! "Did you mean": the nearest valid word.

/// The candidate that is most likely meant by `word`; `None` if none is near.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    // A third of the letters may be wrong, so that "udp" is never offered for "tcp".
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Formats the first `most` words as a list: "`a`, `b`, `c`".
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>, most: usize) -> String {
    let mut words = words.into_iter();
    let mut text = words.by_ref().take(most).map(quoted).collect::<Vec<_>>().join(", ");
    let more = words.count();
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// Quotes text from a file in backticks. Control characters are escaped and the length is limited.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_words_are_suggested() {
        assert_eq!(closest("tpc", ["tcp", "udp"]), Some("tcp"));
        assert_eq!(closest("TCP", ["tcp", "udp"]), Some("tcp"));
        assert_eq!(closest("weigth", ["address", "port", "weight"]), Some("weight"));
        assert_eq!(closest("sctp", ["udp"]), None);
        assert_eq!(closest("http", ["tcp", "none"]), None);
        assert_eq!(closest("", ["tcp"]), None);
    }

    #[test]
    fn most_similar_word_is_suggested() {
        assert_eq!(closest("web-2", ["web-10", "web-22", "web-1"]), Some("web-22"));
        assert_eq!(closest("native", ["natives", "native"]), Some("native"));
    }

    #[test]
    fn long_list_ends_with_the_number_of_omitted_words() {
        assert_eq!(listed(["a", "b"], 2), "`a`, `b`");
        assert_eq!(listed(["a", "b", "c", "d"], 2), "`a`, `b` and 2 more");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(quoted("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        assert_eq!(quoted(&"x".repeat(65)), format!("`{}…`", "x".repeat(64)));
    }
}
