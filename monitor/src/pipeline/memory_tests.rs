use std::sync::Arc;
use std::time::Duration;

use monitor_common::flow::mapped;
use monitor_common::{RecordFlags, RecordHeader, Role, Side, SourceClass};

use super::*;
use crate::classify::Classifier;
use crate::config::Settings;
use crate::export::metrics::Metrics;
use crate::receive::Record;

const SMALL: usize = 4 << 20;

struct Fixture {
    pipeline: Pipeline,
    metrics: Arc<Metrics>,
    time: u64,
    /// Client port, path of the first request, and whether it was read to its end.
    listed: Vec<(u16, Option<String>, bool)>,
}

impl Fixture {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        let classifier = Classifier::new(&Settings::default());
        let mut pipeline = Pipeline::new(classifier, Arc::clone(&metrics), Box::new(|_| None), Duration::ZERO);
        pipeline.memory.budget = SMALL;
        Self { pipeline, metrics, time: 1_000, listed: Vec::new() }
    }

    fn record(&mut self, client: u16, side: Side, sequence: u32, flags: u16, bytes: &[u8]) {
        self.time += 1_000;
        let key = FlowKey {
            client: mapped([203, 0, 113, 7]),
            server: mapped([192, 168, 56, 10]),
            client_port: client,
            server_port: 8080,
        };
        let header = RecordHeader {
            time: self.time,
            born: 1_000 + u64::from(client),
            key,
            tap: 1,
            sequence,
            acknowledgement: 0,
            start: 0,
            other_start: 0,
            length: bytes.len() as u32,
            captured: bytes.len() as u32,
            flags: flags | RecordFlags::START_KNOWN | RecordFlags::OTHER_START_KNOWN,
            side: side as u8,
            role: Role::Insecure as u8,
            source: SourceClass::Public as u8,
            reserved: [0; 3],
        };
        let listed = &mut self.listed;
        self.pipeline.record(&Record { header, bytes }, &mut |event| {
            if let Event::Connection(connection) = event {
                let observation = &connection.observation;
                let path = observation.requests.first().map(|request| request.path.clone());
                listed.push((connection.source.port, path, observation.unclassified.is_none()));
            }
        });
        assert!(self.pipeline.memory.used <= SMALL, "{} bytes", self.pipeline.memory.used);
    }

    /// What is counted is what the connections say.
    fn check_memory(&self) {
        let live = self.pipeline.flows.oldest_first().filter_map(|(_, flow)| match &flow.state {
            State::Live(live) => Some(live.weight.bytes),
            State::Done | State::Forgotten => None,
        });
        assert_eq!(self.pipeline.memory.used, live.sum::<usize>());
    }

    fn evicted(&self) -> u64 {
        let scrape = self.metrics.encode();
        let line = scrape.lines().find_map(|line| line.strip_prefix("api_exposure_flows_evicted_total "));
        line.and_then(|value| value.parse().ok()).expect("a counter")
    }

    /// An honest connection that begins, and one that ends; the one that began first is older than all others.
    fn honest_around(&mut self, greedy: impl Fn(&mut Self)) {
        self.record(1, Side::Client, 0, 0, b"GET /api HTTP/1.1\r\n");
        greedy(self);
        assert!(self.evicted() > 0);
        assert!(self.listed.iter().all(|(port, ..)| *port != 1), "it takes little, and stays");
        self.check_memory();
        self.record(1, Side::Client, 19, 0, b"Host: api\r\n\r\n");
        self.record(1, Side::Client, 32, RecordFlags::FIN, b"");
        self.record(1, Side::Server, 0, RecordFlags::FIN, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(self.listed.last(), Some(&(1, Some("/api".to_owned()), true)));
        self.pipeline.finish(&mut |_| {});
        assert_eq!((self.pipeline.memory.used, self.pipeline.live()), (0, 0));
    }
}

#[test]
fn connections_that_hold_much_behind_holes_give_way() {
    Fixture::new().honest_around(|fixture| {
        for client in 100..200 {
            fixture.record(client, Side::Client, 0, 0, b"POST /api HTTP/1.1\r\n");
            for part in 1..8 {
                fixture.record(client, Side::Client, part * 20_000, 0, &[b'x'; 15_000]);
            }
        }
    });
}

#[test]
fn connections_with_many_long_requests_give_way() {
    Fixture::new().honest_around(|fixture| {
        let request = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2_000)).repeat(20);
        for client in 100..200 {
            for part in 0..10 {
                fixture.record(client, Side::Client, part * request.len() as u32, 0, request.as_bytes());
            }
        }
    });
}

#[test]
fn many_small_connections_give_way_the_longest_silent_first() {
    let mut fixture = Fixture::new();
    for client in 1..20_000 {
        fixture.record(client, Side::Client, 0, 0, b"GET /api HTTP/1.1\r\n");
    }
    let evicted = fixture.evicted();
    assert!(evicted > 0);
    fixture.check_memory();
    let ports: Vec<u16> = fixture.listed.iter().map(|(port, ..)| *port).collect();
    assert_eq!(ports, (1..=evicted as u16).collect::<Vec<_>>());
    // One that gave way and goes on is a new one.
    fixture.record(1, Side::Client, 19, 0, b"Host: api\r\n\r\nGET /version HTTP/1.1\r\n\r\n");
    assert!(
        matches!(fixture.pipeline.flows.oldest_first().last(), Some((key, flow)) if key.client_port == 1 && matches!(flow.state, State::Live(_)))
    );
}
