#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: retire.sh FAIRLEADD BPFFS
# Before the programs are removed: nothing of them is to run any more. What they have in the kernel outlives them on
# purpose, and nobody could take it out afterwards.
set -eu

fairleadd=$1 bpffs=$2

[ -x "$fairleadd" ] || exit 0
if command -v systemctl >/dev/null 2>&1; then
    systemctl disable --now fairlead.service >/dev/null 2>&1 || true
fi
for pins in "$bpffs"/fairlead-*; do
    [ -d "$pins" ] || continue
    instance=${pins##*/fairlead-}
    "$fairleadd" --detach "$instance" || {
        echo "make uninstall: nothing was removed: the programs of instance $instance are still in the kernel" >&2
        exit 1
    }
    echo "taken out of the kernel: instance $instance"
done
