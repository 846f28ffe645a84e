# SPDX-License-Identifier: Apache-2.0
#
# Part of checks.sh: the kernel half on this kernel. A node with a service of two backends, each in a network namespace
# of its own: programs, clock, failover, life without a daemon, detaching.

KERNEL_VIP=10.96.0.1
KERNEL_VIP6='[fd00:96::1]'

# in_kernel FUNCTION...: with a node and a folder of its own.
in_kernel() {
    WORK=/disk/kernel
    SOCKET=$WORK/control.sock
    URL=http://127.0.0.1:5100
    "$@"
}

kernel_command() {
    timeout 40 fairlead "$@" --socket $SOCKET
}

kernel_json() {
    kernel_command kernel --json | tr -d ' \n'
}

kernel_config() {
    cat <<END
state: $WORK/state
run: $WORK/run
listen:
  - {address: "127.0.0.1:5100", service: registry}
admin: {address: "127.0.0.1:5180"}
control: {socket: $SOCKET}
log: {access: none}
kernel: {instance: vm, xdp: [to2]}
peers:
  - {name: absent, address: 10.99.1.9}
takeover: [self, absent]
services:
  - name: outside
    address: 10.96.0.2:80
    edge: nat
    takeover: true
    backends: [{address: "10.99.1.2:80"}]
  - name: web
    address: $KERNEL_VIP:80
    kind: http
    steer: true
    check: {kind: http, path: /, interval: 100ms, http_interval: 500ms, timeout: 1s, http_timeout: 5s}
    backends:
      - {name: b1, address: "10.99.1.2:80"}
      - {name: b2, address: "10.99.2.2:80"}
  - name: web6
    address: "$KERNEL_VIP6:80"
    kind: http
    steer: true
    check: {kind: http, path: /, interval: 100ms, http_interval: 500ms, timeout: 1s, http_timeout: 5s}
    backends:
      - {name: b1-v6, address: "[fd00:99:1::2]:80"}
      - {name: b2-v6, address: "[fd00:99:2::2]:80"}
END
}

# backend NUMBER: a host with a server.
kernel_backend() {
    ip netns add "b$1"
    ip link add "to$1" type veth peer name eth0 netns "b$1"
    ip addr add "10.99.$1.1/24" dev "to$1"
    ip addr add "fd00:99:$1::1/64" dev "to$1" nodad
    ip link set "to$1" up
    ip -n "b$1" addr add "10.99.$1.2/24" dev eth0
    ip -n "b$1" addr add "fd00:99:$1::2/64" dev eth0 nodad
    ip -n "b$1" link set eth0 up
    ip netns exec "b$1" pong '*' 80 "b$1" >/tmp/pong"$1" 2>&1 </dev/null &
    echo $! >/tmp/pong"$1".pid
}

kernel_hosts() {
    mkdir -p /sys/fs/cgroup /run/netns $WORK
    mount -t cgroup2 none /sys/fs/cgroup
    kernel_backend 1
    kernel_backend 2
    kernel_config >$WORK/config.yaml
}

kernel_is_on() {
    case $(kernel_json) in
    *'"state":"on"'*) ;;
    *) die "the kernel half is not on: $(kernel_json | head -c 300)" ;;
    esac
}

kernel_starts() {
    start
    within 60 kernel_is_on
}

# The configuration asks for something of each object.
kernel_is_complete() {
    kernel_json >/tmp/kernel
    ! grep -q '"loaded":false' /tmp/kernel || die "$(grep -o '"degraded":.*' /tmp/kernel)"
    grep -q '"degraded":\[\]' /tmp/kernel || die "$(grep -o '"degraded":.*' /tmp/kernel)"
    ! grep -q '"supported":false' /tmp/kernel || die "$(grep -o '[^{]*"supported":false[^}]*' /tmp/kernel)"
}

kernel_ticks() {
    kernel_json | sed -n 's/.*"ticks":\([0-9]*\).*/\1/p'
}

kernel_clock_runs() {
    before=$(kernel_ticks)
    sleep 2
    after=$(kernel_ticks)
    [ $((after - before)) -gt 10 ] || die "$before ticks, then $after"
}

# kernel_answer ADDRESS
kernel_answer() {
    curl -gsS --max-time 10 "http://$1/"
}

kernel_told() {
    kernel_command events --json --limit 100 | grep "\"$1\"" | grep -q "\"$2\""
}

# kernel_both_up ADDRESS SUFFIX
kernel_both_up() {
    within 60 kernel_told backend.up "b1$2"
    within 60 kernel_told backend.up "b2$2"
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kernel_answer "$1"
        echo
    done >/tmp/answers
    equal "the servers that answer" "$(sort -u /tmp/answers | tr '\n' ' ')" "b1 b2 "
}

# kernel_failed_over ADDRESS SUFFIX
kernel_failed_over() {
    within 30 kernel_told backend.down "b1$2"
    for try in 1 2 3 4 5 6 7 8 9 10; do
        equal "who answers" "$(kernel_answer "$1")" b2
    done
}

kernel_fails_over() {
    kill -9 "$(cat /tmp/pong1.pid)"
    kernel_failed_over $KERNEL_VIP ""
}

kernel_goes_on_alone() {
    kill -9 "$(cat $WORK/pid)"
    within 10 test -s $WORK/exit
    equal "who answers" "$(kernel_answer $KERNEL_VIP)" b2
    equal "who answers over IPv6" "$(kernel_answer "$KERNEL_VIP6")" b2
    start
    within 60 kernel_is_on
    equal "who answers" "$(kernel_answer $KERNEL_VIP)" b2
    equal "who answers over IPv6" "$(kernel_answer "$KERNEL_VIP6")" b2
    grep -q 'with the maps and verdicts that were there' $WORK/log || die "new maps were made"
}

kernel_is_clean() {
    kernel_command kernel detach --yes
    equal "pins" "$(ls /sys/fs/bpf | grep fairlead)" ""
    equal "namespaces" "$(ls /run/netns | tr '\n' ' ')" "b1 b2 "
    equal "devices" "$(ls /sys/class/net | grep '^fl')" ""
    ! curl -sS --max-time 2 http://$KERNEL_VIP/ >/dev/null 2>&1 || die "connects are steered still"
}

check_kernel_half() {
    check "kernel half: hosts" in_kernel kernel_hosts
    check "kernel half: starts" in_kernel kernel_starts
    check "kernel half: every program loads" in_kernel kernel_is_complete
    check "kernel half: the clock runs" in_kernel kernel_clock_runs
    check "kernel half: two backends come up, and both are reached" in_kernel kernel_both_up $KERNEL_VIP ""
    check "kernel half: the same over IPv6" in_kernel kernel_both_up "$KERNEL_VIP6" -v6
    check "kernel half: a server is killed, connects go to the other" in_kernel kernel_fails_over
    check "kernel half: the same over IPv6" in_kernel kernel_failed_over "$KERNEL_VIP6" -v6
    check "kernel half: kill -9 of control, and a new one" in_kernel kernel_goes_on_alone
    check "kernel half: detach leaves nothing" in_kernel kernel_is_clean
    check "kernel half: stop" in_kernel stop
}
