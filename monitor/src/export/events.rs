//! Events as lines for readers: bounded, and never waiting for one.
//!
//! Each reader has a queue of its own. One that is full takes no more lines until its reader has made room; the reader
//! finds `{"type":"lost","lines":N}` where they would have been.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

pub use super::filter::Filter;
use super::json;
use super::metrics::Metrics;
use crate::pipeline::Event;

/// Readers at the most: each costs its queue, and a filter to ask for each event.
pub const READERS: usize = 16;

/// Lines that wait for one reader at the most: a second of a busy API server's new connections.
const QUEUE_LINES: usize = 4_096;

/// Bytes that wait for one reader at the most (and one line more, whatever its length). Readers share the bytes.
const QUEUE_BYTES: usize = 4 << 20;

/// Bytes handed to a reader at once, so that a reader that catches up does so in few writes.
const BATCH_BYTES: usize = 64 << 10;

/// Where the pipeline says what happens, and where readers come to listen. Clones are the same.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    metrics: Arc<Metrics>,
    /// Length of `readers`, so that without a reader an event costs one load.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    readers: Vec<Arc<Reader>>,
    closed: bool,
    /// Reused for each line.
    line: Vec<u8>,
}

struct Reader {
    filter: Filter,
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    closed: bool,
}

enum Item {
    Line(Bytes),
    Lost(u64),
}

/// Why a reader was turned away.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are [`READERS`] already.
    #[error("{READERS} readers of /events are connected, which is the most: close one of them, or try again later")]
    TooMany,
    /// The daemon is ending.
    #[error("the monitor is shutting down")]
    Closed,
}

impl Events {
    /// Without readers.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let inner = Mutex::new(Inner { readers: Vec::new(), closed: false, line: Vec::new() });
        Self(Arc::new(Shared { metrics, count: AtomicUsize::new(0), inner }))
    }

    /// Hands the event to the readers that want it. Never waits for a reader; without one that wants it, no line is made.
    pub fn publish(&self, event: &Event<'_>) {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut inner = lock(&self.0.inner);
        let Inner { readers, line, .. } = &mut *inner;
        let mut shared: Option<Bytes> = None;
        for reader in readers.iter().filter(|reader| reader.filter.wants(event)) {
            // Before a line is made: a reader that is stuck costs no more than this.
            if reader.lose_if_full() {
                self.0.metrics.event_line_lost();
                continue;
            }
            let bytes = match &shared {
                Some(bytes) => bytes.clone(),
                None => {
                    line.clear();
                    if let Err(error) = json::write_event(line, event) {
                        tracing::error!("cannot write an event as JSON: {error}");
                        return;
                    }
                    if line.is_empty() {
                        return;
                    }
                    self.0.metrics.event_line();
                    shared.insert(Bytes::copy_from_slice(line)).clone()
                }
            };
            if !reader.push(bytes) {
                self.0.metrics.event_line_lost();
            }
        }
        // A connection's line may list a thousand requests; one such line is no reason to keep its size.
        line.shrink_to(BATCH_BYTES);
    }

    /// Begins to listen.
    pub fn subscribe(&self, filter: Filter) -> Result<Subscription, Refused> {
        let mut inner = lock(&self.0.inner);
        if inner.closed {
            return Err(Refused::Closed);
        }
        if inner.readers.len() >= READERS {
            self.0.metrics.event_reader_refused();
            return Err(Refused::TooMany);
        }
        let reader = Arc::new(Reader { filter, queue: Mutex::default(), changed: Notify::new() });
        inner.readers.push(reader.clone());
        self.count(&inner);
        Ok(Subscription { events: self.clone(), reader })
    }

    /// Ends every reader's stream after what waits for it, and takes no more readers.
    pub fn close(&self) {
        let mut inner = lock(&self.0.inner);
        inner.closed = true;
        for reader in inner.readers.drain(..) {
            lock(&reader.queue).closed = true;
            reader.changed.notify_one();
        }
        self.count(&inner);
    }

    fn count(&self, inner: &Inner) {
        self.0.count.store(inner.readers.len(), Ordering::Relaxed);
        self.0.metrics.set_event_readers(inner.readers.len());
    }
}

/// A reader's end; dropping it leaves.
pub struct Subscription {
    events: Events,
    reader: Arc<Reader>,
}

impl Subscription {
    /// Waits for the next lines: one or several whole ones, each with its newline. `None` when no more will come.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(taken) = self.reader.take() {
                return taken;
            }
            // A notification that came between the look and this wait is stored, so none is missed.
            self.reader.changed.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = lock(&self.events.0.inner);
        inner.readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
        self.events.count(&inner);
    }
}

impl Reader {
    /// Whether a line, however short, is lost to this reader.
    fn lose_if_full(&self) -> bool {
        let mut queue = lock(&self.queue);
        let full = !queue.has_room(1);
        if full {
            queue.lose();
        }
        full
    }

    /// Whether the line found room.
    fn push(&self, line: Bytes) -> bool {
        let mut queue = lock(&self.queue);
        let room = queue.has_room(line.len());
        if room {
            queue.bytes += line.len();
            queue.items.push_back(Item::Line(line));
        } else {
            queue.lose();
        }
        drop(queue);
        self.changed.notify_one();
        room
    }

    /// `Some(Some)`: lines; `Some(None)`: the end; `None`: nothing now.
    fn take(&self) -> Option<Option<Bytes>> {
        let mut queue = lock(&self.queue);
        let Some(first) = queue.pop() else { return queue.closed.then_some(None) };
        if queue.items.is_empty() {
            return Some(Some(first));
        }
        let mut batch = Vec::from(first);
        while batch.len() < BATCH_BYTES
            && let Some(line) = queue.pop()
        {
            batch.extend_from_slice(&line);
        }
        Some(Some(batch.into()))
    }
}

