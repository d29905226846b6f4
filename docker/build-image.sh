#!/bin/bash
# build-image.sh MAJOR [TREE]: bqcore/postgres:MAJOR, from Debian's packages or from an embedded server's tree.
set -euo pipefail
cd "$(dirname "$0")/.."
major=${1:?expected a major version of Postgres, for example 17}
tree=${2:-}
base=$(docker/base-image.sh)

clear() { find docker/server -mindepth 1 ! -name .gitignore -delete; }
trap clear EXIT
clear
if [ -n "$tree" ]; then
	# the programs look for the wheel's libraries three folders above themselves
	package=$(basename "$(dirname "$tree")")
	mkdir "docker/server/$package"
	cp -a "$tree" "docker/server/$package/"
	cp -a "$tree/../../$package.libs" docker/server/
fi
# the classic builder is there wherever the engine is; buildx is not
DOCKER_BUILDKIT=0 docker build --file docker/postgres.Dockerfile --build-arg BASE="$base" \
	--build-arg PG_MAJOR="$major" --label bqcore.base="$base" --tag "bqcore/postgres:$major" .
