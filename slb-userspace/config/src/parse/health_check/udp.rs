//! Settings of UDP checks.

use crate::{
    diagnostic::Diagnostic,
    field::Checker,
    model::UdpCheck,
    raw::{self, Value},
};

/// Maximum number of characters of `request` and `expect`.
const MAX_BYTES: usize = 500;

/// Prefix of hexadecimal bytes.
const HEX: &str = "hex:";

pub(super) fn build(checker: &mut Checker, raw: &raw::RawHealthCheck) -> Option<UdpCheck> {
    let request = raw.request.as_ref().map_or(Some(Vec::new()), |value| bytes(checker, "request", value));
    let expect = raw.expect.as_ref().map_or(Some(None), |value| bytes(checker, "expect", value).map(Some));
    if let (Some(expect), None) = (&raw.expect, &raw.request) {
        return checker.refuse(
            Diagnostic::error(
                expect.span(),
                "`expect` without `request`",
                "without a request there is no answer to compare",
            )
            .help("add the payload, as in `request = \"ping\"`"),
        );
    }
    Some(UdpCheck { request: request?, expect: expect? })
}

/// Parses text, or hexadecimal bytes after `hex:`.
fn bytes(checker: &mut Checker, key: &str, value: &Value) -> Option<Vec<u8>> {
    let expected = "text, or bytes as in \"hex:0d0a\"";
    let text = checker.text(key, value, expected)?;
    let length = text.chars().count();
    if !(1..=MAX_BYTES).contains(&length) {
        let message = format!("`{key}` cannot have {length} characters");
        return checker.refuse(Diagnostic::error(
            value.span(),
            message,
            format!("allowed: 1 to {MAX_BYTES}"),
        ));
    }
    if let Some(digits) = text.strip_prefix(HEX) {
        let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
            _ => None,
        });
        return match pairs.collect::<Option<Vec<u8>>>() {
            Some(bytes) if !bytes.is_empty() => Some(bytes),
            _ => checker.refuse(
                Diagnostic::error(
                    value.span(),
                    format!("`{key}` is not hexadecimal"),
                    "expected pairs of the digits 0-9 a-f after `hex:`",
                )
                .help("for example \"hex:0d0a\""),
            ),
        };
    }
    if text.chars().any(char::is_control) {
        return checker.refuse(
            Diagnostic::error(
                value.span(),
                format!("`{key}` holds a control character"),
                "expected printable text",
            )
            .help("write bytes in hexadecimal, as in \"hex:0d0a\""),
        );
    }
    Some(text.as_bytes().to_vec())
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
