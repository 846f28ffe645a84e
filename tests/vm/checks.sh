#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# checks.sh STAGE: what is checked inside the virtual machine. Prints a line `ok NAME` or `not ok NAME: why` for each
# check and `end PASSED FAILED` at last; what a failed check had to say goes to the kernel's console.
#
# first: everything, on an empty disk; then pushes without end, a line `acknowledged NUMBER DIGEST` for each, until the
#        machine is cut off.
# after: the same disk after the cut; /vm/acknowledged has those lines.

URL=http://127.0.0.1:5000
ADMIN=http://127.0.0.1:5080
WORK=/disk/work
SOCKET=$WORK/run/control.sock
IMAGE=application/vnd.oci.image.manifest.v1+json
BIG=/disk/big
passed=0
failed=0
. /vm/kernel.sh

# ---------------------------------------------------------------- one check, and what checks are made of

# check NAME FUNCTION [ARGS...]: the function ends at its first command that fails; its last line of output says why.
check() {
    name=$1
    shift
    (
        set -e
        "$@"
    ) >/tmp/said 2>&1
    if [ $? = 0 ]; then
        passed=$((passed + 1))
        echo "ok $name"
    else
        failed=$((failed + 1))
        echo "not ok $name: $(grep . /tmp/said | tail -n 1 | cut -c 1-300)"
        sed "s/^/$name: /" /tmp/said >/dev/console
    fi
}

die() {
    echo "$*"
    return 1
}

# equal WHAT GOT WANTED
equal() {
    [ "$2" = "$3" ] || die "$1 is $2 and should be $3"
}

# within SECONDS COMMAND...: until it succeeds.
within() {
    left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || die "not in time: $*"
        usleep 100000
    done
}

# ask STATUS CURL-ARGUMENTS...: one request; leaves its answer in $WORK/body and $WORK/head.
ask() {
    wanted=$1
    shift
    : >$WORK/body
    got=$(curl -sS --max-time 120 -o $WORK/body -D $WORK/head -w '%{http_code}' "$@") || die "curl: $? for $*"
    [ "$got" = "$wanted" ] || die "status $got instead of $wanted for $*: $(head -c 200 $WORK/body)"
}

# field NAME: of the last answer's head.
field() {
    tr -d '\r' <$WORK/head | sed -n "s/^$1: *//Ip" | tail -n 1
}

digest_of() {
    echo "sha256:$(sha256sum "$1" | cut -d ' ' -f 1)"
}

# random_file NAME BYTES
random_file() {
    head -c "$2" /dev/urandom >$WORK/"$1"
}

same() {
    cmp "$1" "$2" || die "$1 and $2 differ"
}

# begin_upload: sets $upload to the address of a new session.
begin_upload() {
    ask 202 -X POST $URL/v2/vm/app/blobs/uploads/
    upload=$URL$(field location)
}

# finish_upload DIGEST CURL-ARGUMENTS...
finish_upload() {
    digest=$1
    shift
    case $upload in
    *\?*) mark='&' ;;
    *) mark='?' ;;
    esac
    ask 201 -X PUT "$@" "$upload${mark}digest=$digest"
}

# patch FILE CURL-ARGUMENTS...: sends a file to the session, whose next address is remembered.
patch() {
    file=$1
    shift
    ask 202 -X PATCH -H 'Content-Type: application/octet-stream' "$@" --data-binary @"$file" "$upload"
    upload=$URL$(field location)
}

# pulled FILE: the blob with these bytes comes back byte for byte.
pulled() {
    ask 200 "$URL/v2/vm/app/blobs/$(digest_of "$1")"
    same $WORK/body "$1"
}

# figure NAME: a counter, summed over the rings.
figure() {
    curl -sS --max-time 20 $ADMIN/metrics | awk -v name="fairlead_$1" '
        { split($1, part, "{") } part[1] == name { sum += $2; seen = 1 }
        END { if (!seen) exit 1; printf "%.0f\n", sum }'
}

