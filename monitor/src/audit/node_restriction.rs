//! What the admission plugin NodeRestriction refused a node, told by the words that it says.
//!
//! The words are those of plugin/pkg/admission/noderestriction/admission.go, Kubernetes 1.19 to 1.37. An error of
//! admission reads `nodes "a" is forbidden: ` and then these; the Node authorizer's reads `... is forbidden: User ...
//! cannot ...`, and is another's refusal.

use monitor_common::closed_set;

closed_set! {
    /// What a node was refused.
    NodeRefusal {
        /// Something of another node's: the Node itself, its Lease, CSINode or ResourceSlice, a pod that runs elsewhere.
        OtherNode = "other_node",
        /// A label that nodes may not give themselves (below node-restriction.kubernetes.io and most of kubernetes.io).
        RestrictedLabel = "restricted_label",
        /// Taints, owner references, the configuration source, or other fields that are not a node's to change.
        RestrictedField = "restricted_field",
        /// A pod that is no mirror of one of its static pods, or one that refers to other objects.
        NotMirrorPod = "not_mirror_pod",
        /// A service account's token that is not bound to one of its pods, or for an audience that is not the pods'.
        Token = "token",
        /// A certificate: a request that names another node, or one for pods that it may not make.
        Certificate = "certificate",
        /// An operation or a subresource that nodes have no business with.
        Operation = "operation",
        /// Its name could not be told from its user.
        UnknownNode = "unknown_node",
    }
}

closed_set! {
    /// What a node tried to write.
    NodeResource {
        /// Node.
        Nodes = "nodes",
        /// Pod.
        Pods = "pods",
        /// ServiceAccount, of which tokens are asked for.
        ServiceAccounts = "serviceaccounts",
        /// Lease.
        Leases = "leases",
        /// CSINode.
        CsiNodes = "csinodes",
        /// ResourceSlice.
        ResourceSlices = "resourceslices",
        /// PersistentVolumeClaim.
        PersistentVolumeClaims = "persistentvolumeclaims",
        /// CertificateSigningRequest.
        CertificateSigningRequests = "certificatesigningrequests",
        /// PodCertificateRequest.
        PodCertificateRequests = "podcertificaterequests",
        /// Anything else.
        Other = "other",
    }
}

/// What the plugin says, and what it means; the first that is found decides.
const WORDS: [(&str, NodeRefusal); 44] = [
    ("could not determine node from user ", NodeRefusal::UnknownNode),
    (" is not allowed to set the following labels: ", NodeRefusal::RestrictedLabel),
    ("is not allowed to modify labels: ", NodeRefusal::RestrictedLabel),
    (" cannot update labels through pod status", NodeRefusal::RestrictedLabel),
    (" is not allowed to modify node ", NodeRefusal::OtherNode),
    (" with spec.nodeName set to itself", NodeRefusal::OtherNode),
    (" owner reference set to itself", NodeRefusal::OtherNode),
    (" UID mismatch: expected ", NodeRefusal::OtherNode),
    ("error looking up node ", NodeRefusal::OtherNode),
    ("can only access node lease with the same name as the requesting node", NodeRefusal::OtherNode),
    ("can only access CSINode with the same name as the requesting node", NodeRefusal::OtherNode),
    ("ResourceSlice with the same NodeName as the requesting node", NodeRefusal::OtherNode),
    (" is not allowed to modify taints", NodeRefusal::RestrictedField),
    (" is not allowed to modify ownerReferences", NodeRefusal::RestrictedField),
    (" non-nil configSource", NodeRefusal::RestrictedField),
    (" is not allowed to update fields other than ", NodeRefusal::RestrictedField),
    (" is not allowed to update persistentvolumeclaim metadata", NodeRefusal::RestrictedField),
    (" is not allowed to modify CSINode spec via status", NodeRefusal::RestrictedField),
    (" must not set blockOwnerDeletion on an owner reference", NodeRefusal::RestrictedField),
    (" cannot update resource claim stat", NodeRefusal::RestrictedField),
    (" cannot update extended resource claim status", NodeRefusal::RestrictedField),
    (" cannot update node allocatable resource claim statuses", NodeRefusal::RestrictedField),
    (" can only create mirror pods", NodeRefusal::NotMirrorPod),
    (" can not create pods that reference ", NodeRefusal::NotMirrorPod),
    ("error checking mirror pod for API references: ", NodeRefusal::NotMirrorPod),
    ("node requested token ", NodeRefusal::Token),
    ("the UID in the bound object reference ", NodeRefusal::Token),
    ("node may only request 0 or 1 audiences", NodeRefusal::Token),
    ("error validating audience ", NodeRefusal::Token),
    (" is not authorized to request tokens for audience ", NodeRefusal::Token),
    (" to request tokens for audience ", NodeRefusal::Token),
    ("unable to parse csr: ", NodeRefusal::Certificate),
    ("can only create a node CSR with CN=system:node:", NodeRefusal::Certificate),
    ("PodCertificateRequest", NodeRefusal::Certificate),
    (" to request podcertificaterequests for signer ", NodeRefusal::Certificate),
    (" does not mount a podCertificate projected volume for signer ", NodeRefusal::Certificate),
    (" can only create and delete mirror pods", NodeRefusal::Operation),
    ("unexpected pod subresource ", NodeRefusal::Operation),
    ("unexpected operation ", NodeRefusal::Operation),
    ("may only update PVC status", NodeRefusal::Operation),
    ("can only access leases in the ", NodeRefusal::Operation),
    ("unable to access the object name", NodeRefusal::Operation),
    ("CSIVolumeHealth feature gate is disabled", NodeRefusal::Operation),
    ("could not determine pod from request data", NodeRefusal::Operation),
];

