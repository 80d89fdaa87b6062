//! The head of an HTTP/1 answer, parsed while it arrives.
//!
//! Only the status code counts. Header fields are skipped, so a check is no stricter than a client. Like curl, whose
//! limits these are, it accepts folded fields, spaces before a colon, and a head that ends with the connection.

use httparse::{EMPTY_HEADER, ParserConfig, Response};

use crate::health::ProbeError;

/// Limit in bytes for all heads, interim responses included.
pub(super) const MAX_HEAD_BYTES: usize = 300 * 1024;
/// Limit in bytes for one line of a head.
pub(super) const MAX_LINE_BYTES: usize = 100 * 1024;
/// Bytes of an incomplete status line that are parsed: enough for the status code.
const START: usize = 64;

/// State of the parser.
#[derive(Debug, Default)]
pub(super) struct Head {
    total: usize,
    /// The beginning of the status line, up to `START` bytes.
    start: Vec<u8>,
    /// Length in bytes of the incomplete line.
    line: usize,
    /// Whether the incomplete line has anything except CR and LF.
    is_filled: bool,
    /// From the status line, once it is complete.
    status: Option<u16>,
}

impl Head {
    /// Parses further bytes. Returns the status code once the head is complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<u16>, ProbeError> {
        for chunk in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.total += chunk.len();
            self.line += chunk.len();
            if self.line > MAX_LINE_BYTES || self.total > MAX_HEAD_BYTES {
                return Err(ProbeError::HeadTooLong { line: MAX_LINE_BYTES, total: MAX_HEAD_BYTES });
            }
            self.is_filled |= chunk.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
            let ends = chunk.ends_with(b"\n");
            if self.status.is_none() {
                self.status_line(chunk, ends)?;
            } else if ends
                && !self.is_filled
                && let Some(status) = self.end()
            {
                return Ok(Some(status));
            }
            if ends {
                (self.line, self.is_filled) = (0, false);
            }
        }
        Ok(None)
    }

    /// The status code if the connection ends here, which also ends the head.
    pub(super) fn at_eof(&self) -> Option<u16> {
        self.status.filter(|status| !is_interim(*status))
    }

    /// The status code at the empty line. Another response follows an interim one (RFC 9110, section 15.2).
    fn end(&mut self) -> Option<u16> {
        let status = self.status.take();
        self.start.clear();
        status.filter(|status| !is_interim(*status))
    }

    fn status_line(&mut self, chunk: &[u8], ends: bool) -> Result<(), ProbeError> {
        let more = START.saturating_sub(self.start.len()).min(chunk.len());
        self.start.extend_from_slice(&chunk[..more]);
        let mut line = self.start.clone();
        let name = line.len().min(b"HTTP".len());
        line[..name].make_ascii_uppercase();
        if ends {
            // Cut the rest of the reason phrase, and add the end of a head without fields.
            line.truncate(line.trim_ascii_end().len());
            line.extend_from_slice(b"\r\n\r\n");
        }
        let mut response = Response::new(&mut [EMPTY_HEADER; 0]);
        let mut config = ParserConfig::default();
        config.allow_multiple_spaces_in_response_status_delimiters(true);
        config.parse_response(&mut response, &line).map_err(ProbeError::NotHttp)?;
        if ends {
            self.status = Some(response.code.ok_or(ProbeError::NotHttp(httparse::Error::Status))?);
        }
        Ok(())
    }
}

/// Whether another response follows. None follows 101, which is answered only to a request for an upgrade.
fn is_interim(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::*,
        sample::{Index, select},
    };

    use super::*;

    fn status(bytes: &[u8]) -> Result<Option<u16>, ProbeError> {
        Head::default().push(bytes)
    }

    #[test]
    fn status_is_known_only_after_the_empty_line() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        for cut in 0..head.len() {
            assert_eq!(status(&head[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(status(head).unwrap(), Some(200));
    }

    #[test]
    fn interim_http_responses_are_skipped() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 503 No\r\n\r\n";
        assert_eq!(status(text).unwrap(), Some(503));
        assert_eq!(status(&text[..30]).unwrap(), None);
    }

    #[test]
    fn closed_connection_ends_the_response_head() {
        let mut head = Head::default();
        assert_eq!(head.push(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200").unwrap(), None);
        assert_eq!(head.at_eof(), None);
        assert_eq!(head.push(b" OK\r\nA: b").unwrap(), None);
        assert_eq!(head.at_eof(), Some(200));
    }

    #[test]
    fn response_head_limits_hold_for_a_line_and_in_total() {
        let line = |length: usize| [vec![b'x'; length - 1], b"\n".to_vec()].concat();
        let after = |lines: &[u8]| status(&[b"HTTP/1.1 200 OK\r\n", lines].concat());
        assert_eq!(after(&line(MAX_LINE_BYTES)).unwrap(), None);
        let long = after(&line(MAX_LINE_BYTES + 1)).unwrap_err().to_string();
        assert_eq!(
            long,
            "the head of the answer is longer than 300 KiB, or a line of it longer than 100 KiB"
        );
        assert_eq!(after(&line(MAX_LINE_BYTES / 2).repeat(5)).unwrap(), None);
        assert_eq!(after(&line(MAX_LINE_BYTES / 2).repeat(6)).unwrap_err().to_string(), long);
        assert!(status(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000)).is_err());
    }

    #[test]
    fn non_http_answer_is_refused_with_its_first_bytes() {
        for text in
            ["SSH-2.0-Open", "HTTP/2 200", "HTTP/1.1 2x0", "HTTP/1.1 1000 OK\r\n", "HTTP/1.1\r\n", "\0"]
        {
            let error = status(text.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("not an answer of HTTP/1: "), "{error}");
        }
    }

    proptest! {
        /// The result does not depend on how the bytes are split.
        #[test]
        fn response_head_is_independent_of_read_boundaries(
            pieces in vec(select(&["HTTP/1.1 ", "http", "100 ", "204 ", "\r\n", "\n", "A: b", "ß"][..]), 0..12),
            cut in any::<Index>(),
        ) {
            let bytes = pieces.concat().into_bytes();
            let (first, rest) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut head = Head::default();
            let before = head.push(first);
            if let Ok(None) = before {
                prop_assert_eq!(format!("{:?}", head.push(rest)), format!("{:?}", status(&bytes)));
            }
        }
    }
}
