//! Whether a reply is the Kubernetes API's, told by its content and never by the port.
//!
//! Measured on kube-apiservers 1.19, 1.20 and 1.37 and `kubectl proxy`, with nginx and etcd beside them: a header
//! `Audit-Id` or `X-Kubernetes-Pf-*`; a JSON body with `kind` and one of `apiVersion`, `groupVersion`, `versions`; or with
//! `gitVersion`, `goVersion` and `platform` (/version); or with `paths` that name `/api` or `/apis`; a protobuf body, which
//! begins with `k8s` and a zero byte. Beyond these, an event of a watch, whose object has `kind` and `apiVersion`.

/// Bytes of a body that are looked at: names of a list's head, or all of a short object.
const LOOKED_AT: u16 = 4_096;
/// Longest string that is of interest: `groupVersion`.
const LONGEST: usize = 12;
/// The first bytes of a protobuf body: staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf/protobuf.go.
const PROTOBUF: &[u8] = b"k8s\0";

/// Whether this header is one that only the Kubernetes API sends.
pub fn header(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"audit-id")
        || name.get(..16).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"x-kubernetes-pf-"))
}

/// Names that were met at the top of the object, and in the object of an event.
mod names {
    pub const KIND: u8 = 1;
    pub const API_VERSION: u8 = 2;
    pub const GIT_VERSION: u8 = 4;
    pub const GO_VERSION: u8 = 8;
    pub const PLATFORM: u8 = 16;
    pub const TYPE: u8 = 32;
    pub const OBJECT_KIND: u8 = 64;
    pub const OBJECT_API_VERSION: u8 = 128;
    /// Names that tell together: an object or list, /version, a watch's event.
    pub const TOLD: [u8; 3] =
        [KIND | API_VERSION, GIT_VERSION | GO_VERSION | PLATFORM, TYPE | OBJECT_KIND | OBJECT_API_VERSION];
}

/// Reads the beginning of one body, a piece at a time, and keeps nothing of it but the string it is in.
#[derive(Clone, Copy, Debug)]
pub struct BodyReader {
    state: State,
    looked_at: u16,
    depth: u8,
    in_string: bool,
    escaped: bool,
    /// A value follows, not a name: at the top, and in the object that is looked into.
    value: [bool; 2],
    /// The value of this name is being read.
    inside: Inside,
    names: u8,
    string: [u8; LONGEST],
    length: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of it begin like protobuf.
    Begin(u8),
    Json,
    Kubernetes,
    Other,
}

/// Whose value is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    /// `paths`: a list.
    Paths,
    /// `object` of a watch's event: an object.
    Object,
    Other,
}

impl Default for BodyReader {
    fn default() -> Self {
        Self {
            state: State::Begin(0),
            looked_at: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            value: [false; 2],
            inside: Inside::Other,
            names: 0,
            string: [0; LONGEST],
            length: 0,
        }
    }
}

impl BodyReader {
    /// Looks at the next piece; true once the body is the Kubernetes API's.
    pub fn read(&mut self, piece: &[u8]) -> bool {
        for byte in piece {
            if matches!(self.state, State::Kubernetes | State::Other) {
                break;
            }
            self.looked_at += 1;
            self.state = self.byte(*byte);
            if self.looked_at == LOOKED_AT && self.state != State::Kubernetes {
                self.state = State::Other;
            }
        }
        self.state == State::Kubernetes
    }

    /// Whether the rest of the body, whatever it is, will not tell.
    pub fn is_other(&self) -> bool {
        self.state == State::Other
    }

    fn byte(&mut self, byte: u8) -> State {
        match self.state {
            State::Begin(seen) => match byte {
                _ if PROTOBUF.get(usize::from(seen)) == Some(&byte) && usize::from(seen) + 1 == PROTOBUF.len() => {
                    State::Kubernetes
                }
                _ if PROTOBUF.get(usize::from(seen)) == Some(&byte) => State::Begin(seen + 1),
                b'{' if seen == 0 => {
                    self.depth = 1;
                    State::Json
                }
                b' ' | b'\t' | b'\r' | b'\n' if seen == 0 => State::Begin(0),
                _ => State::Other,
            },
            State::Json => self.json(byte),
            told => told,
        }
    }

