//! The head of an answer, as it comes in.

use httparse::{EMPTY_HEADER, Error, Response};

use crate::health::ProbeError;

/// Most bytes of heads that are read, those of interim answers included.
pub(super) const LONGEST: usize = 16 * 1024;
/// Most fields of one head.
const FIELDS: usize = 128;

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    /// Where the head begins that is not complete yet.
    begin: usize,
}

impl Head {
    /// Whether no more is to be read.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= LONGEST
    }

    /// Where more is to be put.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        // What is read goes into the capacity that is there.
        self.bytes.reserve_exact(LONGEST.min(2 * self.bytes.len() + 512) - self.bytes.len());
        &mut self.bytes
    }

    /// The status, once the head is complete. Interim answers are passed over (RFC 9110, section 15.2).
    pub(super) fn status(&mut self) -> Result<Option<u16>, ProbeError> {
        loop {
            let mut fields = [EMPTY_HEADER; FIELDS];
            let mut response = Response::new(&mut fields);
            let end = match response.parse(&self.bytes[self.begin..]) {
                Ok(httparse::Status::Complete(length)) => self.begin + length,
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(error) => return Err(ProbeError::NotHttp(error)),
            };
            let status = response.code.ok_or(ProbeError::NotHttp(Error::Status))?;
            if !(100..200).contains(&status) {
                return Ok(Some(status));
            }
            self.begin = end;
        }
    }
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
        Head { bytes: bytes.to_vec(), begin: 0 }.status()
    }

    #[test]
    fn the_status_is_known_with_the_empty_line_only() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        for cut in 0..head.len() {
            assert_eq!(status(&head[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(status(head).unwrap(), Some(200));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 503 No\r\n\r\n";
        assert_eq!(status(text).unwrap(), Some(503));
        assert_eq!(status(&text[..30]).unwrap(), None);
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in ["SSH-2.0-OpenSSH_9.9\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "\0"] {
            let error = status(text.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("not an answer of HTTP/1: "), "{error}");
        }
    }

    proptest! {
        /// However the bytes are cut, the result is that of the whole.
        #[test]
        fn pieces_make_the_whole(
            pieces in vec(select(&["HTTP/1.1 ", "100 ", "204 ", "\r\n", "A: b", "ß"][..]), 0..12),
            cut in any::<Index>(),
        ) {
            let bytes = pieces.concat().into_bytes();
            let cut = cut.index(bytes.len() + 1);
            let mut head = Head { bytes: bytes[..cut].to_vec(), begin: 0 };
            let first = head.status();
            if let Ok(None) = first {
                head.bytes.extend_from_slice(&bytes[cut..]);
                prop_assert_eq!(format!("{:?}", head.status()), format!("{:?}", status(&bytes)));
            }
        }
    }
}
