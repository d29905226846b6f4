#!/bin/bash
# A Docker engine for this machine: eval "$(docker/engine-up.sh)"
#
# Prints `export DOCKER_HOST=...` on standard output, all else on standard error. Takes the engine that answers; else
# starts one, which it first installs on Debian or Ubuntu as root. State: $BQCORE_DOCKER_DIR, an absolute path.
set -euo pipefail
state=${BQCORE_DOCKER_DIR:-/var/lib/bqcore-docker}
socket=unix://$state/docker.sock

say() { echo "engine-up: $*" >&2; }
fail() { say "$*"; exit 1; }
answers() { DOCKER_HOST=$1 timeout 10 docker info >/dev/null 2>&1; }

for host in "${DOCKER_HOST:-unix:///var/run/docker.sock}" "$socket"; do
	if command -v docker >/dev/null && answers "$host"; then
		say "taking the engine at $host"
		echo "export DOCKER_HOST=$host"
		exit
	fi
done
[ "$(id -u)" = 0 ] || fail "no engine answers and user $(id -un) is not root: start Docker, or set DOCKER_HOST"
case $state in /*) ;; *) fail "expected an absolute path in BQCORE_DOCKER_DIR, not $state" ;; esac
if ! command -v dockerd >/dev/null || ! command -v iptables >/dev/null; then
	command -v apt-get >/dev/null || fail "no engine answers and there is no apt-get to install one"
	say 'installing docker.io'
	DEBIAN_FRONTEND=noninteractive apt-get update >&2
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends docker.io iptables >&2
fi
mkdir -p "$state"
say "starting dockerd, log in $state/dockerd.log"
setsid dockerd --host "$socket" --data-root "$state/data" --exec-root "$state/run" --pidfile "$state/dockerd.pid" \
	>"$state/dockerd.log" 2>&1 </dev/null &
for _ in $(seq 60); do
	if answers "$socket"; then
		say "an engine of our own at $socket"
		echo "export DOCKER_HOST=$socket"
		exit
	fi
	sleep 0.5
done
tail -5 "$state/dockerd.log" >&2
fail "dockerd did not answer at $socket within 30 s"
