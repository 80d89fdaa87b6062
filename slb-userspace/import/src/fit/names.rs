//! Names as SLB has them: 1 to 63 characters of `A-Z a-z 0-9 . _ -`, each once.

use std::collections::HashSet;

const MAX_LEN: usize = 63;

/// Names given so far.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    /// A name that is not given yet, as near to `wish` as the rules allow.
    pub(super) fn unique(&mut self, wish: &str) -> String {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
        let mut base: String = wish.trim().chars().map(allowed).take(MAX_LEN).collect();
        if base.is_empty() {
            "service".clone_into(&mut base);
        }
        let mut name = base.clone();
        let mut number = 2_u64;
        while self.0.contains(&name) {
            let suffix = format!("-{number}");
            name = base.chars().take(MAX_LEN - suffix.len()).chain(suffix.chars()).collect();
            number += 1;
        }
        self.0.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_and_are_unique() {
        let mut names = Names::default();
        assert_eq!(names.unique("web"), "web");
        assert_eq!(names.unique("web"), "web-2");
        assert_eq!(names.unique("vip-2001:db8::1"), "vip-2001-db8--1");
        assert_eq!(names.unique(" "), "service");
        let long = "x".repeat(100);
        assert_eq!(names.unique(&long).len(), 63);
        let second = names.unique(&long);
        assert!(second.len() == 63 && second.ends_with("-2"), "{second}");
    }
}
