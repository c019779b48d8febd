#!/usr/bin/env bash
# The first process of a node: a real kubelet with containerd and runc, and on control planes a real kube-apiserver in a
# static pod, in namespaces of its own and without systemd, docker or registry. Called by node.rs with these variables:
#
#   STATE      folder of this node, on a real file system (containerd's overlays cannot lie on overlays)
#   BINARIES   kube-apiserver, kubelet, kube-controller-manager, kube-scheduler, kubectl
#   ROLE       first (etcd, controller manager and scheduler too), control-plane, worker
#   NAME IP    of this node; POD_CIDR its pods'
#   FIRST_IP   of the first node; API_IP of the API server that this node's kubelet asks
#   CGROUP     v1 | v2
#   IMAGES     archives to import; PAUSE_IMAGE, API_IMAGE: names of two of them
#   SERVICE_IP of the Service `kubernetes`; SERVICE_CIDR
set -u
# /proc is still the machine's: this shell's process id as seen from there.
read -r outer _ < /proc/self/stat
echo "$outer" > "$STATE/node.pid"
hostname "$NAME"
mount --make-rshared /
N=/run/node

say() { echo "$(cut -d' ' -f1 /proc/uptime) $*" >> "$STATE/timeline"; }
fail() { echo "$*" > "$STATE/failed"; exit 1; }
run() { local name=$1; shift; "$@" >> "$N/log/$name.log" 2>&1 < /dev/null & }
# Waits for a condition, as long as node.rs does: it ends this process when its own patience ends.
until_true() {
    local what=$1; shift
    until "$@" > /dev/null 2>&1; do sleep 0.1; done
    say "$what"
}

# The kubelet writes these for the whole machine, where they differ: it gets files with its own values instead.
mkdir -p "$STATE/sysctl"
for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$STATE/sysctl/$(echo "${pair%=*}" | tr / .)
    echo "${pair#*=}" > "$file"
    mount --bind "$file" "/proc/sys/${pair%=*}"
done
if [ "$CGROUP" = v1 ]; then
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
        mkdir -p "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" || rmdir "/sys/fs/cgroup/$controller"
    done
    mkdir -p /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd || rmdir /sys/fs/cgroup/systemd
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mount -t bpf bpf /sys/fs/bpf -o mode=700

# The usual paths, but this node's own: /run in memory, /etc /var /opt over the machine's, the rest in STATE.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p $N /run/binaries /run/lock /run/home
mount --bind "$STATE" $N
mount --bind "$BINARIES" /run/binaries
for folder in etc var opt; do
    mkdir -p $N/over/$folder/{upper,work}
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$N/over/$folder/upper,workdir=$N/over/$folder/work" /$folder ||
        fail "cannot put an overlay over /$folder: is $STATE itself on an overlay?"
done
K=/etc/kubernetes P=/etc/kubernetes/pki
mkdir -p $N/{log,containerd,kubelet,etcd,varlog} /var/lib/{containerd,kubelet,etcd} $K/manifests $P/etcd /opt/cni
mount -t tmpfs -o mode=755 tmpfs $K
mkdir -p $K/manifests $P/etcd
# What a runtime of the machine left there is none of this node's.
rm -rf /etc/cni
mkdir -p /etc/cni/net.d
for pair in containerd:/var/lib/containerd kubelet:/var/lib/kubelet etcd:/var/lib/etcd varlog:/var/log; do
    mount --bind "$N/${pair%%:*}" "${pair#*:}"
done
mkdir -p /var/log/{pods,containers,kubernetes/audit}
[ -e /opt/cni/bin ] || ln -s /usr/lib/cni /opt/cni/bin
export PATH=/run/binaries:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/home
printf '127.0.0.1 localhost\n%s %s\n' "$IP" "$NAME" > /etc/hosts
echo 'nameserver 127.0.0.1' > /etc/resolv.conf
echo 1 > /proc/sys/net/ipv4/ip_forward
# One rule in place of kube-proxy: the Service `kubernetes` is all that pods here reach.
for chain in PREROUTING OUTPUT; do
    iptables -t nat -A $chain -d "$SERVICE_IP" -p tcp --dport 443 -j DNAT --to-destination "$API_IP:6443" ||
        fail "iptables cannot translate addresses here: is nf_tables or ip_tables built into this kernel?"
