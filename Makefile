# make demo, make test: on a machine with Python 3.11+, a C compiler and make, nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA_DIR ?= ../shared/data/A_minilm_wordnet
DATA_SETS ?= ../shared/data

C_SOURCES := $(wildcard native/src/*.[ch] native/include/*.h native/test/*.[ch])
EXTENSION_SOURCES := $(wildcard adapters/postgres/extension/src/*.[ch])
ASAN := build/native-asan
NEON := build/native-neon
NEON_CC ?= aarch64-linux-gnu-gcc
NEON_RUN ?= qemu-aarch64
NEON_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/$(VENV)
# The extension's builds stay inside the checkout.
export BQCORE_CACHE ?= $(CURDIR)/.cache

# Groups in the order of integration/conftest.py.
WORKERS := --numprocesses 2 --dist loadgroup --no-loadscope-reorder

SHORT := not slow and not long
LONG := long and not slow

FUZZ_SECONDS ?= 60
FUZZ_CASES ?= 100000
# What runs on both embedded servers.
BOTH_SERVERS := $(addprefix integration/test_,types.py type_dump.py type_fuzz.py code_index.py rescore_column.py upgrade.py \
	sql_mode.py sql_codes.py sql_security.py check.py adopt.py client_types.py \
	plans.py scan.py bounds.py conditions.py waiting.py waiting_faults.py permissions.py security.py recall.py query_scale.py \
	isolation.py)

.PHONY: demo test test-long test-pg16 test-pg17 test-pgvector test-faults memory-postgres fuzz-postgres bench bench-advice bench-sql bench-qdrant \
	bench-scan bench-check fuzz eval lint format native-test native-test-neon docker-image integration clean help

help:
	@echo 'make demo    compare pgvector indexes with bqhnsw on real text, with a picture'
	@echo 'make test    linters, C tests under sanitizers, Python and server tests'
	@echo 'make test-long   what make test leaves out because it takes long, and the tests on Postgres 16'
	@echo 'make bench   DATA_DIR=folder: the table of the README'
	@echo 'make bench-advice   DATA_SETS=folder: bqcore advise on every set, its steps run, its predictions checked'
	@echo 'make bench-sql   DATA_DIR=folder: SQL mode beside pgvector alone'
	@echo 'make bench-qdrant   DATA_DIR=folder: the figures of docs/qdrant.md'
	@echo 'make bench-scan   DATA_DIR=folder: exhaustive search beside other libraries'
	@echo 'make bench-check   scan times against the stored ratios'
	@echo 'make fuzz    each kernel against the scalar one for $$FUZZ_SECONDS (60) seconds'
	@echo 'make eval    DATA_SETS=folder: the tables of docs/codecs.md'
	@echo 'make test-pg16   the server tests on Postgres 16'
	@echo 'make test-pg17   the server tests on the image of Postgres 17'
	@echo 'make fuzz-postgres   100,000 malformed codes, queries and models into both servers'
	@echo 'make memory-postgres   the extension under ASan, UBSan and valgrind; 100,000 scans and inserts'
	@echo 'make test-pgvector   the server tests on pgvector 0.7.4 and 0.8.0'
	@echo 'make native-test-neon   the C tests cross-compiled for AArch64, under qemu'
	@echo 'make docker-image   bqcore/postgres:17 and :18, Postgres with pgvector and bqcore'
	@echo 'make integration   the server tests on those images; installs and starts Docker where it is missing'
	@echo 'make test-faults   FAULT=all FAULT_RUNS=13: crashes, full disks, cancels, promotions and upgrades under load'

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"expected Python 3.11 or later, not {v[0]}.{v[1]}")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5,<1'

# Where Python may not keep what it compiles, every start would compile all that it imports: 5 s with scikit-learn.
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)

# The locked versions through uv; where its index cannot be reached, pip's own index and the ranges of pyproject.toml.
$(READY): $(BIN)/uv pyproject.toml uv.lock native/CMakeLists.txt $(C_SOURCES) $(EXTENSION_SOURCES)
	$(BIN)/uv sync --quiet --frozen --inexact $(COMPILE) --all-extras --no-extra peers || \
	  { $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	    $(BIN)/python -m pip install --quiet --editable '.[datasets,demo,qdrant]' --group dev; }
	@touch $@

demo: $(READY)
	$(BIN)/bqcore demo $(DEMO_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES) $(EXTENSION_SOURCES)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_SOURCES) $(EXTENSION_SOURCES)

native-test: $(READY)
	$(BIN)/cmake -S native -B $(ASAN) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBQK_SANITIZE=ON -DBQK_WERROR=ON
	$(BIN)/cmake --build $(ASAN)
	$(BIN)/ctest --test-dir $(ASAN) --output-on-failure

# Static, so that the emulator needs no folder of foreign libraries.
native-test-neon: $(READY)
	@for tool in $(NEON_CC) $(NEON_RUN); do command -v $$tool >/dev/null || \
	  { echo "expected $$tool on the PATH: apt install $(NEON_PACKAGES)" >&2; exit 2; }; done
	$(BIN)/cmake -S native -B $(NEON) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBQK_WERROR=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_C_COMPILER=$(NEON_CC) -DCMAKE_EXE_LINKER_FLAGS=-static -DCMAKE_CROSSCOMPILING_EMULATOR=$(NEON_RUN)
	$(BIN)/cmake --build $(NEON)
	$(BIN)/ctest --test-dir $(NEON) --output-on-failure --parallel 2

test: lint native-test
	@if command -v $(NEON_CC) >/dev/null && command -v $(NEON_RUN) >/dev/null; then $(MAKE) native-test-neon; \
	  else echo 'native-test-neon skipped: it needs $(NEON_CC) and $(NEON_RUN) (Debian: $(NEON_PACKAGES))'; fi
	$(BIN)/pytest tests --numprocesses 2 -m '$(SHORT)'
	$(BIN)/pytest integration $(WORKERS) -m '$(SHORT)'

# What make test leaves out, and the older server; .ci/run runs both.
test-long: $(READY)
	$(BIN)/pytest tests --numprocesses 2 -m '$(LONG)'
	$(BIN)/pytest integration $(WORKERS) -m '$(LONG)'
	BQCORE_TEST_PG=16 $(BIN)/pytest $(BOTH_SERVERS) $(WORKERS) -m 'not slow'

# The server tests on the older embedded server.
test-pg16: $(READY)
	BQCORE_TEST_PG=16 $(BIN)/pytest integration $(WORKERS)

# Debian has its packages: the server runs in a container.
test-pg17: $(READY)
	docker/integration.sh 17

# Environment: BQCORE_FUZZ_SEED.
fuzz-postgres: $(READY)
	for version in 18 16; do \
	  BQCORE_TEST_PG=$$version BQCORE_FUZZ_CASES=$(FUZZ_CASES) $(BIN)/pytest integration/test_type_fuzz.py || exit; \
	done

# The server tests on older releases of the embedded server, for the pgvector that they carry: 0.7.4 and 0.8.0.
test-pgvector: $(READY)
	for release in 0.2.9 0.3.0; do \
	  BQCORE_TEST_RELEASE=$$release $(BIN)/pytest integration --ignore integration/test_embedded.py \
	    --ignore integration/test_pgvector_versions.py || exit; \
	done

FAULT ?= all
FAULT_RUNS ?= 13
FAULT_SEED ?= 0

# The table of docs/reliability.md. Environment: BQCORE_TEST_PG.
test-faults: $(READY)
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/faults.py --fault '$(FAULT)' --runs $(FAULT_RUNS) --seed $(FAULT_SEED) \
	  --json benchmarks/results/faults.json

# The embedded server is not rebuilt: its allocator is opaque to the checkers, stack, globals and kernels are not.
SANITIZED_CC := gcc -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g
MEMORY_TESTS ?= $(addprefix integration/test_,sanitizer.py scan.py build.py functions.py types.py code_index.py \
	rescore_column.py executor.py halfvec.py permissions.py security.py check.py)

memory-postgres: $(READY)
	CC='$(SANITIZED_CC)' BQCORE_CACHE=$(CURDIR)/.cache/sanitized BQCORE_TEST_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 $(BIN)/pytest $(wildcard $(MEMORY_TESTS))
	$(BIN)/pytest integration/test_sanitizer.py integration/test_leaks.py -m slow -rP

MAJORS ?= 17 18
# Debian has no package of Postgres 18: its server comes with the embedded one.
TREE_OF_18 = $$($(BIN)/python -c 'from bqcore_postgres.server_tree import package_tree; print(package_tree(18))')

docker-image: $(READY)
	for major in $(MAJORS); do \
	  if [ "$$major" = 18 ]; then docker/build-image.sh 18 "$(TREE_OF_18)"; else docker/build-image.sh "$$major"; fi || exit; \
	done

integration: $(READY)
	docker/integration.sh

bench: $(READY)
	@test -d '$(DATA_DIR)' || { echo 'no folder $(DATA_DIR): make bench DATA_DIR=/path/to/vectors (see README)' >&2; exit 2; }
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/postgres_indexes.py '$(DATA_DIR)' --builds 3 \
	  --json benchmarks/results/postgres_indexes_$(notdir $(DATA_DIR:%/=%)).json

bench-advice: $(READY)
	@test -d '$(DATA_SETS)' || { echo 'no folder $(DATA_SETS): make bench-advice DATA_SETS=/path/to/sets' >&2; exit 2; }
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/advice.py '$(DATA_SETS)' --json benchmarks/results/advice.json

bench-sql: $(READY)
	@test -d '$(DATA_DIR)' || { echo 'no folder $(DATA_DIR): make bench-sql DATA_DIR=/path/to/vectors' >&2; exit 2; }
	$(BIN)/python benchmarks/postgres_sql.py '$(DATA_DIR)' \
	  --json benchmarks/results/postgres_sql_$(notdir $(DATA_DIR:%/=%)).json

bench-qdrant: $(READY)
	@test -d '$(DATA_DIR)' || { echo 'no folder $(DATA_DIR): make bench-qdrant DATA_DIR=/path/to/vectors' >&2; exit 2; }
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/qdrant_configs.py '$(DATA_DIR)' \
	  --json benchmarks/results/qdrant_configs_$(notdir $(DATA_DIR:%/=%)).json

SCAN_ROWS ?= 1000000

bench-scan: $(READY)
	@test -d '$(DATA_DIR)' || { echo 'no folder $(DATA_DIR): make bench-scan DATA_DIR=/path/to/vectors' >&2; exit 2; }
	-$(BIN)/uv sync --quiet --frozen --inexact --all-extras
	$(BIN)/python benchmarks/scan.py '$(DATA_DIR)' --rows $(SCAN_ROWS) \
	  --json benchmarks/results/scan_$(notdir $(DATA_DIR:%/=%)).json

# Not part of make test: times are those of a quiet machine.
bench-check: $(READY)
	$(BIN)/python benchmarks/scan_check.py

fuzz: $(READY)
	$(BIN)/cmake -S native -B $(ASAN) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBQK_SANITIZE=ON -DBQK_WERROR=ON
	$(BIN)/cmake --build $(ASAN) --target fuzz_kernels
	for kernel in dot fastscan lut4 topk product; do \
	  $(ASAN)/test/fuzz_kernels $$kernel $(FUZZ_SECONDS) $$(date +%s) || exit; \
	done

# A peer that cannot be installed is skipped with its reason. One thread each: OpenMP's waiting threads count as CPU time.
eval: $(READY)
	@test -d '$(DATA_SETS)' || { echo 'no folder $(DATA_SETS): make eval DATA_SETS=/path/to/sets (see README)' >&2; exit 2; }
	-$(BIN)/uv sync --quiet --frozen --inexact --all-extras
	OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 $(BIN)/python benchmarks/codecs.py '$(DATA_SETS)' --docs docs/codecs.md $(EVAL_ARGS)

clean:
	rm -rf build .cache $(VENV)
