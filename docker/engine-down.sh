#!/bin/bash
# Stop the engine that engine-up.sh started; any other is left alone. With --purge its images go too.
set -euo pipefail
state=${BQCORE_DOCKER_DIR:-/var/lib/bqcore-docker}

if [ -s "$state/dockerd.pid" ] && kill -0 "$(cat "$state/dockerd.pid")" 2>/dev/null; then
	pid=$(cat "$state/dockerd.pid")
	kill "$pid"
	for _ in $(seq 60); do kill -0 "$pid" 2>/dev/null || break; sleep 0.5; done
	if kill -0 "$pid" 2>/dev/null; then
		echo "engine-down: dockerd, process $pid, still runs after 30 s" >&2
		exit 1
	fi
	echo "engine-down: stopped" >&2
else
	echo "engine-down: no engine of ours runs" >&2
fi
if [ "${1:-}" = --purge ]; then
	rm -rf "${state:?}"
fi
