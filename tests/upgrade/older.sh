#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Builds another version of the programs: older.sh COMMIT FOLDER. What stands there of the same commit is kept.
set -eu

[ -n "$1" ] || {
    echo "FROM=COMMIT says which version the nodes have at first, as in: make test-upgrade FROM=HEAD~100" >&2
    exit 2
}
commit=$(git rev-parse --verify "$1^{commit}")
folder=$2
if [ "$(cat "$folder/commit" 2>/dev/null)" != "$commit" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    git archive "$commit" | tar -x -C "$folder"
    # A repository of its own: the build asks git for files.
    git -C "$folder" init -q
    make --no-print-directory -C "$folder" -j2 BUILD=build all
    echo "$commit" >"$folder/commit"
fi
