//! Bulk transfers. The answer to `upload N` and N bytes is their SHA-256 in hexadecimal. The answer to `download N
//! SEED` is the first N bytes of SEED's pseudo-random sequence.

use std::{fmt::Write as _, io, sync::Arc};

use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Chunk size in bytes.
const CHUNK: usize = 64 * 1024;

/// Maximum length of a request line, in bytes.
const MAX_REQUEST: u64 = 64;

/// Serves one request.
pub(super) async fn serve(stream: TcpStream, _name: Arc<str>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    (&mut stream).take(MAX_REQUEST).read_line(&mut request).await?;
    let words: Vec<_> = request.split_whitespace().collect();
    match words[..] {
        ["upload", count] => {
            let digest = Digest::of(&mut stream, number(count)?).await?;
            stream.write_all(digest.as_bytes()).await
        }
        ["download", count, seed] => Chunks::new(number(seed)?, number(count)?).send(&mut stream).await,
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// SHA-256 of received bytes.
pub(crate) struct Digest;

impl Digest {
    /// Reads exactly `count` bytes and returns their SHA-256 in hexadecimal.
    pub(crate) async fn of(stream: &mut (impl AsyncReadExt + Unpin), count: u64) -> io::Result<String> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut left = count;
        while left > 0 {
            let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let read = stream.read(&mut buffer[..want]).await?;
            if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{left} of {count} bytes missing"),
                ));
            }
            hash.update(&buffer[..read]);
            left -= read as u64;
        }
        Ok(hex(&hash.finalize()))
    }
}

/// Pseudo-random bytes that depend on the seed only (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Chunks {
    state: u64,
    left: u64,
}

impl Chunks {
    /// The first `count` bytes of the seed's sequence.
    pub(crate) fn new(seed: u64, count: u64) -> Self {
        Self { state: seed, left: count }
    }

    /// Sends all bytes.
    pub(crate) async fn send(self, stream: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
        for chunk in self {
            stream.write_all(&chunk).await?;
        }
        stream.flush().await
    }

    /// SHA-256 of all bytes, in hexadecimal.
    pub(crate) fn digest(self) -> String {
        let mut hash = Sha256::new();
        self.for_each(|chunk| hash.update(&chunk));
        hex(&hash.finalize())
    }

    fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

impl Iterator for Chunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let size = usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK));
        let mut chunk = Vec::with_capacity(size + size_of::<u64>());
        while chunk.len() < size {
            chunk.extend_from_slice(&self.next_word().to_le_bytes());
        }
        chunk.truncate(size);
        self.left -= size as u64;
        (size > 0).then_some(chunk)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, Chunks, Digest, hex};

    #[test]
    fn chunks_have_requested_length_and_depend_on_seed() {
        let bytes = |seed| Chunks::new(seed, CHUNK as u64 + 3).flatten().collect::<Vec<_>>();
        assert_eq!(bytes(1).len(), CHUNK + 3);
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
        assert_eq!(Chunks::new(1, 0).next(), None);
    }

    /// First outputs of SplitMix64 for seed 1234567, from its author's reference code.
    #[test]
    fn next_word_matches_splitmix64_reference() {
        let mut chunks = Chunks::new(1_234_567, 0);
        assert_eq!(chunks.next_word(), 6_457_827_717_110_365_317);
        assert_eq!(chunks.next_word(), 3_203_168_211_198_807_973);
    }

    #[tokio::test]
    async fn digest_matches_chunks_and_rejects_short_stream() {
        let chunks = Chunks::new(5, 100_000);
        let bytes: Vec<u8> = chunks.clone().flatten().collect();
        assert_eq!(Digest::of(&mut &bytes[..], 100_000).await.unwrap(), chunks.digest());
        assert!(Digest::of(&mut &bytes[1..], 100_000).await.is_err());
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