status() {
    timeout 20 fairlead status --json --socket $SOCKET
}

# ---------------------------------------------------------------- the daemon's processes

daemon_config() {
    cat <<END
state: $WORK/state
run: $WORK/run
listen:
  - address: 127.0.0.1:5000
    service: registry
  - address: 127.0.0.1:5443
    service: registry
    tls:
      certificates: [vm]
certificates:
  vm:
    cert: /vm/tls/vm.pem
    key: /vm/tls/vm.key
    ca: /vm/tls/vm.pem
services:
  - name: inward
    address: 127.0.0.1:5444
    kind: registry
    path: proxy
    steer: false
    check: {kind: none}
    tls: {mode: terminate, certificates: [vm]}
    backends: [{address: "127.0.0.1:5000"}]
  - name: outward
    address: 127.0.0.1:5445
    kind: registry
    path: proxy
    steer: false
    check: {kind: none}
    backend: {tls: true, ca: vm}
    backends: [{address: "127.0.0.1:5443"}]
settings: {kernel.enabled: false}
admin:
  address: 127.0.0.1:5080
control:
  socket: $SOCKET
log:
  access: $WORK/access.log
END
}

# launch [LAUNCHER]: starts the daemon in the background; its exit code will be in $WORK/exit.
launch() {
    rm -f $WORK/exit
    (
        code=0
        sh -c "echo \$\$ >$WORK/pid; exec $* fairleadd --config $WORK/config.yaml" \
            >>$WORK/log 2>&1 </dev/null || code=$?
        echo $code >$WORK/exit
    ) &
}

serves() {
    ask 200 $URL/v2/
}

# A daemon that ended is not waited for.
serves_or_ended() {
    [ -e $WORK/exit ] || serves
}

start() {
    launch
    within 40 serves_or_ended || die "it does not serve: $(tail -n 1 $WORK/log)"
    [ ! -e $WORK/exit ] || die "exit code $(cat $WORK/exit): $(tail -n 1 $WORK/log)"
}

exit_is() {
    within 40 test -s $WORK/exit
    equal "the exit code" "$(cat $WORK/exit)" "$1"
}

stop() {
    kill -TERM "$(cat $WORK/pid)"
    exit_is 0
}

dataplane_pid() {
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe") in
        */fairlead-dataplane) basename "$process" ;;
        esac
    done | grep .
}

# ---------------------------------------------------------------- units

# Leaves what the program said on the console, with the count of cases in the name of the check.
run_unit() {
    timeout 100 "/vm/unit/$1" >/tmp/unit 2>&1 || {
        code=$?
        cat /tmp/unit
        die "exit code $code; $(grep -m 1 -E 'ERROR|FAILED|rror:' /tmp/unit)"
    }
    grep -E 'PASSED|SKIPPED' /tmp/unit || die "it says nothing of cases passed"
    ! grep SKIPPED /tmp/unit || die "cases were skipped that this kernel has the means for"
}

check_units() {
    for program in /vm/unit/*; do
        check "unit $(basename "$program")" run_unit "$(basename "$program")"
    done
}

# ---------------------------------------------------------------- the kernel, and what is made of it

kernel_is_old() {
    case $(uname -r) in
    6.1.*) ;;
    *) die "this is $(uname -r)" ;;
    esac
}

features_of_the_kernel() {
    status >/tmp/status
    features=$(tr -d ' \n' </tmp/status | sed -n 's/.*"features":\[\([^]]*\)\].*/\1/p')
    for name in defer_taskrun landlock seccomp ring_restrictions; do
        case $features in
        *"\"$name\""*) ;;
        *) die "no $name in: $features" ;;
        esac
    done
    case $features in
    *cachestat*) die "cachestat is said to be there: $features" ;;
    esac
}

