#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: node.sh PROGRAMS FOLDER CGROUP-PARENT ADDRESS
# The Docker engine and the kubelet of one node: the first process of a PID namespace, with mounts of its own and a network that leads
# nowhere. All they write, as to /var/lib and /var/log, is in memory and gone with the last of them. FOLDER has images, the
# kubelet's configuration, and the logs.
set -eu
programs=$1 folder=$2 parent=$3 address=$4

mount --make-rprivate /
for each in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 none "$each"
done
mount --make-rshared /

# The kubelet would set these for the whole machine; it finds them set.
while read -r name value; do
    echo "$value" >"/run/sysctl-$(basename "$name")"
    mount --bind "/run/sysctl-$(basename "$name")" "/proc/sys/$name"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END

export HOME=/run
echo '{}' >/run/daemon.json
dockerd --config-file=/run/daemon.json --iptables=false --ip6tables=false --exec-opt native.cgroupdriver=cgroupfs \
    --cgroup-parent="$parent" --add-runtime "here=$(dirname "$(readlink -f "$0")")/runtime.sh" --default-runtime=here \
    >"$folder/dockerd.log" 2>&1 &
engine=$!
until docker version >/dev/null 2>&1; do
    kill -0 "$engine"
    sleep 0.2
done
docker import "$folder/box.tar" box:1
docker import --change 'ENTRYPOINT ["/pause"]' "$folder/pause.tar" pause:1
"$programs/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$folder/kubelet.conf" --hostname-override=node \
    --node-ip="$address" --pod-infra-container-image=pause:1 >"$folder/kubelet.log" 2>&1 &
wait
