//! The anonymous part of an AuthenticationConfiguration: which paths are open to clients without a credential.
//!
//! Kubernetes 1.37, staging/src/k8s.io/apiserver/pkg/apis/apiserver/types.go (`AnonymousAuthConfig`): alpha in 1.31, on
//! by default from 1.32, stable in 1.34. It excludes the flag `--anonymous-auth`.

use serde::Deserialize;

/// What the file says about anonymous requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing: the flag or its default decides.
    NotSaid,
    /// They are refused.
    Off,
    /// They are let in for every path.
    Everywhere,
    /// They are let in for these paths, each as it stands.
    Paths(Vec<String>),
}

/// As much of the file as matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    #[serde(default)]
    anonymous: Option<Section>,
}

#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(default)]
    path: String,
}

impl Anonymous {
    /// Reads the file.
    ///
    /// # Errors
    /// It is no YAML, or no AuthenticationConfiguration; in words that quote nothing of it.
    pub fn read(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text)
            .map_err(|_| "it is no YAML with a kind and, where there is one, a section anonymous".to_owned())?;
        if file.kind != "AuthenticationConfiguration" {
            return Err("its kind is not AuthenticationConfiguration".to_owned());
        }
        Ok(match file.anonymous {
            None => Self::NotSaid,
            Some(Section { enabled: false, .. }) => Self::Off,
            Some(Section { conditions, .. }) if conditions.is_empty() => Self::Everywhere,
            Some(Section { conditions, .. }) => Self::Paths(conditions.into_iter().map(|one| one.path).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        for (rest, expected) in [
            ("", Anonymous::NotSaid),
            ("jwt: []\n", Anonymous::NotSaid),
            ("anonymous:\n  enabled: false\n", Anonymous::Off),
            ("anonymous:\n  enabled: true\n", Anonymous::Everywhere),
            (
                "anonymous:\n  enabled: true\n  conditions:\n  - path: /livez\n  - path: /readyz\n",
                Anonymous::Paths(vec!["/livez".into(), "/readyz".into()]),
            ),
        ] {
            assert_eq!(Anonymous::read(&format!("{head}{rest}")), Ok(expected), "{rest}");
        }
        for wrong in ["", "kind: Pod\n", "{", "anonymous: [", "\u{0}", "kind: [AuthenticationConfiguration]\n"] {
            assert!(Anonymous::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
