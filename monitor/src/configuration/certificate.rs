//! The API server's serving certificate: for which names and addresses, by whom, and until when.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// What a serving certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Names of its subjectAltName.
    pub names: Vec<String>,
    /// Addresses of its subjectAltName.
    pub addresses: Vec<IpAddr>,
    /// The common name of who issued it.
    pub issuer: String,
    /// When it ends.
    pub ends: SystemTime,
}

impl Certificate {
    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// There is none, or it is garbled.
    pub fn read(pem: &[u8]) -> Result<Self, String> {
        let first = Pem::iter_from_buffer(pem)
            .filter_map(Result::ok)
            .find(|pem| pem.label == "CERTIFICATE")
            .ok_or("it has no certificate in PEM")?;
        let certificate = first.parse_x509().map_err(|_| "its certificate is garbled")?;
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let issuer = certificate.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
        let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            names,
            addresses,
            issuer: issuer.unwrap_or("nobody named").to_owned(),
            ends: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
        })
    }

    /// Names and addresses by which it can be reached from outside: addresses that are routed in public, and names that
    /// are no names of Kubernetes' own and have the form of a public one.
    pub fn public(&self) -> Vec<String> {
        let addresses = self.addresses.iter().filter(|ip| is_public(**ip)).map(IpAddr::to_string);
        let names = self.names.iter().filter(|name| is_public_name(name)).cloned();
        addresses.chain(names).collect()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

/// Whether packets are routed to this address from everywhere. Reserved ranges that are not private count, as for the
/// sources of packets.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
    }
}

/// Whether a name has the form of one in public DNS: of several labels, and not under a domain that is kept for inside
/// (RFC 6761, RFC 6762, RFC 8375, ICANN's `.internal`) or Kubernetes' own.
fn is_public_name(name: &str) -> bool {
    const INSIDE: [&str; 10] =
        ["local", "internal", "localhost", "lan", "home.arpa", "localdomain", "corp", "home", "test", "svc"];
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let inside = INSIDE.iter().any(|end| name.ends_with(&format!(".{end}")));
    name.contains('.') && !inside && !name.contains(".svc.") && name != "kubernetes.default"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_public() {
        let certificate = Certificate {
            names: [
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "cp-1",
                "cp-1.internal",
                "kubernetes.default.svc.k8s.example.com",
                "api.example.com",
            ]
            .map(str::to_owned)
            .into(),
            addresses: [
                "10.96.0.1",
                "192.168.1.5",
                "100.64.3.4",
                "127.0.0.1",
                "::1",
                "fd00::1",
                "203.0.113.9",
                "2001:db8::1",
            ]
            .map(|ip| ip.parse().expect("an address"))
            .into(),
            issuer: "kubernetes".to_owned(),
            ends: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(certificate.public(), ["203.0.113.9", "2001:db8::1", "api.example.com"]);
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
        for text in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Certificate::read(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_certificate_is_read() {
        let read = Certificate::read(include_bytes!("testing/serving.crt")).expect("a certificate");
        assert_eq!(read.names, ["kubernetes", "kubernetes.default.svc", "api.example.com"]);
        let addresses: Vec<IpAddr> = ["10.96.0.1", "2001:db8::7"].map(|ip| ip.parse().expect("an address")).into();
        assert_eq!((read.addresses, read.issuer.as_str()), (addresses, "kubernetes-ca"));
        // 2035-01-01T00:00:00Z
        assert_eq!(read.ends, SystemTime::UNIX_EPOCH + Duration::from_secs(2_051_222_400));
    }
}
