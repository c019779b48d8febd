//! discover: is this segment, to a port that nobody watches, the beginning of a request to an API server in the clear?
//!
//! Asked of every TCP segment between ports of no interest, so the cheapest test comes first, and no state is read
//! before the words fit. A request whose line is spread over several segments is not found, nor one that names its
//! target with scheme and host: the next one is.

use monitor_common::Asked;

use crate::bounds::Frame;
use crate::parse::Segment;
use crate::tables::Tables;

/// Data offset of a TCP header without options, as it stands in its byte (RFC 9293 section 3.1).
const HEADER: u8 = 5 << 4;

/// The shortest request line that is looked for, `GET /api HTTP/1.0` and its line end, has more bytes.
const SHORTEST: usize = 16;

/// Bytes of the target that are looked at; with the version and the line end no line that is looked for has fewer
/// behind its method.
const TARGET: usize = 14;

/// First letters of the methods that are looked for, as bits from `A` on.
const FIRST_LETTERS: u32 = bit(b'D') | bit(b'G') | bit(b'H') | bit(b'O') | bit(b'P');

const fn bit(letter: u8) -> u32 {
    1 << (letter - b'A')
}

/// Whether the segment's destination is watched from now on because of the request that this segment begins with.
#[inline(always)]
pub fn discover<F: Frame + ?Sized, T: Tables>(frame: &F, segment: &Segment, tables: &mut T) -> bool {
    if !tables.discovers() {
        return false;
    }
    let Some(payload) = may_begin_request(frame, segment) else {
        return false;
    };
    match asked(frame, payload) {
        Some(asked) => tables.claim(segment.destination_port, asked),
        None => false,
    }
}

/// Offset of the payload, where it is long enough for a request line and its first letter is a method's.
#[inline(always)]
fn may_begin_request<F: Frame + ?Sized>(frame: &F, segment: &Segment) -> Option<usize> {
    let [offset, _] = frame.load::<2>(segment.transport + 12)?;
    let payload = segment.transport + usize::from(offset >> 4) * 4;
    if offset < HEADER || segment.end < payload + SHORTEST {
        return None;
    }
    let [first, _] = frame.load::<2>(payload)?;
    let letter = u32::from(first).wrapping_sub(u32::from(b'A'));
    (letter < 26 && FIRST_LETTERS >> letter & 1 != 0).then_some(payload)
}

/// What the request line at `payload` asks an API server for (the paths that kube-apiserver serves outside its own
/// API groups: staging/src/k8s.io/apiserver/pkg/server/routes and pkg/controlplane, Kubernetes 1.37).
#[inline(always)]
fn asked<F: Frame + ?Sized>(frame: &F, payload: usize) -> Option<Asked> {
    let method = match &frame.load::<8>(payload)? {
        b"OPTIONS " => 8,
        [b'D', b'E', b'L', b'E', b'T', b'E', b' ', _] => 7,
        [b'P', b'A', b'T', b'C', b'H', b' ', ..] => 6,
        [b'P', b'O', b'S', b'T', b' ', ..] | [b'H', b'E', b'A', b'D', b' ', ..] => 5,
        [b'G', b'E', b'T', b' ', ..] | [b'P', b'U', b'T', b' ', ..] => 4,
        _ => return None,
    };
    let target = frame.load::<TARGET>(frame.forget_range(payload + method))?;
    let (asked, behind) = match &target {
        [b'/', b'a', b'p', b'i', b's', behind, ..] => (Asked::Api, *behind),
        [b'/', b'a', b'p', b'i', behind, ..] => (Asked::Api, *behind),
        [b'/', b'v', b'e', b'r', b's', b'i', b'o', b'n', behind, ..] => (Asked::Api, *behind),
        [b'/', b'o', b'p', b'e', b'n', b'a', b'p', b'i', behind, ..] => (Asked::Api, *behind),
        // The rest of `/.well-known/openid-configuration` is left to user space.
        b"/.well-known/o" => (Asked::Api, b'/'),
        [b'/', b'h', b'e', b'a', b'l', b't', b'h', b'z', behind, ..] => (Asked::Health, *behind),
        [b'/', b'r', b'e', b'a', b'd', b'y', b'z', behind, ..] => (Asked::Health, *behind),
        [b'/', b'l', b'i', b'v', b'e', b'z', behind, ..] => (Asked::Health, *behind),
        _ => return None,
    };
    matches!(behind, b' ' | b'/' | b'?').then_some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for by a segment with this payload, through both tests as a frame goes.
    fn asks(payload: &[u8]) -> Option<Asked> {
        let mut frame = vec![0; 40];
        frame[32] = 0x50;
        frame.extend_from_slice(payload);
        let segment = Segment {
            source_port: 40_000,
            destination_port: 31_234,
            network: 0,
            ipv6: false,
            transport: 20,
            end: frame.len(),
        };
        asked(&frame[..], may_begin_request(&frame[..], &segment)?)
    }

    #[test]
    fn request_lines_of_an_api_server_are_told() {
        for (line, expected) in [
            ("GET /api HTTP/1.0\n", Some(Asked::Api)),
            ("GET /api/v1/secrets?limit=500 HTTP/1.1\r\n", Some(Asked::Api)),
            ("POST /api/v1/namespaces/default/pods HTTP/1.1\r\n", Some(Asked::Api)),
            ("PUT /apis/apps/v1/namespaces/a/deployments/b HTTP/1.1\r\n", Some(Asked::Api)),
            ("PATCH /apis?x HTTP/1.1\r\n", Some(Asked::Api)),
            ("DELETE /api/v1/nodes/a HTTP/1.1\r\n", Some(Asked::Api)),
            ("HEAD /version HTTP/1.1\r\n", Some(Asked::Api)),
            ("OPTIONS /openapi/v3 HTTP/1.1\r\n", Some(Asked::Api)),
            ("GET /.well-known/openid-configuration HTTP/1.1\r\n", Some(Asked::Api)),
            ("GET /healthz HTTP/1.0\r\n", Some(Asked::Health)),
            ("GET /livez?verbose HTTP/1.1\r\n", Some(Asked::Health)),
            ("GET /readyz/etcd HTTP/1.1\r\n", Some(Asked::Health)),
            ("GET / HTTP/1.1\r\nHost: a\r\n", None),
            ("GET /apiary HTTP/1.1\r\n", None),
            ("GET /apistore HTTP/1.1\r\n", None),
            ("GET /versions HTTP/1.1\r\n", None),
            ("GET /healthzz HTTP/1.1\r\n", None),
            ("GET /.well-known/acme-challenge/a HTTP/1.1\r\n", None),
            ("get /api HTTP/1.1\r\n\r\n", None),
            ("GETS /api HTTP/1.1\r\n\r\n", None),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nServer: /api\r\n", None),
            ("Get /api HTTP/1.1\r\n\r\n", None),
        ] {
            assert_eq!(asks(line.as_bytes()), expected, "{line:?}");
        }
        for letter in 0..=u8::MAX {
            let mut line = *b"GET /api HTTP/1.1\r\n\r\n";
            line[0] = letter;
            assert_eq!(asks(&line).is_some(), letter == b'G', "{letter}");
        }
    }

    #[test]
    fn a_line_that_is_cut_is_none() {
        let line = b"GET /api HTTP/1.0\n";
        for length in 0..line.len() {
            assert_eq!(asks(&line[..length]), None, "{length}");
        }
    }
}