impl Queue {
    /// An empty queue has room for a line of any length.
    fn has_room(&self, bytes: usize) -> bool {
        self.items.is_empty() || (self.items.len() < QUEUE_LINES && self.bytes.saturating_add(bytes) <= QUEUE_BYTES)
    }

    /// Notes a lost line where it would have stood.
    fn lose(&mut self) {
        if let Some(Item::Lost(lines)) = self.items.back_mut() {
            *lines += 1;
        } else {
            self.items.push_back(Item::Lost(1));
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        Some(match self.items.pop_front()? {
            Item::Line(line) => {
                self.bytes -= line.len();
                line
            }
            Item::Lost(lines) => format!("{{\"type\":\"lost\",\"lines\":{lines}}}\n").into(),
        })
    }
}

/// A panic elsewhere while the lock was held leaves whole items only: going on is right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::examples::{anonymous_over_tls, plaintext};
    use super::*;
    use crate::classify::ExposureKind;

    fn events() -> (Arc<Metrics>, Events) {
        let metrics = Arc::new(Metrics::new());
        (metrics.clone(), Events::new(metrics))
    }

    fn values(lines: &Bytes) -> Vec<Value> {
        lines.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn each_reader_gets_what_it_wants() {
        let (metrics, events) = events();
        let (tls, clear) = (anonymous_over_tls(), plaintext());
        events.publish(&Event::Connection(&tls));
        let mut all = events.subscribe(Filter::default()).unwrap();
        let mut insecure = events.subscribe(Filter::from_query("role=insecure").unwrap()).unwrap();
        events.publish(&Event::Connection(&tls));
        events.publish(&Event::Exposure(&clear, ExposureKind::PlaintextApi));
        let got = values(&all.next().await.unwrap());
        assert_eq!(
            got.iter().map(|line| line["type"].as_str().unwrap()).collect::<Vec<_>>(),
            ["connection", "exposure"]
        );
        let got = values(&insecure.next().await.unwrap());
        assert_eq!(got.len(), 1);
        assert_eq!(got[0]["kind"], "plaintext_api");
        let scrape = metrics.encode();
        assert!(
            scrape.contains("\napi_exposure_event_lines_total 2\n"),
            "no line without a reader, one for two readers"
        );
        assert!(scrape.contains("\napi_exposure_event_readers 2\n"));
        drop(all);
        drop(insecure);
        assert!(metrics.encode().contains("\napi_exposure_event_readers 0\n"));
    }

    #[tokio::test]
    async fn a_slow_reader_loses_lines_and_is_told_where() {
        let (metrics, events) = events();
        let connection = anonymous_over_tls();
        let mut slow = events.subscribe(Filter::default()).unwrap();
        for _ in 0..QUEUE_LINES + 5 {
            events.publish(&Event::Connection(&connection));
        }
        assert_eq!(metrics.event_lines_lost(), 5);
        let mut got = Vec::new();
        while got.len() < QUEUE_LINES + 1 {
            got.extend(values(&slow.next().await.unwrap()));
        }
        events.publish(&Event::Connection(&connection));
        got.extend(values(&slow.next().await.unwrap()));
        let kinds: Vec<&str> = got.iter().map(|line| line["type"].as_str().unwrap()).collect();
        assert_eq!(kinds.iter().position(|kind| *kind == "lost"), Some(QUEUE_LINES));
        assert_eq!(got[QUEUE_LINES]["lines"], 5);
        assert_eq!(kinds.len(), QUEUE_LINES + 2);
    }

    #[tokio::test]
    async fn the_bytes_that_wait_are_bounded() {
        let (metrics, events) = events();
        let mut connection = plaintext();
        connection.observation.requests[0].path = "/".repeat(QUEUE_BYTES / 3);
        let mut slow = events.subscribe(Filter::default()).unwrap();
        for _ in 0..10 {
            events.publish(&Event::Connection(&connection));
        }
        assert_eq!(metrics.event_lines_lost(), 8);
        assert!(lock(&slow.reader.queue).bytes <= QUEUE_BYTES);
        // A line that is longer than the bound on its own still reaches a reader that keeps up.
        while lock(&slow.reader.queue).items.front().is_some() {
            slow.next().await.unwrap();
        }
        assert_eq!(lock(&slow.reader.queue).bytes, 0);
        connection.observation.requests[0].path = "/".repeat(QUEUE_BYTES + 1);
        events.publish(&Event::Connection(&connection));
        assert_eq!(values(&slow.next().await.unwrap())[0]["type"], "connection");
    }

    #[tokio::test]
    async fn readers_are_capped_and_a_place_that_was_left_is_free() {
        let (metrics, events) = events();
        let mut readers: Vec<Subscription> =
            (0..READERS).map(|_| events.subscribe(Filter::default()).unwrap()).collect();
        assert_eq!(events.subscribe(Filter::default()).err(), Some(Refused::TooMany));
        assert!(metrics.encode().contains("\napi_exposure_event_readers_refused_total 1\n"));
        readers.pop();
        assert!(events.subscribe(Filter::default()).is_ok());
    }

    #[tokio::test]
    async fn closing_ends_the_streams_after_what_waits() {
        let (_, events) = events();
        let connection = anonymous_over_tls();
        let mut reader = events.subscribe(Filter::default()).unwrap();
        let waiting = tokio::spawn({
            let mut reader = events.subscribe(Filter::from_query("role=insecure").unwrap()).unwrap();
            async move { reader.next().await }
        });
        events.publish(&Event::Connection(&connection));
        events.close();
        assert!(reader.next().await.is_some());
        assert_eq!(reader.next().await, None);
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(events.subscribe(Filter::default()).err(), Some(Refused::Closed));
    }
}