done

# Certificates, under kubeadm's names.
authority() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$1.key"
    openssl req -x509 -new -key "$1.key" -days 3650 -subj "/CN=$2" -out "$1.crt" \
        -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign
}
certificate() { # name, authority, subject, usage, names
    openssl ecparam -genkey -name prime256v1 -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "$3" | openssl x509 -req -CA "$2.crt" -CAkey "$2.key" -CAcreateserial \
        -days 365 -out "$1.crt" -extfile <(
            echo 'keyUsage=critical,digitalSignature,keyEncipherment'
            echo "extendedKeyUsage=$4"
            [ -z "${5:-}" ] || echo "subjectAltName=$5"
        )
}
kubeconfig() { # name, subject
    certificate "client-$1" ca "$2" clientAuth
    kubectl config set-cluster k --server="https://$API_IP:6443" --certificate-authority=ca.crt --embed-certs --kubeconfig="$1.conf"
    kubectl config set-credentials u --client-certificate="client-$1.crt" --client-key="client-$1.key" --embed-certs --kubeconfig="$1.conf"
    kubectl config set-context c --cluster=k --user=u --kubeconfig="$1.conf"
    kubectl config use-context c --kubeconfig="$1.conf"
}
mkdir -p "$STATE/pki/etcd"
cd "$STATE/pki" || exit 1
{
    if [ "$ROLE" = first ]; then
        authority ca kubernetes
        authority etcd/ca etcd-ca
        authority front-proxy-ca front-proxy-ca
        certificate apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
        certificate apiserver-etcd-client etcd/ca /CN=kube-apiserver-etcd-client clientAuth
        certificate etcd/server etcd/ca "/CN=$NAME" serverAuth,clientAuth "DNS:localhost,DNS:$NAME,IP:127.0.0.1,IP:$IP"
        certificate front-proxy-client front-proxy-ca /CN=front-proxy-client clientAuth
        openssl genrsa -out sa.key 2048
        openssl rsa -in sa.key -pubout -out sa.pub
        kubeconfig controller-manager /CN=system:kube-controller-manager
        kubeconfig scheduler /CN=system:kube-scheduler
    fi
    if [ "$ROLE" != worker ]; then
        names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
        certificate apiserver ca /CN=kube-apiserver serverAuth "$names,DNS:localhost,DNS:$NAME,IP:$SERVICE_IP,IP:$IP,IP:127.0.0.1"
    fi
    kubeconfig admin /O=system:masters/CN=kubernetes-admin
    certificate kubelet-server ca "/O=system:nodes/CN=system:node:$NAME" serverAuth "DNS:$NAME,IP:$IP"
    kubeconfig kubelet "/O=system:nodes/CN=system:node:$NAME"
} > /dev/null 2> "$N/log/pki.log"
cp -r "$STATE"/pki/* $P/
mv $P/*.conf $K/
cp $K/admin.conf "$STATE/admin.conf"
cd /
export KUBECONFIG=$K/admin.conf
say 'certificates'

cat > /etc/cni/net.d/10-node.conflist << X
{"cniVersion":"0.4.0","name":"node","plugins":[
 {"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","dataDir":"/run/cni","ranges":[[{"subnet":"$POD_CIDR"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
X
mkdir -p /etc/containerd
# Nobody may lower oom_score_adj without CAP_SYS_RESOURCE, so containerd must not try.
containerd=$(containerd --version | grep -oE ' v?[0-9]+\.' | head -1 | tr -dc 0-9)
if [ "$containerd" -ge 2 ]; then
    runtime=io.containerd.cri.v1.runtime
    pause="[plugins.\"io.containerd.cri.v1.images\".pinned_images]
  sandbox = \"$PAUSE_IMAGE\""
    in_runtime=
else
    runtime=io.containerd.grpc.v1.cri
    pause=
    in_runtime="sandbox_image = \"$PAUSE_IMAGE\"
  disable_cgroup = $([ "$CGROUP" = v2 ] && echo true || echo false)"
fi
cat > /etc/containerd/config.toml << X
version = $([ "$containerd" -ge 2 ] && echo 3 || echo 2)
root = "/var/lib/containerd"
state = "/run/containerd"
$pause
[plugins."$runtime"]
  $in_runtime
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  [plugins."$runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."$runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
X
run containerd containerd --config /etc/containerd/config.toml
until_true 'containerd answers' ctr version
for image in $IMAGES; do
    ctr -n k8s.io images import "$image" >> $N/log/import.log 2>&1 || fail "containerd does not take $image: $(tail -1 $N/log/import.log)"
done
say 'images imported'

cat > /var/lib/kubelet/config.yaml << X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $P/kubelet-server.crt
tlsPrivateKeyFile: $P/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
enforceNodeAllocatable: [$([ "$CGROUP" = v1 ] && echo pods)]
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
staticPodPath: $K/manifests
volumePluginDir: /var/lib/kubelet/volumeplugins
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
fileCheckFrequency: 2s
nodeStatusUpdateFrequency: 4s
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", nodefs.inodesFree: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
X
taint=
[ "$ROLE" = worker ] || taint=--register-with-taints=node-role.kubernetes.io/control-plane=:NoSchedule
kubelet() {
    run kubelet /run/binaries/kubelet --config=/var/lib/kubelet/config.yaml --kubeconfig=$K/kubelet.conf \
        --hostname-override="$NAME" --node-ip="$IP" $taint --v=2
}

if [ "$ROLE" = first ]; then
    run etcd etcd --name "$NAME" --data-dir /var/lib/etcd/data --listen-client-urls "https://127.0.0.1:2379,https://$IP:2379" \
        --advertise-client-urls "https://$IP:2379" --listen-peer-urls http://127.0.0.1:2380 \
        --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster "$NAME=http://127.0.0.1:2380" \
        --client-cert-auth --cert-file $P/etcd/server.crt --key-file $P/etcd/server.key --trusted-ca-file $P/etcd/ca.crt \
        --unsafe-no-fsync
fi
if [ "$ROLE" != worker ]; then
    cat > $K/audit-policy.yaml << X
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
X
    # As kubeadm writes it, probes included: they are most of a healthy cluster's anonymous requests.
    cat > "$STATE/kube-apiserver.yaml" << X
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system, labels: {component: kube-apiserver, tier: control-plane}}
spec:
  hostNetwork: true
  priorityClassName: system-node-critical
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: kube-apiserver
    image: $API_IMAGE
    imagePullPolicy: Never
    command:
    - kube-apiserver
    - --advertise-address=$IP
    - --allow-privileged=true
    - --audit-log-path=/var/log/kubernetes/audit/audit.log
    - --audit-policy-file=$K/audit-policy.yaml
    - --authorization-mode=Node,RBAC
    - --client-ca-file=$P/ca.crt
    - --enable-admission-plugins=NodeRestriction
    - --enable-bootstrap-token-auth=true
    - --etcd-cafile=$P/etcd/ca.crt
    - --etcd-certfile=$P/apiserver-etcd-client.crt
    - --etcd-keyfile=$P/apiserver-etcd-client.key
    - --etcd-servers=https://$FIRST_IP:2379
    - --kubelet-certificate-authority=$P/ca.crt
    - --kubelet-client-certificate=$P/apiserver-kubelet-client.crt
    - --kubelet-client-key=$P/apiserver-kubelet-client.key
    - --kubelet-preferred-address-types=InternalIP
    - --proxy-client-cert-file=$P/front-proxy-client.crt
    - --proxy-client-key-file=$P/front-proxy-client.key
    - --requestheader-allowed-names=front-proxy-client
    - --requestheader-client-ca-file=$P/front-proxy-ca.crt
    - --requestheader-extra-headers-prefix=X-Remote-Extra-
    - --requestheader-group-headers=X-Remote-Group
    - --requestheader-username-headers=X-Remote-User
    - --secure-port=6443
    - --service-account-issuer=https://kubernetes.default.svc.cluster.local
    - --service-account-key-file=$P/sa.pub
    - --service-account-signing-key-file=$P/sa.key
    - --service-cluster-ip-range=$SERVICE_CIDR
    - --tls-cert-file=$P/apiserver.crt
    - --tls-private-key-file=$P/apiserver.key
    livenessProbe: {httpGet: {host: $IP, path: /livez, port: 6443, scheme: HTTPS}, initialDelaySeconds: 10, periodSeconds: 10, timeoutSeconds: 15, failureThreshold: 8}
    readinessProbe: {httpGet: {host: $IP, path: /readyz, port: 6443, scheme: HTTPS}, periodSeconds: 1, timeoutSeconds: 15, failureThreshold: 3}
    startupProbe: {httpGet: {host: $IP, path: /livez, port: 6443, scheme: HTTPS}, periodSeconds: 1, timeoutSeconds: 15, failureThreshold: 240}
    resources: {requests: {cpu: 250m}}
    volumeMounts:
    - {name: kubernetes, mountPath: /etc/kubernetes, readOnly: true}
    - {name: audit, mountPath: /var/log/kubernetes/audit}
  volumes:
  - {name: kubernetes, hostPath: {path: /etc/kubernetes, type: Directory}}
  - {name: audit, hostPath: {path: /var/log/kubernetes/audit, type: DirectoryOrCreate}}
X
    # Whole before the kubelet sees it.
    cp "$STATE/kube-apiserver.yaml" $K/kube-apiserver.yaml
    mv $K/kube-apiserver.yaml $K/manifests/kube-apiserver.yaml
fi
kubelet
until_true 'the API server is ready' kubectl get --raw /readyz
if [ "$ROLE" = first ]; then
    run kube-controller-manager kube-controller-manager --kubeconfig=$K/controller-manager.conf \
        --authentication-kubeconfig=$K/controller-manager.conf --authorization-kubeconfig=$K/controller-manager.conf \
        --flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins --bind-address=127.0.0.1 --leader-elect=false \
        --use-service-account-credentials=true --root-ca-file=$P/ca.crt --service-account-private-key-file=$P/sa.key \
        --cluster-signing-cert-file=$P/ca.crt --cluster-signing-key-file=$P/ca.key --client-ca-file=$P/ca.crt \
        --requestheader-client-ca-file=$P/front-proxy-ca.crt --service-cluster-ip-range="$SERVICE_CIDR" \
        --kube-api-qps=500 --kube-api-burst=1000 --allocate-node-cidrs=false
    run kube-scheduler kube-scheduler --kubeconfig=$K/scheduler.conf --authentication-kubeconfig=$K/scheduler.conf \
        --authorization-kubeconfig=$K/scheduler.conf --bind-address=127.0.0.1 --leader-elect=false
fi
until_true 'the node is registered' kubectl get node "$NAME"
# NodeRestriction keeps kubelets from giving themselves this label; kubeadm does it as here.
[ "$ROLE" = worker ] || kubectl label node "$NAME" --overwrite node-role.kubernetes.io/control-plane= >> $N/log/label.log 2>&1
kubectl patch node "$NAME" --patch "{\"spec\":{\"podCIDR\":\"$POD_CIDR\",\"podCIDRs\":[\"$POD_CIDR\"]}}" >> $N/log/label.log 2>&1
until_true 'the node is ready' kubectl wait --for=condition=Ready "node/$NAME" --timeout=1s
until_true 'there is a service account' kubectl get serviceaccount default
touch "$STATE/ready"
# Reaps what its children leave; when it ends the kernel ends the node.
trap 'exit 0' TERM
while :; do wait -n 2> /dev/null; sleep 1; done