impl NodeRefusal {
    /// What the words of an answer with 403 say; `None` where they are not the plugin's.
    pub fn of(message: &str) -> Option<Self> {
        // What stands before is the object's name, which is the client's word.
        let (_, said) = message.split_once("\" is forbidden: ").or_else(|| message.split_once(" is forbidden: "))?;
        if said.starts_with("User \"") {
            return None;
        }
        WORDS.iter().find(|(words, _)| said.contains(words)).map(|(_, refusal)| *refusal)
    }
}

impl NodeResource {
    /// The resource with this name.
    pub fn of(resource: &str) -> Self {
        Self::from_label(resource).unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_plugin_says() {
        // As a real API server of release 1.37 answered.
        let cases = [
            (
                r#"nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/x"#,
                "restricted_label",
            ),
            (
                r#"nodes "n1" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/x"#,
                "restricted_label",
            ),
            (r#"nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#, "other_node"),
            (r#"nodes "n1" is forbidden: node "n1" is not allowed to modify taints"#, "restricted_field"),
            (
                r#"pods "p" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods"#,
                "not_mirror_pod",
            ),
            // Made of the source's words.
            (
                r#"pods "p" is forbidden: unexpected operation "UPDATE", node "n1" can only create and delete mirror pods"#,
                "operation",
            ),
            (
                r#"serviceaccounts "s" is forbidden: node requested token bound to a pod scheduled on a different node"#,
                "token",
            ),
            (
                r#"certificatesigningrequests.certificates.k8s.io "c" is forbidden: can only create a node CSR with CN=system:node:n1"#,
                "certificate",
            ),
            (r#"nodes is forbidden: could not determine node from user "system:node:""#, "unknown_node"),
        ];
        for (message, expected) in cases {
            assert_eq!(NodeRefusal::of(message).map(NodeRefusal::label), Some(expected), "{message}");
        }
    }

    #[test]
    fn what_others_refuse_is_not_the_plugins() {
        for message in [
            "",
            r#"namespaces is forbidden: User "system:node:n1" cannot create resource "namespaces" in API group "" at the cluster scope"#,
            r#"leases.coordination.k8s.io "n2" is forbidden: User "system:node:n1" cannot update resource "leases" in API group "coordination.k8s.io" in the namespace "kube-node-lease": node: can only access node lease with the same name as the requesting node"#,
            r#"pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found"#,
            r#"pods "p" is forbidden: exceeded quota: q"#,
            // A name that a client chose.
            r#"pods "is not allowed to modify taints" is forbidden: exceeded quota: q"#,
        ] {
            assert_eq!(NodeRefusal::of(message), None, "{message}");
        }
    }

    #[test]
    fn every_word_can_be_found_and_every_reason_is_used() {
        for (at, (words, refusal)) in WORDS.iter().enumerate() {
            let shadowed = WORDS[..at].iter().find(|(other, of)| words.contains(other) && of != refusal);
            assert_eq!(shadowed, None, "{words}");
        }
        for refusal in NodeRefusal::ALL {
            assert!(WORDS.iter().any(|(_, of)| of == refusal), "{refusal:?}");
        }
    }
}
