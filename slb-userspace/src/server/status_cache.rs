//! The status document: made off the runtime's workers, one at a time, and shared by concurrent callers.
//!
//! With a hundred thousand servers it takes a fifth of a second of CPU time. A caller gets a document that was begun
//! after its request, so it sees its own changes. Callers that repeat requests are delayed in proportion to the last
//! document's cost.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use axum::body::Bytes;
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use slb_api::types::Status;

/// Pause after a document, as a multiple of its duration.
const MAX_BUSY_SHARE: u32 = 4;
const MAX_CACHE_TIME: Duration = Duration::from_secs(1);

/// The status as JSON.
#[derive(Clone)]
pub(super) struct StatusTexts {
    full: Bytes,
    /// Without the hash seed. All callers share it.
    read_only: Bytes,
}

impl StatusTexts {
    /// Writes the document once: with 100,000 servers that takes most of the time.
    pub(super) fn new(mut status: Status) -> Result<Self> {
        let seed = status.hash_seed.take().map(|seed| format!("{{\"hash_seed\":{seed}"));
        let mut text = seed.as_ref().map_or_else(Vec::new, |seed| seed.clone().into_bytes());
        serde_json::to_writer(&mut text, &status)?;
        let Some(seed) = seed.map(|seed| seed.len()) else {
            let full = Bytes::from(text);
            return Ok(Self { read_only: full.clone(), full });
        };
        let read_only = text[seed..].to_vec().into();
        // The document's brace, after the seed.
        text[seed] = b',';
        Ok(Self { full: text.into(), read_only })
    }

    /// For the full socket.
    pub(super) fn full(self) -> Bytes {
        self.full
    }

    /// For the read-only socket: without the hash seed.
    pub(super) fn read_only(self) -> Bytes {
        self.read_only
    }
}

pub(super) struct StatusCache<T = StatusTexts> {
    make: Arc<dyn Fn() -> Result<T> + Send + Sync>,
    last: Arc<Mutex<Option<CachedDocument<T>>>>,
}

struct CachedDocument<T> {
    begun: Instant,
    /// The next document is not begun before this time.
    fresh_until: Instant,
    document: Document<T>,
}

/// A document, or why there is none.
type Document<T> = Result<T, String>;

impl<T: Clone + Send + 'static> StatusCache<T> {
    pub(super) fn new(make: impl Fn() -> Result<T> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), last: Arc::default() }
    }

    /// A document that was begun after this call.
    pub(super) async fn latest(&self) -> Document<T> {
        let asked = Instant::now();
        let (make, last) = (Arc::clone(&self.make), Arc::clone(&self.last));
        // A separate task holds the lock until the document is made, even if the caller disconnects.
        let task = tokio::spawn(async move {
            let mut last = last.lock_owned().await;
            if let Some(made) = &*last {
                if made.begun >= asked {
                    return made.document.clone();
                }
                sleep_until(made.fresh_until).await;
            }
            let begun = Instant::now();
            let made = spawn_blocking(move || make()).await;
            let document = match made {
                Ok(Ok(document)) => Ok(document),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(error) => Err(error.to_string()),
            };
            let fresh_until = Instant::now() + (begun.elapsed() * MAX_BUSY_SHARE).min(MAX_CACHE_TIME);
            *last = Some(CachedDocument { begun, fresh_until, document: document.clone() });
            document
        });
        task.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread::sleep,
    };

    use super::*;
    use slb_api::types::FlowTableStatus;

    /// Documents with counters: how many were begun, and the most made at once.
    fn counted(took: Duration) -> (Arc<StatusCache<String>>, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (begun, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, most, now) = (Arc::clone(&begun), Arc::clone(&at_once), AtomicUsize::new(0));
        let documents = StatusCache::new(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(took);
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(number.to_string())
        });
        (Arc::new(documents), begun, at_once)
    }

    #[test]
    fn read_only_text_is_the_full_one_without_the_hash_seed() {
        let status = Status {
            daemon: None,
            digest: Some("00".to_owned()),
            hash_seed: Some(u64::MAX),
            flow_table: FlowTableStatus::default(),
            interfaces: Vec::new(),
            load_balancers: Vec::new(),
            reasons: Vec::new(),
        };
        let without = Status { hash_seed: None, ..status.clone() };
        let read = |text: Bytes| serde_json::from_slice::<Status>(&text).unwrap();
        let texts = StatusTexts::new(status.clone()).unwrap();
        assert_eq!(read(texts.clone().full()), status);
        assert_eq!(read(texts.clone().read_only()), without);
        assert!(!String::from_utf8_lossy(&texts.read_only()).contains("hash_seed"));
        let texts = StatusTexts::new(without.clone()).unwrap();
        assert_eq!(read(texts.clone().full()), without);
        assert_eq!(read(texts.read_only()), without);
    }

    #[tokio::test]
    async fn concurrent_callers_share_a_document_and_block_no_worker() {
        // With one worker, making the document on it would block everything else.
        let (documents, begun, at_once) = counted(Duration::from_millis(200));
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let documents = Arc::clone(&documents);
                tokio::spawn(async move { documents.latest().await })
            })
            .collect();
        let timer = Instant::now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(timer.elapsed() < Duration::from_millis(150), "the worker was busy");
        for caller in callers {
            caller.await.unwrap().unwrap();
        }
        // One for the first caller, and one for all that came while it was made.
        assert!(begun.load(Ordering::SeqCst) <= 2);
        assert_eq!(at_once.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn document_is_never_older_than_the_request() {
        let (documents, ..) = counted(Duration::ZERO);
        for number in 0..20 {
            assert_eq!(documents.latest().await.unwrap(), number.to_string());
        }
    }

    #[tokio::test]
    async fn cancelled_callers_start_no_second_document() {
        let (documents, _, at_once) = counted(Duration::from_millis(20));
        for _ in 0..20 {
            let leaves = tokio::time::timeout(Duration::from_millis(1), documents.latest());
            let _ = leaves.await;
        }
        documents.latest().await.unwrap();
        assert_eq!(at_once.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn document_error_is_returned_and_next_caller_retries() {
        let (fail, fails) = mpsc::channel::<bool>();
        let fails = std::sync::Mutex::new(fails);
        let documents = StatusCache::new(move || {
            anyhow::ensure!(!fails.lock().unwrap().recv().unwrap(), "no maps");
            Ok(())
        });
        fail.send(true).unwrap();
        assert_eq!(documents.latest().await.unwrap_err(), "no maps");
        fail.send(false).unwrap();
        documents.latest().await.unwrap();
    }
}
