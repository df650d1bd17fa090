#!/bin/sh
# Usage: tools/peers.sh: fetch and build the clients of others that tests/clients runs against our relay: pion's TURN
# client (Go, from Debian's sources), aioice's own tests (its source distribution), and the npm packages that
# tests/clients/npm locks. All of it goes into build/peers. What cannot be had is named, and its tests skip; the exit
# code is 0 all the same. Safe to repeat.
set -u
cd "$(dirname "$0")/.."
built=build/peers
python=${PYTHON:-.venv/bin/python}
gopath=/usr/share/gocode
mkdir -p "$built"

loud() { printf '\n*** peers: %s\n\n' "$*" >&2; }

pion() {
    command -v go >/dev/null || { loud "no go (Debian golang-go): pion's client is not built"; return; }
    client=github.com/pion/turn/v2/examples/turn-client
    [ -d "$gopath/src/$client" ] || { loud "no Debian golang-github-pion-turn.v2-dev: pion's client is not built"; return; }
    for transport in udp tcp; do
        [ -x "$built/pion-$transport" ] && continue
        GO111MODULE=off GOFLAGS= GOPATH=$gopath go build -o "$built/pion-$transport" "$client/$transport" ||
            loud "go could not build pion's $transport client"
    done
}

aioice() {
    version=$("$python" -c 'import importlib.metadata as m; print(m.version("aioice"))') ||
        { loud "no aioice in $python: its tests are not fetched"; return; }
    [ -d "$built/aioice-$version" ] && return
    "$python" -m pip download --disable-pip-version-check --quiet --no-deps --no-binary aioice --dest "$built" \
        "aioice==$version" && tar -xzf "$built/aioice-$version.tar.gz" -C "$built" ||
        loud "pip could not fetch the sources of aioice $version"
}

npm_packages() {
    command -v npm >/dev/null || { loud "no npm (Debian npm): Chromium, wrtc and werift are not driven"; return; }
    cmp -s tests/clients/npm/package-lock.json "$built/npm/node_modules/.locked" && return
    mkdir -p "$built/npm" && cp tests/clients/npm/package.json tests/clients/npm/package-lock.json "$built/npm/" &&
        npm ci --prefix "$built/npm" --ignore-scripts --no-audit --no-fund --loglevel=error &&
        cp tests/clients/npm/package-lock.json "$built/npm/node_modules/.locked" ||
        loud "npm could not install what tests/clients/npm/package-lock.json names"
}

pion
aioice
npm_packages
