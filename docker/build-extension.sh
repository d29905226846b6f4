#!/bin/sh
# build-extension.sh MAJOR: compile the extension in /src for /opt/postgres, installed below /install.
set -eu
major=$1
export DEBIAN_FRONTEND=noninteractive

apt-get update
apt-get install -y --no-install-recommends gcc libc6-dev make
if [ -d "/usr/lib/postgresql/$major" ]; then
	apt-get install -y --no-install-recommends "postgresql-server-dev-$major"
fi
config=$(readlink -f /opt/postgres)/bin/pg_config
# No bitcode: it would need clang, and the kernels choose their instruction set themselves.
make -C /src/adapters/postgres/extension PG_CONFIG="$config" with_llvm=no -j"$(nproc)"
make -C /src/adapters/postgres/extension PG_CONFIG="$config" with_llvm=no DESTDIR=/install install