    fn json(&mut self, byte: u8) -> State {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => {
                    self.escaped = true;
                    self.length = u8::MAX;
                }
                b'"' => {
                    self.in_string = false;
                    return self.string_ended();
                }
                _ => {
                    if let Some(place) = self.string.get_mut(usize::from(self.length)) {
                        *place = byte;
                    }
                    self.length = self.length.saturating_add(1);
                }
            }
            return State::Json;
        }
        match byte {
            b'"' => (self.in_string, self.length) = (true, 0),
            b':' => self.set_value(true),
            b',' => self.set_value(false),
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                if self.depth == 2 {
                    self.value[1] = byte == b'[';
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return State::Other;
                }
            }
            _ => {}
        }
        State::Json
    }

    /// A colon or a comma: what follows is a value or, at the top, another name.
    const fn set_value(&mut self, value: bool) {
        match (self.depth, self.inside) {
            (1, _) => self.value[0] = value,
            (2, Inside::Object) => self.value[1] = value,
            _ => {}
        }
    }

    fn string_ended(&mut self) -> State {
        let string = self.string.get(..usize::from(self.length)).unwrap_or_default();
        match (self.depth, self.inside) {
            (2, Inside::Paths) if matches!(string, b"/api" | b"/apis") => return State::Kubernetes,
            (2, Inside::Object) if !self.value[1] => {
                self.names |= match string {
                    b"kind" => names::OBJECT_KIND,
                    b"apiVersion" => names::OBJECT_API_VERSION,
                    _ => 0,
                };
            }
            (1, _) if !self.value[0] => {
                self.inside = match string {
                    b"paths" => Inside::Paths,
                    b"object" => Inside::Object,
                    _ => Inside::Other,
                };
                self.names |= match string {
                    b"kind" => names::KIND,
                    b"apiVersion" | b"groupVersion" | b"versions" => names::API_VERSION,
                    b"gitVersion" => names::GIT_VERSION,
                    b"goVersion" => names::GO_VERSION,
                    b"platform" => names::PLATFORM,
                    b"type" => names::TYPE,
                    _ => 0,
                };
            }
            _ => return State::Json,
        }
        if names::TOLD.iter().any(|all| self.names & all == *all) { State::Kubernetes } else { State::Json }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[(&str, &str, bool)] = &[
        ("Status", r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","code":403}"#, true),
        ("pretty", "{\n  \"kind\": \"APIVersions\",\n  \"versions\": [\n    \"v1\"\n  ]\n}", true),
        ("discovery", r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[]}"#, true),
        (
            "version",
            r#"{"major":"1","minor":"37","gitVersion":"v1.37.2","goVersion":"go1.26.8","platform":"linux/amd64"}"#,
            true,
        ),
        ("paths", r#"{"paths":["/.well-known/openid-configuration","/api","/api/v1"]}"#, true),
        ("protobuf", "k8s\0\n\u{6}", true),
        ("a watch's event", r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1"}}"#, true),
        ("an object without type", r#"{"object":{"kind":"Pod","apiVersion":"v1"}}"#, false),
        ("names deeper in an event", r#"{"type":"x","object":{"a":{"kind":"Pod","apiVersion":"v1"}}}"#, false),
        ("values in an event", r#"{"type":"x","object":{"a":"kind","b":"apiVersion"}}"#, false),
        ("etcd's version", r#"{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}"#, false),
        ("kind alone", r#"{"kind":"storage#object","version":"v1"}"#, false),
        ("names deeper down", r#"{"items":[{"kind":"Pod","apiVersion":"v1"}]}"#, false),
        ("names as values", r#"{"a":"kind","b":"apiVersion"}"#, false),
        ("other paths", r#"{"paths":["/metrics"],"x":["/api"]}"#, false),
        ("a list", r#"["kind","apiVersion"]"#, false),
        ("a name with an escape", r#"{"\kind":1,"apiVersion":"v1"}"#, false),
        ("text", "ok", false),
        ("a page", "<!DOCTYPE html>", false),
        ("text like protobuf", "k8s is here", false),
        ("after the object", r#"{} {"kind":"Status","apiVersion":"v1"}"#, false),
    ];

    #[test]
    fn content_tells_however_it_is_split() {
        for (description, body, expected) in REPLIES {
            assert_eq!(BodyReader::default().read(body.as_bytes()), *expected, "{description}");
            for at in 0..=body.len() {
                let mut reader = BodyReader::default();
                reader.read(&body.as_bytes()[..at]);
                assert_eq!(reader.read(&body.as_bytes()[at..]), *expected, "{description} split at {at}");
            }
        }
    }

    #[test]
    fn only_the_beginning_is_looked_at() {
        let body = format!("{{{:width$}\"kind\":1,\"apiVersion\":2}}", "", width = usize::from(LOOKED_AT));
        assert!(!BodyReader::default().read(body.as_bytes()));
    }

    #[test]
    fn headers_tell() {
        for (name, expected) in [
            (&b"Audit-Id"[..], true),
            (b"audit-id", true),
            (b"X-Kubernetes-Pf-Flowschema-Uid", true),
            (b"X-Kubernetes", false),
            (b"Server", false),
        ] {
            assert_eq!(header(name), expected, "{name:?}");
        }
    }
}
