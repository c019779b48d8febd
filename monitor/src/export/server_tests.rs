use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::super::events::READERS;
use super::super::examples::{anonymous_over_tls, plaintext};
use super::super::kernel::{KernelCounts, KernelSource};
use super::*;
use crate::classify::ExposureKind;
use crate::pipeline::Event;

/// Longer than anything here takes, so that a test that hangs ends with words.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    events: Events,
    health: Arc<Health>,
    end: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn running() -> Running {
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let metrics = Arc::new(Metrics::new());
    let events = Events::new(metrics.clone());
    let health = Arc::new(Health::new());
    let (end, ended) = watch::channel(false);
    let address = server.address();
    let task = tokio::spawn(server.run(metrics.clone(), events.clone(), health.clone(), ended));
    Running { address, metrics, events, health, end, task }
}

impl Running {
    /// Sends a request for the path; the stream stands before the answer.
    async fn ask(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: monitor\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        BufReader::new(stream)
    }

    /// The whole answer: status, head and body.
    async fn get(&self, path: &str) -> (u16, String, String) {
        let mut stream = self.ask(path).await;
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (status(head), head.to_lowercase(), body.to_owned())
    }

    /// Opens `/events` and waits until the server has taken the reader.
    async fn follow(&self, path: &str, readers: usize) -> BufReader<TcpStream> {
        let mut stream = self.ask(path).await;
        assert_eq!(status(&line(&mut stream).await), 200);
        while !line(&mut stream).await.trim().is_empty() {}
        assert!(self.metrics.encode().contains(&format!("\napi_exposure_event_readers {readers}\n")));
        stream
    }
}

fn status(head: &str) -> u16 {
    head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap()
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await.unwrap().unwrap();
    line
}

/// The next line of JSON, past the sizes of the chunks; `None` at the stream's end.
async fn event(stream: &mut BufReader<TcpStream>) -> Option<Value> {
    loop {
        let line = line(stream).await;
        if line.is_empty() {
            return None;
        }
        if line.starts_with('{') {
            return Some(serde_json::from_str(&line).unwrap());
        }
    }
}

#[tokio::test]
async fn a_scrape_has_its_content_type_and_the_kernel_counts() {
    struct Seven;
    impl KernelSource for Seven {
        fn read(&self) -> anyhow::Result<KernelCounts> {
            Ok(KernelCounts { losses: [7, 0], ..Default::default() })
        }
    }
    let server = running().await;
    server.metrics.set_kernel_source(Some(Arc::new(Seven)));
    let (first, second) = tokio::join!(server.get("/metrics"), server.get("/metrics"));
    assert_eq!(first, second);
    let (status, head, body) = first;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains("api_exposure_records_lost_total{reason=\"ring_full\"} 7\n"));
}

#[tokio::test]
async fn scrapes_read_the_kernel_one_at_a_time() {
    #[derive(Default)]
    struct Alone(std::sync::Mutex<()>, std::sync::atomic::AtomicUsize);
    impl KernelSource for Alone {
        fn read(&self) -> anyhow::Result<KernelCounts> {
            let _alone = self.0.try_lock().map_err(|_| anyhow!("two at once"))?;
            // Long enough for the other scrapes to come in.
            std::thread::sleep(Duration::from_millis(20));
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(KernelCounts::default())
        }
    }
    let server = running().await;
    let alone = Arc::new(Alone::default());
    server.metrics.set_kernel_source(Some(alone.clone()));
    let (a, b, c) = tokio::join!(server.get("/metrics"), server.get("/metrics"), server.get("/metrics"));
    assert_eq!((a.0, b.0, c.0), (200, 200, 200));
    assert_eq!(alone.1.load(std::sync::atomic::Ordering::Relaxed), 3);
    assert!(server.get("/metrics").await.2.contains("\napi_exposure_kernel_read_failures_total 0\n"));
}

