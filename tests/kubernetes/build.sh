#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: build.sh FOLDER
# Builds kube-apiserver, kubelet, kubectl and pause of Debian's source package kubernetes (there is no binary package of the first
# two) into FOLDER/bin. What is there already is kept. 3 GB and some minutes; afterwards only the programs are left.
set -eu

mkdir -p "$1"
folder=$(cd "$1" && pwd)
programs="kube-apiserver kubelet kubectl"
# Of the Go that is as old as the source.
PATH=/usr/lib/go-1.19/bin:$PATH
# Newer than the source's own, which is of a time before Go 1.18 and lets the API server crash.
reflect=/usr/share/gocode/src/github.com/modern-go/reflect2

all_there() {
    for program in $programs pause; do
        [ -x "$folder/bin/$program" ] || return 1
    done
}

# The sources' twin of what the machine's apt knows of this release, in lists of our own: nothing of the machine's is changed.
fetch_source() {
    [ ! -e "$folder/source/fetched" ] || return 0
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -e "$keys" ] || signed="[signed-by=$keys]"
    mkdir -p "$folder/source" "$folder/apt/lists/partial" "$folder/apt/archives/partial"
    for release in "$codename" "$codename-security"; do
        # shellcheck disable=SC2016
        apt-get indextargets --format "deb-src ${signed:-} "'$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
            "Codename: $release" 'Component: main' 'Origin: Debian'
    done | sort -u >"$folder/apt/sources.list"
    source_apt() {
        apt-get -qq -o Dir::Etc::sourcelist="$folder/apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root \
            -o Dir::State::lists="$folder/apt/lists" -o Dir::Cache="$folder/apt" "$@"
    }
    source_apt update
    (cd "$folder/source" && source_apt source --download-only kubernetes)
    touch "$folder/source/fetched"
}

unpack() {
    tree=$folder/go/src/k8s.io/kubernetes
    [ ! -e "$tree/unpacked" ] || return 0
    rm -rf "$folder/go"
    mkdir -p "$folder/go/src/k8s.io"
    dpkg-source --no-check -x "$folder"/source/kubernetes_*.dsc "$tree" >/dev/null
    rm -rf "$tree/vendor/github.com/modern-go/reflect2"
    cp -r "$reflect" "$tree/vendor/github.com/modern-go/"
    touch "$tree/unpacked"
}

# The one generated file that the source lacks: what /openapi/v2 says. Made of the packages that are marked for it.
generate() {
    target=pkg/generated/openapi
    [ ! -e "$target/generated" ] || return 0
    marked=$(grep -rl --include='*.go' '^// *+k8s:openapi-gen=' pkg cmd plugin vendor/k8s.io/*/ |
        grep -v '^vendor/k8s.io/\(code-generator\|sample-apiserver\)/' | xargs -n1 dirname | LC_ALL=C sort -u |
        sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
    go build -o "$folder/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
    "$folder/openapi-gen" --logtostderr -i "$marked" -p "k8s.io/kubernetes/$target" -O zz_generated.openapi \
        -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$folder/violations"
    touch "$target/generated"
}

! all_there || exit 0
fetch_source
unpack
export HOME="$folder" GOPATH="$folder/go" GOCACHE="$folder/cache" GOFLAGS='' GO111MODULE=off CGO_ENABLED=0
cd "$tree"
version=$(dpkg-parsechangelog -S Version | sed 's/.*really//; s/-.*//')
for package in k8s.io/component-base k8s.io/kubernetes/vendor/k8s.io/component-base; do
    flags="${flags:--s -w} -X $package/version.gitVersion=v$version -X $package/version.gitMajor=${version%%.*}"
    flags="$flags -X $package/version.gitMinor=$(echo "$version" | cut -d. -f2)"
done
generate
mkdir -p "$folder/bin"
for program in $programs; do
    echo "  GO    $program $version"
    go build -ldflags "$flags" -o "$folder/bin/$program.new" "k8s.io/kubernetes/cmd/$program"
    mv "$folder/bin/$program.new" "$folder/bin/$program"
done
gcc -O2 -static -o "$folder/bin/pause" build/pause/linux/pause.c
cd /
rm -rf "$folder/go" "$folder/cache" "$folder/source" "$folder/apt" "$folder/openapi-gen" "$folder/violations"