dataplane_is_locked_in() {
    own=/proc/$(dataplane_pid)/status
    equal "its user" "$(awk '/^Uid:/ { print $2, $3, $4, $5 }' "$own")" "997 997 997 997"
    for row in CapInh:0000000000000000 CapPrm:0000000000000000 CapEff:0000000000000000 NoNewPrivs:1 Seccomp:2; do
        equal "${row%:*}" "$(awk -v name="${row%:*}:" '$1 == name { print $2 }' "$own")" "${row#*:}"
    done
}

# What is wrong has to be said by name, and the daemon gives up instead of trying for ever.
blocked_io_uring() {
    launch no_uring
    exit_is 1
    grep 'io_uring' $WORK/log | grep -q 'seccomp' || die "seccomp is not named: $(head -n 1 $WORK/log)"
}

# ---------------------------------------------------------------- pushes and pulls

push_in_one() {
    random_file one 300000
    digest=$(digest_of $WORK/one)
    ask 201 -X POST -H 'Content-Type: application/octet-stream' --data-binary @$WORK/one \
        "$URL/v2/vm/app/blobs/uploads/?digest=$digest"
    equal "the digest" "$(field docker-content-digest)" "$digest"
    pulled $WORK/one
}

push_in_two() {
    random_file two 1000001
    begin_upload
    finish_upload "$(digest_of $WORK/two)" -H 'Content-Type: application/octet-stream' --data-binary @$WORK/two
    pulled $WORK/two
}

push_in_chunks() {
    random_file chunked 3000000
    begin_upload
    for part in 0 1 2; do
        dd if=$WORK/chunked of=$WORK/part bs=1000000 skip=$part count=1 2>/dev/null
        patch $WORK/part -H "Content-Range: $((part * 1000000))-$((part * 1000000 + 999999))"
        equal "the range" "$(field range)" "0-$((part * 1000000 + 999999))"
    done
    ask 204 "$upload"
    finish_upload "$(digest_of $WORK/chunked)"
    pulled $WORK/chunked
}

push_as_a_stream() {
    random_file streamed 2500000
    begin_upload
    patch $WORK/streamed -H 'Transfer-Encoding: chunked'
    finish_upload "$(digest_of $WORK/streamed)"
    pulled $WORK/streamed
}

# descriptor TYPE FILE
descriptor() {
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"%s","size":%s}' \
        "$1" "$(digest_of "$2")" "$(stat -c %s "$2")"
}

# put_image TAG CONFIG-FILE LAYER-FILE: the manifest of blobs that are there already is left in $WORK/manifest.
put_image() {
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' $IMAGE \
        "$(descriptor config.v1+json "$2")" "$(descriptor layer.v1.tar "$3")" >$WORK/manifest
    ask 201 -X PUT -H "Content-Type: $IMAGE" --data-binary @$WORK/manifest "$URL/v2/vm/app/manifests/$1"
}

push_manifest() {
    put_image latest $WORK/one $WORK/two
    cp $WORK/manifest $WORK/latest
    manifest_is_there
}

manifest_is_there() {
    for reference in latest "$(digest_of $WORK/latest)"; do
        ask 200 -H "Accept: $IMAGE" "$URL/v2/vm/app/manifests/$reference"
        same $WORK/body $WORK/latest
        equal "the type" "$(field content-type)" $IMAGE
    done
    ask 200 $URL/v2/vm/app/tags/list
    grep -q '"latest"' $WORK/body
}

ranges() {
    address=$URL/v2/vm/app/blobs/$(digest_of $WORK/two)
    ask 206 -r 123456-654321 "$address"
    equal "the range" "$(field content-range)" "bytes 123456-654321/1000001"
    tail -c +123457 $WORK/two | head -c 530866 >$WORK/part
    same $WORK/body $WORK/part
    ask 206 -r -5000 "$address"
    tail -c 5000 $WORK/two >$WORK/part
    same $WORK/body $WORK/part
    ask 416 -r 1000001- "$address"
}

wrong_digest() {
    ask 400 -X POST -H 'Content-Type: application/octet-stream' --data-binary @$WORK/one \
        "$URL/v2/vm/app/blobs/uploads/?digest=$(digest_of $WORK/two)"
}