#[tokio::test]
async fn ready_is_503_with_the_reason_until_attached() {
    let server = running().await;
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body, "not attached to any interface yet\n");
    assert_eq!(server.get("/livez").await.0, 200);
    server.health.set_ready();
    assert_eq!(server.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn what_is_not_there_is_404_with_the_index() {
    let server = running().await;
    let (status, _, body) = server.get("/metric").await;
    assert_eq!(status, 404);
    assert!(body.contains("/metrics"));
    assert_eq!(server.get("/").await.0, 200);
}

#[tokio::test]
async fn events_come_as_they_happen_and_filtered() {
    let server = running().await;
    let mut all = server.follow("/events", 1).await;
    let mut clear = server.follow("/events?role=insecure", 2).await;
    server.events.publish(&Event::Connection(&anonymous_over_tls()));
    server.events.publish(&Event::Exposure(&plaintext(), ExposureKind::PlaintextApi));
    assert_eq!(event(&mut all).await.unwrap()["type"], "connection");
    assert_eq!(event(&mut all).await.unwrap()["type"], "exposure");
    assert_eq!(event(&mut clear).await.unwrap()["kind"], "plaintext_api");
}

#[tokio::test]
async fn an_unknown_filter_is_400_with_the_words() {
    let server = running().await;
    let (status, _, body) = server.get("/events?source=outside").await;
    assert_eq!(status, 400);
    assert!(body.contains("outside") && body.contains("public"), "{body}");
    assert_eq!(server.get("/events?colour=red").await.0, 400);
}

#[tokio::test]
async fn a_reader_too_many_is_503() {
    let server = running().await;
    let mut readers = Vec::new();
    for at in 1..=READERS {
        readers.push(server.follow("/events", at).await);
    }
    let (status, _, body) = server.get("/events").await;
    assert_eq!(status, 503);
    assert_eq!(body.lines().count(), 1);
    readers.pop();
    // The place is free once the server has noticed that the reader left.
    let freed = async {
        while !server.metrics.encode().contains(&format!("\napi_exposure_event_readers {}\n", READERS - 1)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_loses_lines_is_told_and_slows_nobody() {
    let server = running().await;
    let mut slow = server.follow("/events", 1).await;
    let connection = anonymous_over_tls();
    // Nobody reads: the sockets' buffers fill, then the queue, then lines are lost.
    let start = Instant::now();
    let mut published = 0_u64;
    while server.metrics.event_lines_lost() < 1_000 {
        server.events.publish(&Event::Connection(&connection));
        published += 1;
        assert!(start.elapsed() < PATIENCE, "no line was lost in {published}");
    }
    let lost = server.metrics.event_lines_lost();
    let (mut seen, mut told) = (0, 0);
    while seen + told < published {
        let event = event(&mut slow).await.unwrap();
        match event["type"].as_str() {
            Some("lost") => told += event["lines"].as_u64().unwrap(),
            _ => seen += 1,
        }
    }
    assert_eq!((seen, told), (published - lost, lost));
}

#[tokio::test]
async fn shutdown_ends_the_streams_and_frees_the_port() {
    let server = running().await;
    let mut reader = server.follow("/events", 1).await;
    server.events.publish(&Event::Connection(&anonymous_over_tls()));
    server.end.send_replace(true);
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, reader.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.contains(r#""type":"connection""#) && rest.ends_with("\r\n0\r\n\r\n"), "ended, not cut: {rest:?}");
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap();
    Server::bind(server.address).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_way_out() {
    let server = running().await;
    let error = Server::bind(server.address).await.err().unwrap().to_string();
    assert!(error.contains(&server.address.to_string()) && error.contains("--listen"), "{error}");
    let foreign = "192.0.2.1:9464".parse().unwrap();
    let error = Server::bind(foreign).await.err().unwrap().to_string();
    assert!(error.contains("192.0.2.1:9464") && error.contains("no interface"), "{error}");
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let server = running().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x00\x05hello\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"));
    assert_eq!(server.get("/livez").await.0, 200);
}
