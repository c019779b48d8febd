//! Anonymous requests that a healthy cluster makes: counted, but no exposures.

use monitor_common::SourceClass;

use super::{PathClass, RequestMeaning, Verb};

/// Whether this anonymous request is one that a healthy cluster makes:
///
/// * health checks from the node itself (kubelet's probes of the API server's static pod: kubeadm,
///   cmd/kubeadm/app/util/staticpod/utils.go, `LivenessProbe`, Kubernetes 1.37) and from those that the operator vouches
///   for (load balancers);
/// * the ConfigMap cluster-info, which `kubeadm join` reads before it has a credential (Role
///   `kubeadm:bootstrap-signer-clusterinfo`), from nodes and from addresses that may become nodes;
/// * `/version`, which anybody may read (ClusterRole `system:public-info-viewer`) and whose readers are many. A reader
///   from outside is none of a cluster's.
///
/// `source` is `None` where the client's address is not known.
pub fn expected(source: Option<SourceClass>, request: &RequestMeaning) -> bool {
    use SourceClass::{ClusterNode, Loopback, Node, Private, Public, Trusted};
    let Some(source) = source.filter(|_| request.verb == Verb::Get) else { return false };
    match request.path_class {
        PathClass::Health => matches!(source, Loopback | Node | Trusted),
        PathClass::ClusterInfo => matches!(source, Loopback | Node | ClusterNode | Private | Trusted),
        PathClass::Version => source != Public,
        PathClass::Discovery | PathClass::Resource | PathClass::Secret | PathClass::Exec | PathClass::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_healthy_cluster_asks_for_is_expected_and_nothing_else() {
        let get = |path: &str| RequestMeaning::of_decoded("GET", path);
        // Class: health, cluster-info, version.
        let table = [
            (SourceClass::Public, [false, false, false]),
            (SourceClass::Loopback, [true, true, true]),
            (SourceClass::Node, [true, true, true]),
            (SourceClass::ClusterNode, [false, true, true]),
            (SourceClass::Pod, [false, false, true]),
            (SourceClass::Service, [false, false, true]),
            (SourceClass::Trusted, [true, true, true]),
            (SourceClass::Private, [false, true, true]),
        ];
        assert!(SourceClass::ALL.iter().all(|class| table.iter().any(|(of, _)| of == class)));
        for (class, [health, cluster_info, version]) in table {
            let source = Some(class);
            for path in ["/livez", "/readyz/etcd", "/healthz"] {
                assert_eq!(expected(source, &get(path)), health, "{path} {class:?}");
            }
            let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
            assert_eq!(expected(source, &get(path)), cluster_info, "{class:?}");
            assert_eq!(expected(source, &get("/version")), version, "{class:?}");
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