# ---------------------------------------------------------------- a large blob: sendfile, and the question what is cached

push_big() {
    begin_upload
    finish_upload "$(cat $BIG.digest)" -H 'Content-Type: application/octet-stream' -T $BIG
}

# pull_big: sets $sent_from_file and $cold to what the pull made of these counters.
pull_big() {
    file_before=$(figure sent_file_bytes_total)
    cold_before=$(figure file_cold_total)
    ask 200 "$URL/v2/vm/app/blobs/$(cat $BIG.digest)"
    same $WORK/body $BIG
    sent_from_file=$(($(figure sent_file_bytes_total) - file_before))
    cold=$(($(figure file_cold_total) - cold_before))
}

pull_big_cold() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    pull_big
    [ $cold -gt 0 ] || die "nothing of it is said to have been cold"
}

pull_big_hot() {
    pull_big
    equal "what went from the file" "$sent_from_file" "$(stat -c %s $BIG)"
    equal "the count of cold pieces" "$cold" 0
}

# ---------------------------------------------------------------- TLS whose records the kernel makes

push_over_tls() {
    random_file tls 6000000
    digest=$(digest_of $WORK/tls)
    ask 201 --cacert /vm/tls/vm.pem -X POST -H 'Content-Type: application/octet-stream' --data-binary @$WORK/tls \
        "https://127.0.0.1:5443/v2/vm/app/blobs/uploads/?digest=$digest"
    pulled $WORK/tls
}

# pull_over_tls CURL-ARGUMENTS...: sets $sent_from_file and $by_kernel to what it made of these counters.
pull_over_tls() {
    file_before=$(figure sent_file_bytes_total)
    kernel_before=$(figure tls_kernel_total)
    ask 200 --cacert /vm/tls/vm.pem "$@" "https://127.0.0.1:5443/v2/vm/app/blobs/$(digest_of $WORK/tls)"
    same $WORK/body $WORK/tls
    sent_from_file=$(($(figure sent_file_bytes_total) - file_before))
    by_kernel=$(($(figure tls_kernel_total) - kernel_before))
}

kernel_makes_records() {
    status | grep -q '"kernel_tls"' || die "the data plane does not say that the kernel has TLS"
    pull_over_tls --http1.1 "$@"
    equal "connections whose records the kernel makes" "$by_kernel" 1
    equal "what went from the file" "$sent_from_file" 6000000
}

# The setting counts for contexts that are made afterwards: at once, as it makes new ones.
user_space_makes_records() {
    fairlead set tls.kernel false --socket $SOCKET
    pull_over_tls --http1.1
    equal "connections whose records the kernel makes" "$by_kernel" 0
    fairlead unset tls.kernel --socket $SOCKET
}

# The client would wait for records under new keys, which the kernel cannot be given: its connection ends, and is not heard wrongly.
new_keys_end_the_connection() {
    before=$(figure tls_rekeys_refused_total)
    {
        sleep 2
        echo K
        sleep 3
        printf 'GET /v2/ HTTP/1.1\r\nHost: vm\r\n\r\n'
        sleep 2
    } | timeout 30 openssl s_client -connect 127.0.0.1:5443 -CAfile /vm/tls/vm.pem -tls1_3 >$WORK/said 2>&1 || true
    ! grep -q 'bad record mac' $WORK/said || die "a record that nobody can read was sent"
    equal "the count of such ends" "$(figure tls_rekeys_refused_total)" $((before + 1))
}

# ---------------------------------------------------------------- what is relayed over such TLS

# relayed ADDRESS CURL-ARGUMENTS...: pulls through a service; sets $spliced and $by_kernel.
relayed() {
    from=$1
    shift
    spliced_before=$(figure relay_spliced_bytes_total)
    kernel_before=$(figure tls_kernel_total)
    ask 200 --cacert /vm/tls/vm.pem "$@" "$from/v2/vm/app/blobs/$(digest_of $WORK/tls)"
    same $WORK/body $WORK/tls
    spliced=$(($(figure relay_spliced_bytes_total) - spliced_before))
    by_kernel=$(($(figure tls_kernel_total) - kernel_before))
}

