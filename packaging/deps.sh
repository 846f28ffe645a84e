#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: deps.sh GROUP...
# Installs the packages of deps.list that are missing in these groups; silent when nothing is. Without root it
# says what an administrator has to install. Services that come with a package are neither started nor enabled.
set -eu

here=$(dirname "$0")
raft_min=0.22 # the first with raft_step(); Debian 12 has it in its backports

installed_version() {
    dpkg-query -W -f='${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed //p' | head -n 1
}

# Prints the missing packages of the groups given.
missing_packages() {
    wanted=$(for group in "$@"; do
        sed -n "s/^$group  *//p" "$here/deps.list" | while read -r package command; do
            [ -n "$command" ] && command -v "$command" >/dev/null 2>&1 || echo "$package"
        done
    done | sort -u)
    # shellcheck disable=SC2086
    have=" $(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $wanted 2>/dev/null |
        sed -n 's/^installed //p' | tr '\n' ' ') "
    for package in $wanted; do
        case $have in
        *" $package "*) [ "$package" != libraft-dev ] || raft_is_new "$(installed_version libraft-dev)" || echo "$package" ;;
        *) echo "$package" ;;
        esac
    done
}

raft_is_new() {
    dpkg --compare-versions "${1:-0}" ge "$raft_min"
}

raft_candidate() {
    LC_ALL=C apt-cache policy libraft-dev | sed -n 's/^ *Candidate: *//p'
}

# Adds the backports of this release, from the mirror that the machine uses already, for libraft alone.
add_backports() {
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" \
        'Component: main' 'Origin: Debian' | head -n 1)
    if [ -z "$codename" ] || [ -z "$mirror" ]; then
        echo "make deps: libraft-dev $raft_min or newer is needed, and no Debian mirror was found in apt's sources" >&2
        exit 1
    fi
    {
        echo "# Made by Fairlead's \`make deps\`, for libraft; see preferences.d/fairlead-backports."
        echo "Types: deb"
        echo "URIs: $mirror"
        echo "Suites: $codename-backports"
        echo "Components: main"
        if [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
            echo "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"
        fi
    } >/etc/apt/sources.list.d/fairlead-backports.sources
    cat >/etc/apt/preferences.d/fairlead-backports <<END
Explanation: Made by Fairlead's \`make deps\`: only libraft comes from the backports by itself.
Package: *
Pin: release n=$codename-backports
Pin-Priority: 1

Package: libraft-dev libraft0
Pin: release n=$codename-backports
Pin-Priority: 500
END
    apt-get update -qq
}

# Debian's way to say that no service may be started by an installation.
forbid_service_starts() {
    [ ! -e /usr/sbin/policy-rc.d ] || return 0
    trap 'rm -f /usr/sbin/policy-rc.d "$log"' EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
}

# Of the packages that were just installed: neither now nor at the next boot.
disable_services() {
    for package in "$@"; do
        case $package in
        nginx-light) service=nginx ;;
        etcd-server) service=etcd ;;
        prometheus | docker-registry | frr) service=$package ;;
        *) continue ;;
        esac
        deb-systemd-helper disable "$service.service" >/dev/null 2>&1 || true
        update-rc.d "$service" disable >/dev/null 2>&1 || true
    done
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    forbid_service_starts
    apt-get update -qq
    case " $* " in
    *" libraft-dev "*) raft_is_new "$(raft_candidate)" || add_backports ;;
    esac
    apt-get install -y -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends "$@" \
        >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
    disable_services "$@"
}

missing=$(missing_packages "$@" | tr '\n' ' ')
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "make deps: this is not Debian; please install what these packages hold: $missing" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "make deps: missing: $missing" >&2
    echo "make deps: an administrator installs them with: make deps DEPS=\"$*\"" >&2
    exit 1
fi
echo "  DEPS  $missing"
# shellcheck disable=SC2086
install_packages $missing
left=$(missing_packages "$@" | tr '\n' ' ')
[ -z "$left" ] || { echo "make deps: still missing after the installation: $left" >&2; exit 1; }
