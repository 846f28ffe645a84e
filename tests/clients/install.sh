#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs the container clients that tests/clients drives. Nothing is done, and nothing is printed, when all of
# them are there already.
set -eu

packages="skopeo podman buildah docker.io containerd runc umoci busybox-static fuse-overlayfs docker-compose docker-registry iproute2 testssl.sh"
# Another kubectl may be there, which the package would not be installed beside.
command -v kubectl >/dev/null || packages="$packages kubernetes-client"
missing=""
for package in $packages; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "tests/clients/install.sh: must be root to install:$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing
