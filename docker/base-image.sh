#!/bin/bash
# Print the name of a Debian image for the Dockerfiles: $BQCORE_BASE_IMAGE, else debian:trixie-slim where it is there or
# can be pulled, else one bootstrapped from Debian's packages under a name of our own.
set -euo pipefail
upstream=debian:trixie-slim
own=bqcore/debian:trixie

if [ -n "${BQCORE_BASE_IMAGE:-}" ]; then
	echo "$BQCORE_BASE_IMAGE"
elif docker image inspect "$upstream" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$upstream" >&2; then
	echo "$upstream"
elif docker image inspect "$own" >/dev/null 2>&1; then
	echo "$own"
else
	echo "base-image: $upstream cannot be pulled, bootstrapping $own" >&2
	if ! command -v mmdebstrap >/dev/null; then
		if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
			echo 'base-image: mmdebstrap is missing (Debian: apt install mmdebstrap); or set BQCORE_BASE_IMAGE' >&2
			exit 1
		fi
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mmdebstrap >&2
	fi
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	mmdebstrap --variant=minbase trixie "$work/root.tar" >&2
	docker import "$work/root.tar" "$own" >&2
	echo "$own"
fi
