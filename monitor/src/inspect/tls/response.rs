//! What became of the first request over HTTP/2 inside TLS, from the server's record lengths after its handshake.
//!
//! A kube-apiserver of release 1.29 or later answers an unauthenticated first request with `Connection: close`, which its
//! HTTP/2 server turns into a GOAWAY before the response
//! (`UnauthenticatedHTTP2DOSMitigation`, staging/src/k8s.io/apiserver/pkg/endpoints/filters/authentication.go).

use monitor_common::Side;

use super::lengths::{self, ServerFrames};
use crate::inspect::{FirstResponse, TlsObservation};

/// Records between the handshake and SETTINGS at the most: session tickets.
const TICKETS: u8 = 4;
/// Content of a NewSessionTicket at least: 122 measured without a certificate; nothing else of that size comes before SETTINGS.
const SHORTEST_TICKET: u16 = 100;
/// Content of a PING: 8 bytes and a frame header of 9, as long as a GOAWAY (RFC 9113 sections 6.7 and 6.8).
const PING: u16 = 17;

/// Where the server's records stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The handshake is not over.
    #[default]
    Handshake,
    /// Waiting for SETTINGS, after so many tickets.
    Settings(u8),
    /// Waiting for the first response.
    Response,
    /// A GOAWAY was seen; its response comes next.
    AfterGoaway,
    /// Told, or never to be told.
    Over,
}

/// Reads the server's records until its first response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseReader {
    stage: Stage,
    overhead: u16,
    ping: bool,
}

impl ResponseReader {
    /// The handshake is over and HTTP/2 was chosen; a record has `overhead` bytes more than its content.
    pub const fn begin(&mut self, overhead: u16) {
        self.overhead = overhead;
        self.stage = Stage::Settings(0);
    }

    /// Nothing will be told.
    pub const fn stop(&mut self) {
        self.stage = Stage::Over;
    }

    /// Whether all that can be told is told.
    pub const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// An encrypted record of application data.
    pub fn record(&mut self, side: Side, length: u16, tls: &mut TlsObservation) {
        let content = length.saturating_sub(if self.overhead == 0 { lengths::OVERHEAD_13 } else { self.overhead });
        if side == Side::Client {
            self.ping |= content == PING;
            return;
        }
        match self.stage {
            Stage::Handshake | Stage::Over => {}
            Stage::Settings(_) if lengths::is_settings(content) => self.stage = Stage::Response,
            Stage::Settings(seen) if seen < TICKETS && content >= SHORTEST_TICKET => {
                self.stage = Stage::Settings(seen + 1)
            }
            Stage::Settings(_) => self.stop(),
            Stage::Response => match lengths::server_frames(content) {
                Some(ServerFrames::Control | ServerFrames::Settings) => {}
                Some(ServerFrames::Goaway) if self.ping => {
                    tls.first_response = FirstResponse::Unclear;
                    self.stop();
                }
                Some(ServerFrames::Goaway) => {
                    tls.first_response = FirstResponse::Goaway;
                    self.stage = Stage::AfterGoaway;
                }
                // As short as a 401, which has no headers of priority and fairness. On a busy machine its GOAWAY may come
                // behind it or not at all: the HTTP/2 server is told of it in another goroutine.
                Some(ServerFrames::ShortResponse) => {
                    tls.first_response = FirstResponse::Unclear;
                    self.stop();
                }
                Some(ServerFrames::Response | ServerFrames::LongResponse) => {
                    tls.first_response = FirstResponse::NoGoaway;
                    self.stop();
                }
                None => self.stop(),
            },
            Stage::AfterGoaway => {
                match lengths::server_frames(content) {
                    Some(ServerFrames::Control) => return,
                    Some(ServerFrames::ShortResponse) => tls.first_response = FirstResponse::GoawayShort,
                    Some(ServerFrames::LongResponse) => tls.first_response = FirstResponse::GoawayLong,
                    _ => {}
                }
                self.stop();
            }
        }
    }

    /// Records of either side are missing from here on.
    pub fn lose(&mut self, tls: &mut TlsObservation) {
        if self.stage == Stage::AfterGoaway {
            tls.first_response = FirstResponse::Goaway;
        }
        self.stop();
    }
}
