//! Which credential a plaintext request shows, by the API server's own rule, without keeping any of it.
//!
//! Kubernetes 1.37, staging/src/k8s.io/apiserver/pkg/authentication/request: bearertoken/bearertoken.go and
//! websocket/protocol.go.

use super::Credential;

/// Sub-protocol of WebSocket that carries a bearer token: `bearerProtocolPrefix` of websocket/protocol.go.
const BEARER_PROTOCOL: &[u8] = b"base64url.bearer.authorization.k8s.io.";

/// What the headers of one request have shown so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct CredentialReader {
    authorization: Authorization,
    upgrade_to_websocket: bool,
    connection_upgrade: bool,
    bearer_protocol: bool,
    remote_user: bool,
}

/// The first Authorization header; the API server looks at no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Authorization {
    #[default]
    Absent,
    /// Nothing in it yet: a continuation line may follow.
    Empty,
    /// The word `bearer` alone: a continuation line may follow.
    Scheme,
    /// A scheme and a token.
    Bearer,
    /// Anything else.
    Nothing,
}

impl CredentialReader {
    /// A header's name (in any case) and value.
    pub fn header(&mut self, name: &[u8], value: &[u8]) {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            13 if is(b"authorization") && self.authorization == Authorization::Absent => {
                self.authorization = authorization(value);
            }
            7 if is(b"upgrade") => self.upgrade_to_websocket |= value.trim_ascii().eq_ignore_ascii_case(b"websocket"),
            10 if is(b"connection") => self.connection_upgrade |= has_item(value, b"upgrade"),
            22 if is(b"sec-websocket-protocol") => {
                self.bearer_protocol |= value.split(|byte| *byte == b',').any(|protocol| {
                    protocol.trim_ascii().strip_prefix(BEARER_PROTOCOL).is_some_and(|token| !token.is_empty())
                });
            }
            13 if is(b"x-remote-user") => self.remote_user |= !value.trim_ascii().is_empty(),
            _ => {}
        }
    }

    /// A continuation line (obs-fold, RFC 9112 section 5.2) of the Authorization header, which Go joins with a space.
    pub fn continued_authorization(&mut self, line: &[u8]) {
        match self.authorization {
            Authorization::Empty => self.authorization = authorization(line),
            Authorization::Scheme if !line.trim_ascii().is_empty() => self.authorization = Authorization::Bearer,
            _ => {}
        }
    }

    /// What the whole head shows.
    pub const fn credential(&self) -> Credential {
        let websocket = self.upgrade_to_websocket && self.connection_upgrade;
        if matches!(self.authorization, Authorization::Bearer) || (websocket && self.bearer_protocol) {
            Credential::Bearer
        } else if self.remote_user {
            Credential::Other
        } else {
            Credential::None
        }
    }
}

/// Trimmed and split at spaces into three at the most: the first is `bearer` in any case, the second is not empty.
fn authorization(value: &[u8]) -> Authorization {
    let value = value.trim_ascii();
    let mut parts = value.splitn(3, |byte| *byte == b' ');
    let scheme = parts.next().unwrap_or_default();
    match (scheme.eq_ignore_ascii_case(b"bearer"), parts.next()) {
        _ if value.is_empty() => Authorization::Empty,
        (true, None) => Authorization::Scheme,
        (true, Some(token)) if !token.is_empty() => Authorization::Bearer,
        _ => Authorization::Nothing,
    }
}

/// Whether a comma-separated list has this item, in any case.
pub fn has_item(list: &[u8], item: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(headers: &[(&str, &str)]) -> Credential {
        let mut reader = CredentialReader::default();
        headers.iter().for_each(|(name, value)| reader.header(name.as_bytes(), value.as_bytes()));
        reader.credential()
    }

    #[test]
    fn the_rule_is_the_api_servers() {
        for (value, expected) in [
            ("Bearer x", Credential::Bearer),
            ("  bEaReR x  ", Credential::Bearer),
            ("Bearer x y z", Credential::Bearer),
            ("Bearer", Credential::None),
            ("Bearer ", Credential::None),
            ("Bearer  x", Credential::None),
            ("Bearer\tx", Credential::None),
            ("Basic eDp5", Credential::None),
            ("Negotiate x", Credential::None),
            ("", Credential::None),
        ] {
            assert_eq!(credential(&[("Authorization", value)]), expected, "{value:?}");
        }
        let first = [("authorization", "Basic x"), ("authorization", "Bearer x")];
        assert_eq!(credential(&first), Credential::None, "only the first counts");
    }

    #[test]
    fn a_websocket_may_carry_a_token_as_sub_protocol() {
        let upgrade = [("Upgrade", "WebSocket"), ("Connection", "keep-alive, Upgrade")];
        let protocol = ("Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.eA, v4.channel.k8s.io");
        assert_eq!(credential(&[upgrade[0], upgrade[1], protocol]), Credential::Bearer);
        assert_eq!(credential(&[upgrade[0], protocol]), Credential::None, "no upgrade of the connection");
        let without = ("Sec-WebSocket-Protocol", "v4.channel.k8s.io");
        assert_eq!(credential(&[upgrade[0], upgrade[1], without]), Credential::None);
    }

    #[test]
    fn a_front_proxys_header_is_something_else() {
        assert_eq!(credential(&[("X-Remote-User", "admin")]), Credential::Other);
        assert_eq!(credential(&[("X-Remote-User", "")]), Credential::None);
    }

    #[test]
    fn a_continuation_line_counts() {
        let mut reader = CredentialReader::default();
        reader.header(b"Authorization", b"");
        reader.continued_authorization(b" Bearer");
        assert_eq!(reader.credential(), Credential::None);
        reader.continued_authorization(b"\tx");
        assert_eq!(reader.credential(), Credential::Bearer);
    }
}
