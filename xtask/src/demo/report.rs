//! The table of what was sent beside what was seen.

use super::connection::{Connection, Pair};

/// Widest cell; longer lines are cut.
const WIDEST: usize = 72;

/// A table for people: names of clients, what was sent, what was seen; `=` where they agree, `!` where not.
pub fn table(clients: &[String], sent: &[Connection], seen: &[Connection], pairs: &[Pair]) -> String {
    let rows: Vec<[Vec<String>; 4]> = pairs.iter().map(|pair| row(clients, sent, seen, *pair)).collect();
    let mut widths = [1, 6, 4, 4];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            let widest = cell.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            *width = widest.min(WIDEST).max(*width);
        }
    }
    let header = [vec![String::new()], vec!["client".into()], vec!["sent".into()], vec!["seen".into()]];
    let mut text = String::new();
    for row in std::iter::once(&header).chain(&rows) {
        let height = row.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let cut: String = cell.get(at).map_or("", String::as_str).chars().take(WIDEST).collect();
                line.push_str(&format!("{cut:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

fn row(clients: &[String], sent: &[Connection], seen: &[Connection], pair: Pair) -> [Vec<String>; 4] {
    let client = pair.sent.and_then(|index| clients.get(index)).map_or("nobody", String::as_str);
    let lines = |index: Option<usize>, connections: &[Connection]| {
        let connection = index.and_then(|index| connections.get(index));
        connection.map_or_else(|| vec!["nothing".to_owned()], Connection::lines)
    };
    let sign = if pair.equal { "=" } else { "!" };
    [vec![sign.to_owned()], vec![client.to_owned()], lines(pair.sent, sent), lines(pair.seen, seen)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_both_sides_and_what_is_missing() {
        let connection = Connection {
            source_ip: "192.0.2.1".into(),
            source: "public".into(),
            port: 8080,
            role: "insecure".into(),
            protocol: "http1".into(),
            ..Connection::default()
        };
        let pairs =
            [Pair { sent: Some(0), seen: Some(0), equal: true }, Pair { sent: None, seen: Some(1), equal: false }];
        let seen = [connection.clone(), connection.clone()];
        let expected = "   client  sent                               seen\n\
                        =  curl    public 192.0.2.1 -> insecure 8080  public 192.0.2.1 -> insecure 8080\n\
                        \x20          http1                              http1\n\
                        !  nobody  nothing                            public 192.0.2.1 -> insecure 8080\n\
                        \x20                                             http1\n";
        assert_eq!(table(&["curl".into()], &[connection], &seen, &pairs), expected);
    }
}
