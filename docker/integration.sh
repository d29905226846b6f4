#!/bin/bash
# integration.sh [MAJOR...]: everything in integration/ on the images of these versions of Postgres. Without one: on 17
# and 18, then fault runs on the embedded server. Engine and images are had by engine-up.sh and build-image.sh where they
# are missing. Variables: BQCORE_FAULT_ROUNDS (10), PYTEST_ARGS.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
engine=$(docker/engine-up.sh)
eval "$engine"
majors=("$@")
[ $# -gt 0 ] || majors=(17 18)
# test_containers.py asks for both, whatever the rest runs on
for major in 17 18; do
	docker image inspect "bqcore/postgres:$major" >/dev/null 2>&1 || make docker-image MAJORS="$major"
done
for major in "${majors[@]}"; do
	marker='not slow'
	[ "$major" = "${majors[0]}" ] || marker+=' and not qdrant' # once is enough
	# shellcheck disable=SC2086 # arguments, separated by spaces
	REQUIRE_DOCKER=1 BQCORE_TEST_IMAGE=bqcore/postgres:$major \
		"$python" -m pytest integration -m "$marker" --numprocesses 2 --dist loadgroup --no-loadscope-reorder \
		${PYTEST_ARGS:-}
done
[ $# -eq 0 ] || exit 0
BQCORE_FAULT_ROUNDS=${BQCORE_FAULT_ROUNDS:-10} "$python" -m pytest integration/test_faults.py -m slow