# sent ADDRESS: pushes through a service; sets $spliced.
sent() {
    spliced_before=$(figure relay_spliced_bytes_total)
    random_file sent 6000000
    ask 201 --cacert /vm/tls/vm.pem --http1.1 -X POST -H 'Content-Type: application/octet-stream' --data-binary @$WORK/sent \
        "$1/v2/vm/app/blobs/uploads/?digest=$(digest_of $WORK/sent)"
    pulled $WORK/sent
    spliced=$(($(figure relay_spliced_bytes_total) - spliced_before))
}

nearly_all_spliced() {
    [ $spliced -gt 5700000 ] || die "$spliced bytes were spliced"
}

relay_is_spliced() {
    relayed https://127.0.0.1:5444 --http1.1 "$@"
    equal "connections whose records the kernel makes" "$by_kernel" 1
    nearly_all_spliced
}

# Small segments and a reader that seldom reads: the socket refuses in the middle of records.
relay_to_a_slow_reader() {
    relay_is_spliced --limit-rate 3M
}

relay_by_http2() {
    relayed https://127.0.0.1:5444 --http2
    equal "the protocol" "$(head -c 6 $WORK/head)" "HTTP/2"
    equal "connections whose records the kernel makes" "$by_kernel" 1
}

# What comes by TLS is opened by OpenSSL; where it goes to is another matter.
relay_from_a_tls_backend() {
    relayed http://127.0.0.1:5445
    equal "what was spliced" "$spliced" 0
}

upload_to_a_tls_backend() {
    sent http://127.0.0.1:5445
    nearly_all_spliced
}

upload_by_tls() {
    sent https://127.0.0.1:5444
    equal "what was spliced" "$spliced" 0
}

# ---------------------------------------------------------------- processes that die, and a drain

everything_is_there() {
    for name in one two chunked streamed; do
        pulled $WORK/$name
    done
    manifest_is_there
}

new_dataplane() {
    now=$(dataplane_pid) && [ "$now" != "$1" ] && serves
}

kill_dataplane() {
    old=$(dataplane_pid)
    kill -KILL "$old"
    within 40 new_dataplane "$old"
    everything_is_there
    push_in_one
}

kill_control() {
    kill -KILL "$(cat $WORK/pid)"
    within 10 test -s $WORK/exit
    pulled $WORK/one
    start
    everything_is_there
    push_in_one
}

# A pull that runs when SIGTERM comes gets its last byte; new connections get none.
drain() {
    rm -f $WORK/body
    curl -sS --max-time 100 --limit-rate 50M --fail -o $WORK/body "$URL/v2/vm/app/blobs/$(cat $BIG.digest)" &
    pull=$!
    within 20 test -s $WORK/body
    kill -TERM "$(cat $WORK/pid)"
    wait $pull || die "the pull that ran was cut off: $?"
    same $WORK/body $BIG
    exit_is 0
    ! dataplane_pid || die "the data plane is still there"
}

restart() {
    start
    everything_is_there
    wrong_digest
}

nothing_alarming() {
    ! grep -E 'CHECK failed|IMPOSSIBLE|breach|Segmentation|Assertion' $WORK/log
}

# ---------------------------------------------------------------- the two stages

