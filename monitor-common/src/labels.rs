//! Closed sets that both sides use; their words are the label values of metrics and JSON.

use crate::closed_set;

closed_set! {
    /// What a watched port is meant to be; what is spoken there is the protocol.
    Role {
        /// The API server's TLS port (6443 and what is configured or discovered).
        Secure = "secure",
        /// The legacy insecure port or a `kubectl proxy` (8080, 8001 and what is configured).
        Insecure = "insecure",
        /// The NodePort of the `kubernetes` Service.
        NodePort = "node_port",
        /// A port where nobody expected the API and where it was found speaking in the clear.
        Discovered = "discovered",
    }
}

closed_set! {
    /// Where a client's address belongs; the longest matching prefix decides.
    SourceClass {
        /// No prefix holds the address: it is routable from anywhere, or reserved and has no business here.
        Public = "public",
        /// 127.0.0.0/8 and ::1.
        Loopback = "loopback",
        /// An address of this node.
        Node = "node",
        /// An address of another node of the cluster.
        ClusterNode = "cluster_node",
        /// A pod's address.
        Pod = "pod",
        /// A Service's address.
        Service = "service",
        /// The operator's word: bastions, health checks of load balancers.
        Trusted = "trusted",
        /// RFC 1918, CGNAT, ULA, link-local: unknown but not routable.
        Private = "private",
    }
}

closed_set! {
    /// What a counted packet on a watched port is. Towards the API: all but `syn_ack`; back: `syn_ack`, `reset`, `reply`.
    PacketKind {
        /// SYN without ACK: a connection asked for.
        Syn = "syn",
        /// SYN with ACK, from the API's side: the port is open.
        SynAck = "syn_ack",
        /// RST, from either side.
        Reset = "reset",
        /// FIN towards the API, with or without payload.
        Fin = "fin",
        /// Payload towards the API.
        Data = "data",
        /// Towards the API, without payload and without SYN, FIN or RST.
        Ack = "ack",
        /// Anything else that comes back from the API.
        Reply = "reply",
    }
}
