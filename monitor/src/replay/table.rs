//! A summary of connections for people: who reached which port how, and what should not have been possible.

use std::collections::BTreeMap;
use std::io::{self, Write};

use monitor_common::{Role, SourceClass};

use crate::classify::{Connection, ExposureKind};
use crate::inspect::Protocol;

/// Columns of the widest line.
const WIDTH: usize = 120;

/// Examples named for one exposure, each of another source address.
const EXAMPLES: usize = 3;

/// Counts of connections, small however many there are: its tables are as large as the closed sets that they count by.
#[derive(Debug, Default)]
pub struct Summary {
    total: Row,
    rows: BTreeMap<(Role, SourceClass, Protocol), Row>,
    exposures: BTreeMap<ExposureKind, Exposed>,
    unclassified: u64,
}

/// What was counted of one kind of connection.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    connections: u64,
    requests: u64,
    exposures: u64,
}

/// Where one kind of exposure was found.
#[derive(Debug, Default)]
struct Exposed {
    connections: u64,
    examples: Vec<Example>,
}

/// One connection on which an exposure was found.
#[derive(Debug)]
struct Example {
    address: std::net::IpAddr,
    class: SourceClass,
    port: u16,
    /// Method and path of the first request in the clear, or the name that the client asked for.
    said: String,
}

impl Row {
    fn add(&mut self, connection: &Connection) {
        self.connections += 1;
        self.requests += connection.observation.requests.len() as u64 + connection.observation.requests_omitted;
        self.exposures += connection.exposures.len() as u64;
    }

    fn cells(&self) -> [String; 3] {
        [self.connections, self.requests, self.exposures].map(|count| count.to_string())
    }
}

impl Summary {
    /// Counts one connection.
    pub fn add(&mut self, connection: &Connection) {
        let key = (connection.destination.role, connection.source.class, connection.observation.protocol);
        self.total.add(connection);
        self.rows.entry(key).or_default().add(connection);
        self.unclassified += u64::from(connection.observation.unclassified.is_some());
        for kind in &connection.exposures {
            self.exposures.entry(*kind).or_default().add(connection);
        }
    }

    /// Whether no connection was counted.
    pub fn is_empty(&self) -> bool {
        self.total.connections == 0
    }

    /// Writes the summary: lines of at most 120 columns, without colour.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "No connection with payload on a watched port.");
        }
        writeln!(
            out,
            "{}, {} in the clear, {}",
            counted(self.total.connections, "connection"),
            counted(self.total.requests, "request"),
            counted(self.total.exposures, "exposure"),
        )?;
        writeln!(out)?;
        let head = ["ROLE", "SOURCE", "PROTOCOL", "CONNECTIONS", "REQUESTS", "EXPOSURES"];
        let lines = self.rows.iter().map(|((role, source, protocol), row)| {
            let [connections, requests, exposures] = row.cells();
            let [role, source, protocol] = [role.label(), source.label(), protocol.label()].map(str::to_owned);
            [role, source, protocol, connections, requests, exposures]
        });
        columns(out, head, lines.collect(), 3)?;
        writeln!(out)?;
        if self.exposures.is_empty() {
            writeln!(out, "No exposure found.")?;
        } else {
            let head = ["EXPOSURE", "CONNECTIONS", "FOR EXAMPLE FROM", "CLASS", "TO PORT", "WITH"];
            let lines = self.exposures.iter().flat_map(|(kind, exposed)| exposed.lines(*kind));
            columns(out, head, lines.collect(), usize::MAX)?;
        }
        if self.unclassified > 0 {
            writeln!(out)?;
            let connections = counted(self.unclassified, "connection");
            writeln!(out, "Not read, or not to the end: {connections}, which may hold more than is listed.")?;
        }
        Ok(())
    }
}

impl Exposed {
    fn add(&mut self, connection: &Connection) {
        self.connections += 1;
        let address = connection.source.ip;
        if self.examples.len() < EXAMPLES && self.examples.iter().all(|example| example.address != address) {
            self.examples.push(Example {
                address,
                class: connection.source.class,
                port: connection.destination.port,
                said: said(connection),
            });
        }
    }

    /// A line an example; the count stands in the first.
    fn lines(&self, kind: ExposureKind) -> impl Iterator<Item = [String; 6]> {
        self.examples.iter().enumerate().map(move |(index, example)| {
            let (kind, count) =
                if index == 0 { (kind.label(), self.connections.to_string()) } else { ("", String::new()) };
            let [address, port] = [example.address.to_string(), example.port.to_string()];
            [kind.to_owned(), count, address, example.class.label().to_owned(), port, example.said.clone()]
        })
    }
}

/// What the client of this connection said first: a request in the clear, or the name that it asked for over TLS.
fn said(connection: &Connection) -> String {
    let observation = &connection.observation;
    let words = if let Some(request) = observation.requests.first() {
        format!("{} {}", request.method, request.path)
    } else if let Some(name) = observation.tls.as_ref().and_then(|tls| tls.sni.as_ref()) {
        format!("server name {name}")
    } else {
        String::new()
    };
    // It is the client's text: what would move a terminal's cursor or change its colour is not printed.
    let harmless = |letter: char| if letter.is_control() || is_invisible(letter) { '?' } else { letter };
    words.chars().take(WIDTH).map(harmless).collect()
}

