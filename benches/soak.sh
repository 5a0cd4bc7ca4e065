#!/usr/bin/env bash
# Random deployments, canaries, hotfixes, releases, rushes and kills under load: `benches/soak.sh [--docker] [MINUTES] [SEED]`, an hour by default.
#
# It builds in release, prints what each kind of deed cost, and ends with 0 only if planned changes cost no request, kills no more than what was
# under way, memory stayed flat, and nothing is left. CI runs the same for a minute, which is too short to compare memory: that takes five.
#
# With `--docker` it runs on containers and kills the engine too: root, and Debian's docker.io, iproute2, iptables, nginx-light and docker-registry. The engine is one of
# its own, with `live-restore`, in namespaces of its own, so that whatever it leaves ends with this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

inside() { # $1: the directory of all of it; the rest is what runs beside the engine
    local room=$1 engine status=0
    shift
    ip link set lo up
    touch "$room/wanted"
    while [ -e "$room/wanted" ]; do
        dockerd --live-restore --data-root "$room/data" --exec-root "$room/exec" --pidfile "$room/pid" -H "unix://$room/docker.sock" || true
        sleep 0.2
    done >>"$room/log" 2>&1 &
    engine=$!
    export DOCKER_HOST=unix://$room/docker.sock
    for _ in {1..60}; do docker version >/dev/null 2>&1 && break; sleep 0.5; done
    "$@" --engine "$room/pid" || status=$?
    # What runs a container outlives its engine; it must not outlive its container. An engine that is killed between the two steps of a start leaves a
    # shim that runs nothing, which it doesn't know of any more.
    sleep 1
    local shim empty=0
    for shim in $(pgrep containerd-shim); do
        if pgrep -a -P "$shim"; then
            echo "this was left, though no container is" >&2
            status=1
        else
            empty=$((empty + 1))
        fi
    done
    echo "shims without a program that the killed engines left: $empty"
    if [ "$status" != 0 ]; then grep -v level=info "$room/log" | tail -n 30 >&2; fi
    rm "$room/wanted"
    kill -TERM "$(cat "$room/pid")"
    wait "$engine" || true
    return "$status"
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
    exit
fi
if [ "${1:-}" != --docker ]; then
    exec cargo run --release --locked --quiet --bin quickstart -- soak "${1:-60}" ${2:+"$2"}
fi
shift
# CI has one already.
program=${EWS_SOAK_PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --release --locked --quiet --bin quickstart --features docker
    program=${CARGO_TARGET_DIR:-target}/release/quickstart
fi
room=$(mktemp -d "${TMPDIR:-/tmp}/ews-soak.XXXXXX")
trap 'rm -rf "$room"' EXIT
unshare --net --mount --pid --fork --kill-child --mount-proc bash "benches/soak.sh" --inside "$room" \
    "$program" soak "${1:-60}" ${2:+"$2"} --runtime docker
