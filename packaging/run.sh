#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: run.sh BUILD STATE
# `make run`: one node in the foreground, its state under STATE. The configuration is made on the first start, as
# STATE/fairlead.yaml, and is yours from then on.
set -eu

build=$1
mkdir -p "$2"
state=$(cd "$2" && pwd)
config=$state/fairlead.yaml

if [ ! -e "$config" ]; then
    cat >"$config" <<END
# The configuration of \`make run\`; \`man fairlead.yaml\` (docs/man) explains every key.
state: $state/node
listen:
  - address: 127.0.0.1:5000
admin:
  address: 127.0.0.1:5080
control:
  socket: $state/control.sock
END
fi

if [ "$(id -u)" = 0 ]; then
    # The data plane's own user, which owns nothing but the blobs.
    if ! getent passwd fairlead >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fairlead
    fi
else
    echo "fairlead: started by an ordinary user: the data plane runs under the same user as control ($(id -un))," >&2
    echo "fairlead: and the kernel half (health checks and load balancing in BPF) needs root; the registry does not" >&2
fi
exec "$build/fairleadd" --config "$config"