/// Formatting characters that reorder or hide text (Unicode's bidirectional controls, zero-width ones, separators).
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A table: words to the left, the columns from `numbers` on to the right. The last column is cut to the width.
fn columns<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    lines: Vec<[String; N]>,
    numbers: usize,
) -> io::Result<()> {
    let head = head.map(str::to_owned);
    let width = |column: usize| {
        let cells = lines.iter().chain([&head]).filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for line in [&head].into_iter().chain(&lines) {
        let mut text = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let gap = if column > 0 { "  " } else { "" };
            // A number in a table of words stands to the right as well.
            let number = column >= numbers || (!cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit()));
            text += &if number { format!("{gap}{cell:>width$}") } else { format!("{gap}{cell:<width$}") };
        }
        writeln!(out, "{}", fit(text.trim_end()))?;
    }
    Ok(())
}

/// Cuts a line to the width, with a mark where it was cut.
fn fit(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH - 1).chain(['…']).collect()
}

/// A count with its noun.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::SystemTime;

    use super::*;
    use crate::classify::{Destination, Outcome, Source};
    use crate::inspect::{Credential, Observation, QueryHints, Request, TlsObservation, Unclassified};

    fn connection(ip: &str, class: SourceClass, port: u16, role: Role, protocol: Protocol) -> Connection {
        let ip: IpAddr = ip.parse().unwrap();
        Connection {
            time: SystemTime::UNIX_EPOCH,
            interface: None,
            source: Source { ip, port: 51_234, class },
            destination: Destination { ip: [192, 168, 56, 10].into(), port, role },
            outcome: Outcome::Established,
            observation: Observation { protocol, ..Observation::default() },
            requests: vec![],
            first_request: crate::inspect::FirstRequest::Unknown,
            exposures: vec![],
        }
    }

    fn request(method: &str, path: &str) -> Request {
        Request {
            method: method.into(),
            path: path.into(),
            query: QueryHints::default(),
            credential: Credential::None,
            status: None,
            reported: false,
        }
    }

    fn plaintext(ip: &str, path: &str) -> Connection {
        let mut connection = connection(ip, SourceClass::Public, 8080, Role::Insecure, Protocol::Http1);
        connection.observation.requests = vec![request("GET", path)];
        connection.exposures = vec![ExposureKind::PlaintextApi, ExposureKind::ExternalSource];
        connection
    }

    fn printed(summary: &Summary) -> String {
        let mut out = vec![];
        summary.print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_seen_is_said() {
        assert_eq!(printed(&Summary::default()), "No connection with payload on a watched port.\n");
    }

    #[test]
    fn the_whole_table() {
        let mut summary = Summary::default();
        for _ in 0..12 {
            summary.add(&connection("10.0.0.9", SourceClass::Pod, 6443, Role::Secure, Protocol::Tls));
        }
        summary.add(&plaintext("203.0.113.7", "/api/v1/secrets"));
        summary.add(&plaintext("203.0.113.7", "/api"));
        summary.add(&plaintext("2001:db8:113::7", "/version"));
        let mut named = connection("203.0.113.8", SourceClass::Public, 6443, Role::Secure, Protocol::Tls);
        named.observation.tls =
            Some(Box::new(TlsObservation { sni: Some("api.example.com".into()), ..Default::default() }));
        named.observation.unclassified = Some(Unclassified::Gap);
        named.exposures = vec![ExposureKind::ExternalSource, ExposureKind::UnexpectedSni];
        summary.add(&named);
        let expected = "\
16 connections, 3 requests in the clear, 8 exposures

ROLE      SOURCE  PROTOCOL  CONNECTIONS  REQUESTS  EXPOSURES
secure    public  tls                 1         0          2
secure    pod     tls                12         0          0
insecure  public  http1               3         3          6

EXPOSURE         CONNECTIONS  FOR EXAMPLE FROM  CLASS   TO PORT  WITH
plaintext_api              3  203.0.113.7       public     8080  GET /api/v1/secrets
                              2001:db8:113::7   public     8080  GET /version
external_source            4  203.0.113.7       public     8080  GET /api/v1/secrets
                              2001:db8:113::7   public     8080  GET /version
                              203.0.113.8       public     6443  server name api.example.com
unexpected_sni             1  203.0.113.8       public     6443  server name api.example.com

Not read, or not to the end: 1 connection, which may hold more than is listed.
";
        assert_eq!(printed(&summary), expected);
    }

    #[test]
    fn no_exposure_is_said() {
        let mut summary = Summary::default();
        summary.add(&connection("10.0.0.9", SourceClass::Pod, 6443, Role::Secure, Protocol::Tls));
        assert!(printed(&summary).ends_with("\n\nNo exposure found.\n"));
    }

    #[test]
    fn requests_that_were_left_out_are_counted() {
        let mut summary = Summary::default();
        let mut connection = plaintext("203.0.113.7", "/");
        connection.observation.requests_omitted = 41;
        summary.add(&connection);
        assert!(printed(&summary).starts_with("1 connection, 42 requests in the clear, 2 exposures\n"));
    }

    #[test]
    fn lines_fit_and_a_clients_text_cannot_move_the_cursor() {
        let mut summary = Summary::default();
        for number in 0..100 {
            let path = format!("/\x1b[31m\r\n\u{202e}{}", "long/".repeat(100));
            summary.add(&plaintext(&format!("2001:db8:ffff:ffff:ffff:ffff:ffff:{number:x}"), &path));
        }
        let printed = printed(&summary);
        assert!(printed.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(!printed.contains(['\x1b', '\r', '\u{202e}']));
        assert!(printed.contains("GET /?[31m???long/"));
        assert_eq!(printed.lines().filter(|line| line.contains("2001:")).count(), 2 * EXAMPLES);
    }
}
