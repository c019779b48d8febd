//! The Kubernetes objects that are followed, as far as they are read: a node's object has tens of kilobytes, of which a
//! few addresses matter here.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::Deserialize;

use super::{Facts, Object};

/// An object that is followed.
pub trait Followed: Resource<DynamicType = ()> {
    /// Which.
    const OBJECT: Object;

    /// What it says.
    fn facts(&self) -> Facts;
}

macro_rules! followed {
    ($(#[$doc:meta])* $kind:ident { $($field:ident: $type:ty),+ } $scope:ty, $group:literal, $version:literal, $plural:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $kind {
            #[serde(default)]
            metadata: ObjectMeta,
            $(#[serde(default)] $field: $type,)+
        }

        impl Resource for $kind {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

followed! {
    /// A node (core/v1).
    Node { spec: NodeSpec, status: NodeStatus } ClusterResourceScope, "", "v1", "nodes"
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStatus {
    #[serde(default)]
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeAddress {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    address: String,
}

impl Followed for Node {
    const OBJECT: Object = Object::Nodes;

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        let addresses = self.status.addresses.iter().flatten();
        let addresses = addresses.filter(|address| matches!(address.kind.as_str(), "InternalIP" | "ExternalIP"));
        facts.take_addresses(addresses.map(|address| address.address.as_str()));
        // podCIDR is the first of podCIDRs.
        let ranges = self.spec.pod_cidr.iter().chain(self.spec.pod_cidrs.iter().flatten());
        facts.take_ranges(ranges.map(String::as_str).filter(|range| !range.is_empty()));
        facts
    }
}

followed! {
    /// A Service (core/v1).
    Service { spec: ServiceSpec, status: ServiceStatus } NamespaceResourceScope, "", "v1", "services"
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(default, rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(default)]
    ports: Option<Vec<ServicePort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(default)]
    node_port: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(default)]
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct LoadBalancer {
    #[serde(default)]
    ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Ingress {
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
}

impl Followed for Service {
    const OBJECT: Object = Object::Service;

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        let addresses = self.spec.cluster_ip.iter().chain(self.spec.cluster_ips.iter().flatten());
        facts.take_addresses(addresses.map(String::as_str).filter(|address| !matches!(*address, "" | "None")));
        facts.take_ports(self.spec.ports.iter().flatten().filter_map(|port| port.node_port));
        for ingress in self.status.load_balancer.ingress.iter().flatten() {
            for word in ingress.ip.iter().chain(&ingress.hostname).filter(|word| !word.is_empty()) {
                facts.take_load_balancer(word);
            }
        }
        facts
    }
}

followed! {
    /// An EndpointSlice (discovery.k8s.io/v1).
    EndpointSlice { endpoints: Option<Vec<Endpoint>>, ports: Option<Vec<EndpointPort>> }
    NamespaceResourceScope, "discovery.k8s.io", "v1", "endpointslices"
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Endpoint {
    #[serde(default)]
    addresses: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct EndpointPort {
    #[serde(default)]
    port: Option<i32>,
}

impl Followed for EndpointSlice {
    const OBJECT: Object = Object::EndpointSlices;

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        let addresses = self.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().flatten());
        facts.take_addresses(addresses.map(String::as_str));
        facts.take_ports(self.ports.iter().flatten().filter_map(|port| port.port));
        facts
    }
}

followed! {
    /// A ServiceCIDR (networking.k8s.io/v1, from Kubernetes 1.33 on).
    ServiceCIDR { spec: ServiceCidrSpec } ClusterResourceScope, "networking.k8s.io", "v1", "servicecidrs"
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct ServiceCidrSpec {
    #[serde(default)]
    cidrs: Option<Vec<String>>,
}

impl Followed for ServiceCIDR {
    const OBJECT: Object = Object::ServiceCidrs;

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        facts.take_ranges(self.spec.cidrs.iter().flatten().map(String::as_str));
        facts
    }
}