stage_first() {
    mkdir -p $WORK
    daemon_config >$WORK/config.yaml
    check "kernel is Linux 6.1" kernel_is_old
    check_units
    check "blocked io_uring is named" blocked_io_uring
    rm -rf $WORK/log
    check "daemon starts" start
    check "features are those of 6.1" features_of_the_kernel
    check "data plane is locked in" dataplane_is_locked_in
    check "push: POST with digest" push_in_one
    check "push: POST and PUT" push_in_two
    check "push: chunks" push_in_chunks
    check "push: streamed" push_as_a_stream
    check "push: wrong digest" wrong_digest
    check "manifest: byte for byte" push_manifest
    check "range: 206, suffix, 416" ranges
    check "200 MiB: push" push_big
    check "200 MiB: pull from a cold cache" pull_big_cold
    check "200 MiB: pull from a hot cache" pull_big_hot
    check "TLS: push" push_over_tls
    check "TLS 1.3: the kernel makes the records of a file" kernel_makes_records --tlsv1.3
    check "TLS 1.2: the kernel makes the records of a file" kernel_makes_records --tls-max 1.2
    check "TLS 1.3: a relayed body is spliced into the kernel's records" relay_is_spliced --tlsv1.3
    check "TLS 1.2: a relayed body is spliced into the kernel's records" relay_is_spliced --tls-max 1.2
    check "TLS: a relayed body, to a slow reader" relay_to_a_slow_reader
    check "TLS: a relayed body, by HTTP/2" relay_by_http2
    check "TLS: a relayed body, from a backend over TLS" relay_from_a_tls_backend
    check "TLS: an upload is spliced to a backend over TLS" upload_to_a_tls_backend
    check "TLS: an upload by TLS" upload_by_tls
    check "TLS 1.3: new keys end the connection" new_keys_end_the_connection
    check "TLS: without the kernel" user_space_makes_records
    check "kill -9 of the data plane" kill_dataplane
    check "kill -9 of control" kill_control
    check "SIGTERM: drain and exit code 0" drain
    check "restart: everything is there" restart
    check "log has nothing alarming" nothing_alarming
    check_kernel_half
    echo "end $passed $failed"
    push_for_ever
}

# Small images, one after the other.
push_for_ever() {
    number=0
    while :; do
        number=$((number + 1))
        random_file layer $((number * 50000)) &&
            ask 201 -X POST -H 'Content-Type: application/octet-stream' --data-binary @$WORK/layer \
                "$URL/v2/vm/app/blobs/uploads/?digest=$(digest_of $WORK/layer)" &&
            put_image "cut-$number" $WORK/one $WORK/layer &&
            echo "acknowledged $number $(digest_of $WORK/manifest)"
    done
}

# image_is_whole NUMBER DIGEST: the tag gives this manifest, and every blob that it names is whole.
image_is_whole() {
    echo "image $1:"
    ask 200 "$URL/v2/vm/app/manifests/cut-$1"
    equal "the manifest of image $1" "$(digest_of $WORK/body)" "$2"
    for digest in $(grep -o 'sha256:[0-9a-f]*' $WORK/body); do
        ask 200 "$URL/v2/vm/app/blobs/$digest"
        equal "a blob of image $1" "$(digest_of $WORK/body)" "$digest"
    done
}

acknowledged_is_there() {
    count=0
    while read -r word number digest; do
        [ "$word" = acknowledged ]
        image_is_whole "$number" "$digest"
        count=$((count + 1))
    done </vm/acknowledged
    [ $count -gt 0 ] || die "nothing was acknowledged"
}

# What is under blobs/ has the digest that is its name. (The large one was on the disk long before the cut.)
blobs_are_whole() {
    find $WORK/state/store/blobs/sha256 -type f >/tmp/blobs
    [ -s /tmp/blobs ] || die "there are none"
    while read -r path; do
        [ "$(stat -c %s "$path")" -gt 50000000 ] ||
            equal "$path" "$(digest_of "$path")" "sha256:$(basename "$path")"
    done </tmp/blobs
}

stage_after() {
    check "power cut: daemon starts" start
    check "power cut: acknowledged images are whole" acknowledged_is_there
    check "power cut: every blob on the disk is whole" blobs_are_whole
    check "power cut: pushes go on" push_in_chunks
    check "power cut: stop" stop
    check "power cut: log has nothing alarming" nothing_alarming
    echo "end $passed $failed"
}

"stage_$1"
