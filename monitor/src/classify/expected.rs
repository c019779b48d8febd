//! Anonymous requests that a healthy cluster makes: counted, but no exposures.

use monitor_common::SourceClass;

use super::{PathClass, RequestMeaning, Verb};

/// Whether this anonymous request is one that a healthy cluster makes:
///
/// * health checks from the node itself (kubelet's probes of the API server's static pod: kubeadm,
///   cmd/kubeadm/app/util/staticpod/utils.go, `LivenessProbe`, Kubernetes 1.37) and from those that the operator vouches
///   for (load balancers);
/// * `/version`, and the ConfigMap cluster-info that `kubeadm join` reads before it has a credential: both are open to
///   anybody on purpose (ClusterRole `system:public-info-viewer`, Role `kubeadm:bootstrap-signer-clusterinfo`).
///
/// `source` is `None` where the client's address is not known.
pub fn expected(source: Option<SourceClass>, request: &RequestMeaning) -> bool {
    if request.verb != Verb::Get {
        return false;
    }
    match request.path_class {
        PathClass::Health => {
            matches!(source, Some(SourceClass::Loopback | SourceClass::Node | SourceClass::Trusted))
        }
        PathClass::Version | PathClass::ClusterInfo => true,
        PathClass::Discovery | PathClass::Resource | PathClass::Secret | PathClass::Exec | PathClass::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_healthy_cluster_asks_for_is_expected_and_nothing_else() {
        let get = |path: &str| RequestMeaning::of_decoded("GET", path);
        let inside = [SourceClass::Loopback, SourceClass::Node, SourceClass::Trusted];
        for class in SourceClass::ALL {
            let source = Some(*class);
            for path in ["/livez", "/readyz/etcd", "/healthz"] {
                assert_eq!(expected(source, &get(path)), inside.contains(class), "{path} {class:?}");
            }
            assert!(expected(source, &get("/version")));
            assert!(expected(source, &get("/api/v1/namespaces/kube-public/configmaps/cluster-info")));
            for path in
                ["/", "/api", "/apis/apps/v1", "/api/v1/pods", "/api/v1/secrets", "/api/v1/nodes/x/proxy", "/metrics"]
            {
                assert!(!expected(source, &get(path)), "{path} {class:?}");
            }
            assert!(!expected(source, &RequestMeaning::of_decoded("POST", "/livez")));
            assert!(!expected(source, &get("/livez/../api/v1/secrets")));
        }
        assert!(!expected(None, &get("/livez")), "an address that is not known is nobody's");
    }
}
