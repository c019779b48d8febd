//! TLS 1.3's verdict: what the lengths of encrypted records, and of tickets, say of the client's certificate.

use monitor_common::Side;

use super::lengths::{self, Alpn, ClientFlight};
use super::{FLIGHT_RECORDS, FLIGHT_WITHOUT_REQUEST, TLS_13, Tls};
use crate::inspect::{CertificateUnknown, ClientCertificate, Evidence, TlsHandshake, TlsObservation};

impl Tls {
    pub(super) fn server_record_13(&mut self, length: u16, tls: &mut TlsObservation) {
        let alert = lengths::is_alert(length.saturating_sub(lengths::OVERHEAD_13));
        if !self.flight_over {
            if alert {
                return self.rejected(Side::Server, tls);
            }
            self.flight += 1;
            if self.flight == 1 {
                return self.encrypted_extensions(length, tls);
            }
            // Finished ends the flight: 32 (SHA-256) or 48 (SHA-384) bytes and a header of 4.
            if matches!(length.saturating_sub(lengths::OVERHEAD_13), 36 | 52) {
                self.flight_over = true;
                match tls.alpn.as_deref() {
                    Some("h2") => self.response.begin(lengths::OVERHEAD_13),
                    _ => self.response.stop(),
                }
                self.judge_13(tls);
            } else if self.flight > FLIGHT_RECORDS {
                self.flight_over = true;
                self.response.stop();
            }
            return;
        }
        let closing = self.streams[Side::Client as usize].ended || self.client_records > FLIGHT_RECORDS;
        if alert && !self.after_handshake && !closing && tls.handshake == TlsHandshake::Incomplete {
            self.rejected(Side::Server, tls);
        } else if self.first.is_some() && tls.handshake == TlsHandshake::Incomplete {
            tls.handshake = TlsHandshake::Completed;
        }
        self.after_handshake |= self.first.is_some();
        self.response.record(Side::Server, length, tls);
    }

    pub(super) fn encrypted_extensions(&mut self, length: u16, tls: &mut TlsObservation) {
        // An answer to max_fragment_length or record_size_limit would make another length of it.
        let chosen = lengths::encrypted_extensions(length).filter(|chosen| match chosen {
            Alpn::H2 => self.offers_h2 && !self.limits_records,
            Alpn::Http11 => self.offers_http11 && !self.limits_records,
        });
        if let Some(chosen) = chosen {
            tls.alpn = Some(chosen.name().to_owned());
            tls.alpn_evidence = Some(Evidence::RecordLength);
        }
    }

    /// TLS 1.3: the client's certificate, as soon as its records tell.
    pub(super) fn judge_13(&mut self, tls: &mut TlsObservation) {
        let Some(first) = self.first else { return };
        if !self.server_hello {
            return;
        }
        let flight = lengths::client_flight(first);
        let finished = match flight {
            Some(ClientFlight::FinishedOnly | ClientFlight::NoCertificateAndFinished) => true,
            Some(ClientFlight::NoCertificate) => self.client_records > 1,
            Some(ClientFlight::Certificate) | None => self.client_records > 3,
            Some(ClientFlight::Alert) => {
                self.rejected(Side::Client, tls);
                return self.unknown(tls, CertificateUnknown::HungUp);
            }
        };
        self.streams[Side::Client as usize].finished |= finished;
        if !self.judged {
            self.judge_flight(tls, flight, self.padding.trusted());
        }
    }

    pub(super) fn judge_flight(
        &mut self,
        tls: &mut TlsObservation,
        flight: Option<ClientFlight>,
        trusted: Option<bool>,
    ) {
        if tls.version != Some(TLS_13) {
            return self.unknown(tls, CertificateUnknown::Version);
        }
        if let Some(selected) = self.selected {
            return self.judge_by_ticket(tls, self.identities.get(usize::from(selected)).copied());
        }
        if self.early_data {
            return self.unknown(tls, CertificateUnknown::EarlyData);
        }
        // A flight of EncryptedExtensions, Certificate, CertificateVerify and Finished in a record each asked for nothing:
        // with it, Finished alone is what it looks like, padded or not.
        let asked_nothing = self.flight_over && self.flight == FLIGHT_WITHOUT_REQUEST;
        let verdict = match (trusted, flight) {
            (_, Some(ClientFlight::FinishedOnly)) if asked_nothing => ClientCertificate::NotRequested,
            (None, _) => return,
            (Some(false), _) => return self.unknown(tls, CertificateUnknown::Padded),
            (Some(true), Some(ClientFlight::NoCertificate | ClientFlight::NoCertificateAndFinished)) => {
                ClientCertificate::Absent
            }
            (Some(true), Some(ClientFlight::FinishedOnly)) => ClientCertificate::NotRequested,
            (Some(true), Some(ClientFlight::Certificate)) => ClientCertificate::Presented,
            (Some(true), None) => return self.unknown(tls, CertificateUnknown::Length),
            (Some(true), Some(ClientFlight::Alert)) => return self.unknown(tls, CertificateUnknown::HungUp),
        };
        self.judge(tls, verdict, Evidence::RecordLength);
    }

    pub(super) fn judge_by_ticket(&mut self, tls: &mut TlsObservation, length: Option<u16>) {
        match length.and_then(lengths::ticket) {
            Some(true) => self.judge(tls, ClientCertificate::ResumedPresented, Evidence::TicketLength),
            Some(false) => self.judge(tls, ClientCertificate::ResumedAbsent, Evidence::TicketLength),
            None => self.unknown(tls, CertificateUnknown::Ticket),
        }
    }

    pub(super) fn judge(&mut self, tls: &mut TlsObservation, verdict: ClientCertificate, evidence: Evidence) {
        self.judged = true;
        tls.client_certificate = verdict;
        tls.evidence = Some(evidence);
        tls.certificate_unknown = None;
    }

    pub(super) fn unknown(&mut self, tls: &mut TlsObservation, reason: CertificateUnknown) {
        self.judged = true;
        tls.certificate_unknown.get_or_insert(reason);
    }

    /// The client's certificate, when no more of the client will come.
    pub(super) fn judge_at_last(&mut self, tls: &mut TlsObservation) {
        if self.judged {
            return;
        }
        match self.first {
            Some(first) if self.server_hello && self.is_13(tls) => {
                self.judge_flight(tls, lengths::client_flight(first), Some(self.padding.trusted_at_last()));
            }
            _ if self.streams.iter().any(|stream| stream.lost) => self.unknown(tls, CertificateUnknown::Gap),
            _ if self.streams[Side::Client as usize].ended => self.unknown(tls, CertificateUnknown::HungUp),
            _ => {}
        }
    }
}
