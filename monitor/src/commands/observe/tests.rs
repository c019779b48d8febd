use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::export::examples::{anonymous_over_tls, plaintext};
use crate::export::{Events, Health, Metrics, Server};
use crate::pipeline::Event;

const PATIENCE: Duration = Duration::from_secs(20);

/// A writer that can be looked into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Daemon {
    url: Url,
    events: Events,
    end: watch::Sender<bool>,
}

async fn daemon() -> Daemon {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = Url::of(server.address());
    let metrics = Arc::new(Metrics::new());
    let events = Events::new(metrics.clone());
    let (end, ended) = watch::channel(false);
    tokio::spawn(server.run(metrics, events.clone(), Arc::new(Health::new()), ended));
    Daemon { url, events, end }
}

#[tokio::test]
async fn events_go_from_the_daemon_to_the_output() {
    let daemon = daemon().await;
    let filter = Filter::from_query("role=insecure").unwrap();
    let stream = EventStream::open(&daemon.url, &filter).await.unwrap();
    let (sink, lines) = mpsc::channel(WAITING);
    let output = Shared::default();
    let printed = print(lines, Output::Text, false, output.clone()).unwrap();
    daemon.events.publish(&Event::Connection(&anonymous_over_tls()));
    daemon.events.publish(&Event::Connection(&plaintext()));
    daemon.events.publish(&Event::Request(&plaintext(), 0));
    daemon.end.send_replace(true);
    tokio::time::timeout(PATIENCE, forward(stream, &daemon.url, sink)).await.unwrap().unwrap();
    printed.await.unwrap().unwrap();
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].ends_with("GET /api/v1/namespaces/default/secrets (list) -> 200 credential=none"), "{text}");
}

#[tokio::test]
async fn json_is_the_daemons_own_line() {
    let daemon = daemon().await;
    let stream = EventStream::open(&daemon.url, &Filter::default()).await.unwrap();
    let (sink, lines) = mpsc::channel(WAITING);
    let output = Shared::default();
    let printed = print(lines, Output::Json, true, output.clone()).unwrap();
    let mut expected = Vec::new();
    crate::export::json::write_connection(&mut expected, &plaintext()).unwrap();
    daemon.events.publish(&Event::Connection(&plaintext()));
    daemon.end.send_replace(true);
    tokio::time::timeout(PATIENCE, forward(stream, &daemon.url, sink)).await.unwrap().unwrap();
    printed.await.unwrap().unwrap();
    assert_eq!(output.text().into_bytes(), expected);
}

#[tokio::test]
async fn a_closed_pipe_is_a_clean_end() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (sink, lines) = mpsc::channel(WAITING);
    let printed = print(lines, Output::Json, false, Closed).unwrap();
    sink.send(Bytes::from_static(b"{}\n")).await.unwrap();
    let printed = printed.await;
    assert!(matches!(&printed, Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe));
    unless_closed(printed).unwrap();
    assert!(unless_closed(Ok(Err(io::ErrorKind::StorageFull.into()))).is_err());
}

#[tokio::test]
async fn who_does_not_answer_with_events_is_named() {
    let url = stand_in("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None).await;
    let error = EventStream::open(&url, &Filter::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::NoEvents(_)));
    assert!(error.to_string().contains(&url.to_string()), "{error}");
    // A port that was free a moment ago: nobody listens there.
    let url = Url::of(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
    let error = EventStream::open(&url, &Filter::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::NobodyThere(_)));
    assert!(error.to_string().contains(&url.to_string()), "{error}");
}

#[tokio::test]
async fn the_daemons_reason_is_passed_on() {
    let daemon = daemon().await;
    let mut readers = Vec::new();
    while let Ok(reader) = daemon.events.subscribe(Filter::default()) {
        readers.push(reader);
    }
    let error = EventStream::open(&daemon.url, &Filter::default()).await.unwrap_err();
    assert!(error.to_string().contains("readers of /events are connected"), "{error}");
}

/// Answers one request with these bytes, then with `more` for as long as they are taken.
async fn stand_in(answer: &'static str, more: Option<&'static [u8]>) -> Url {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::of(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The request is read first: closing before would reset the connection.
        let _ = stream.read(&mut [0; 1_024]).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        while let Some(more) = more
            && stream.write_all(more).await.is_ok()
        {}
    });
    url
}

#[tokio::test]
async fn a_daemon_that_breaks_off_is_an_error() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{}\n{\r\n9\r\n}";
    let url = stand_in(answer, None).await;
    let mut stream = EventStream::open(&url, &Filter::default()).await.unwrap();
    assert_eq!(stream.lines().await.unwrap(), Some(Bytes::from_static(b"{}\n")));
    assert_eq!(stream.lines().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_line_without_an_end_is_not_kept_forever() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n";
    let url = stand_in(answer, Some(&[b'x'; 8_192])).await;
    let mut stream = EventStream::open(&url, &Filter::default()).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, stream.lines()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let url = stand_in("HTTP/1.1 200 OK\r\nX: ", Some(&[b'x'; 8_192])).await;
    let error = EventStream::open(&url, &Filter::default()).await.unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}
