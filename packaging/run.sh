#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: run.sh BUILD STATE [CONFIG]
# `make run`: one node in the foreground, its state under STATE. It says where things are once it serves.
set -eu

build=$1 state=$2 config=${3:-}

if [ "$(id -u)" = 0 ]; then
    # The data plane's own user: it owns the blobs and nothing else.
    if ! getent passwd fairlead >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fairlead
    fi
else
    echo "Started by an ordinary user. The registry is complete; what is missing without root:" >&2
    echo "  - the data plane has no user of its own, it runs as $(id -un) (the sandbox around it is the same)" >&2
    echo "  - the kernel half (health checks and load balancing in BPF) cannot be loaded" >&2
fi
mkdir -p "$state"
exec "$build/fairleadd" --greet --state "$state" ${config:+--config "$config"}
