"""bqcore_check: counts of a sound index, and the place of any damage to one, never a crash."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import Server
from pages import (
    CODE,
    CODE_DIM,
    CODE_FACTORS,
    CODE_KIND,
    CODE_LEVELS,
    CODE_TAG,
    DELETED,
    ELEMENT,
    HEAP_TIDS,
    LEVEL,
    LINKS,
    META_DIM,
    META_ENTRY_LEVEL,
    META_ENTRY_OFFSET,
    META_INSERT,
    META_M,
    META_MAGIC,
    META_VERSION,
    MODEL_PAGE,
    NEIGHBOUR_TID,
    NEIGHBOURS,
    NEXT,
    PAGE,
    PAGE_HEADER,
    PAGE_ID,
    TID,
    TRAILER,
    VERSION,
    IndexFile,
    Item,
)
from pgvector.psycopg import register_vector
from support import (
    OPERATORS,
    WIDTHS,
    Connection,
    create_index,
    create_table,
    execute,
    insert,
    server_options,
    value,
)

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(600, 24, n_queries=5, random_state=61)
M = 16


def check(conn: Connection, index: str = "items_bq", heapallindexed: bool = True) -> dict[str, int]:
    cursor = conn.execute("SELECT * FROM bqcore_check(%s, %s)", [index, heapallindexed])
    row = cursor.fetchone()
    assert row is not None
    assert cursor.description is not None
    return dict(zip([column.name for column in cursor.description], row, strict=True))


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_counts_of_a_sound_index(conn: Connection, kind: str) -> None:
    create_table(conn, DATA.base[:300], "floats")
    execute(conn, f"CREATE TABLE items AS SELECT id, embedding::{kind}(24) FROM floats")
    conn.execute("INSERT INTO items VALUES (1000, NULL)")
    for bits in WIDTHS:
        for metric in OPERATORS:
            name = f"by_{bits}_{metric}"
            create_index(conn, bits, metric, name=name, type_name=kind)
            found = check(conn, name)
            assert found["pages"] == value(conn, "SELECT pg_relation_size(%s::regclass) / 8192", [name])
            assert found["rows"] == found["heap_rows"] == 300 >= found["elements"] > 0
            assert found["free"] == 0
            assert found["unreachable"] <= 3  # a graph promises a path to every row to nobody
            assert 2 * found["elements"] < found["links"] <= 3 * M * found["elements"]
            assert check(conn, name, heapallindexed=False)["heap_rows"] is None


def test_counts_follow_inserts_updates_deletes_and_vacuum(conn: Connection) -> None:
    create_table(conn, DATA.base[:0], columns=", note text")
    create_index(conn, 4, "cosine")
    assert check(conn)["rows"] == 0
    insert(conn, "items", range(400), DATA.base[:400])
    assert check(conn)["heap_rows"] == 400
    conn.execute("DELETE FROM items WHERE id < 100")
    found = check(conn)
    assert (found["heap_rows"], found["rows"]) == (300, 400)
    conn.execute("VACUUM items")
    found = check(conn)
    assert (found["heap_rows"], found["rows"], found["free"]) == (300, 300, 100)
    # versions of rows that no index names, then ones in the place of vacuumed rows
    conn.execute("UPDATE items SET note = 'changed' WHERE id % 2 = 0")
    assert check(conn)["heap_rows"] == 300
    insert(conn, "items", range(600, 650), DATA.base[400:450])
    found = check(conn)
    assert found["heap_rows"] == 350
    assert 50 <= found["free"] < 60  # an element of a higher layer needs a larger place
    # equal vectors share an element; a zero vector has no cosine
    conn.execute("INSERT INTO items SELECT id + 1000, embedding FROM items WHERE id BETWEEN 300 AND 309")
    conn.execute("INSERT INTO items VALUES (5000, array_fill(0, ARRAY[24])::vector)")
    found = check(conn)
    assert found["heap_rows"] == 360
    assert found["elements"] < 360 + 20
    conn.execute("DELETE FROM items")
    conn.execute("VACUUM items")
    found = check(conn)
    assert (found["rows"], found["elements"]) == (0, 0)
    assert found["free"] > 0


def test_partial_expression_unlogged_and_temporary_indexes(conn: Connection) -> None:
    create_table(conn, DATA.base, kind="UNLOGGED")
    create_index(conn, name="part", where="WHERE id < 200")
    assert check(conn, "part")["heap_rows"] == 200
    create_index(conn, name="half", target="(embedding::halfvec(24))", type_name="halfvec", metric="ip")
    assert check(conn, "half")["heap_rows"] == 600
    with conn.transaction():
        create_table(conn, DATA.base[:50], "mine", kind="TEMPORARY")
        create_index(conn, 8, table="mine")
        assert check(conn, "mine_bq")["heap_rows"] == 50


def test_an_old_snapshot_asks_for_its_own_rows(server: Server, conn: Connection, database: str) -> None:
    create_table(conn, DATA.base[:300])
    create_index(conn)
    with server.connect(database, autocommit=False) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert value(old, "SELECT count(*) FROM items") == 300
        conn.execute("DELETE FROM items WHERE id < 100")
        insert(conn, "items", range(300, 350), DATA.base[300:350])
        conn.execute("VACUUM items")
        assert check(old)["heap_rows"] == 300
    assert check(conn)["heap_rows"] == 250


def test_only_bqhnsw_indexes_and_only_those_with_the_right(conn: Connection) -> None:
    create_table(conn, DATA.base[:50])
    create_index(conn)
    conn.execute("CREATE INDEX plain ON items USING hnsw (embedding vector_l2_ops)")
    for name, error in {"plain": "not a bqhnsw index", "items": "is not an index"}.items():
        with pytest.raises(psycopg.errors.WrongObjectType, match=error):
            check(conn, name)
    role = f"bqcore_role_{uuid.uuid4().hex[:12]}"
    execute(conn, f"CREATE ROLE {role}")
    try:
        execute(conn, f"SET ROLE {role}")
        # as amcheck: superusers, and whoever is granted it, also without rights on the table
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function bqcore_check"):
            check(conn)
        conn.execute("RESET ROLE")
        execute(conn, f"GRANT EXECUTE ON FUNCTION bqcore_check(regclass, boolean) TO {role}")
        execute(conn, f"SET ROLE {role}")
        assert check(conn)["heap_rows"] == 50
    finally:
        conn.execute("RESET ROLE")
        execute(conn, f"DROP OWNED BY {role}")
        execute(conn, f"DROP ROLE {role}")


def test_expressions_run_as_the_owner(conn: Connection) -> None:
    role = f"bqcore_role_{uuid.uuid4().hex[:12]}"
    execute(conn, f"CREATE ROLE {role}")
    try:
        conn.execute("CREATE TABLE seen (who text)")
        conn.execute("GRANT INSERT ON seen TO PUBLIC")
        conn.execute("""
            CREATE FUNCTION note() RETURNS void LANGUAGE plpgsql VOLATILE AS
            $$ BEGIN INSERT INTO public.seen VALUES (current_user); END $$;
            CREATE FUNCTION trojan(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS
            $$ BEGIN PERFORM public.note(); RETURN v; END $$""")
        create_table(conn, DATA.base[:20])
        create_index(conn, target="(trojan(embedding)::vector(24))")
        execute(conn, f"ALTER TABLE items OWNER TO {role}")
        conn.execute("TRUNCATE seen")
        assert check(conn)["heap_rows"] == 20
        assert conn.execute("SELECT DISTINCT who FROM seen").fetchall() == [(role,)]
    finally:
        execute(conn, f"DROP OWNED BY {role} CASCADE")
        execute(conn, f"DROP ROLE {role}")


# ---- damage ----


def first(file: IndexFile) -> Item:
    return next(file.items(ELEMENT))


def tall(file: IndexFile) -> Item:
    """An element of layer 1 or above."""
    return next(item for item in file.items(ELEMENT) if file.data[item.at + LEVEL] > 0)


def link(file: IndexFile, element: Item, layer: int, i: int = 0) -> int:
    """Place of a link in the list of an element: layers lie from the top down."""
    above = file.data[element.at + LEVEL] - layer
    return file.neighbours(element).at + LINKS + TID * (above * M + i)


def put_link(file: IndexFile, element: Item, layer: int, target: tuple[int, int], i: int = 0) -> None:
    file.put_tid(link(file, element, layer, i), *target)


def copy(file: IndexFile, source: int, target: int, n: int) -> None:
    file.data[target : target + n] = file.data[source : source + n]


def overlap(f: IndexFile) -> None:
    one, two = list(f.items(ELEMENT))[:2]
    copy(f, one.pointer, two.pointer, 4)


def level_below(f: IndexFile) -> None:
    low = next(item for item in f.items(ELEMENT) if f.data[item.at + LEVEL] == 0)
    put_link(f, tall(f), 1, (low.block, low.offset))


def same_list(f: IndexFile) -> None:
    one, two = [i for i in f.items(ELEMENT) if f.data[i.at + LEVEL] == 0][:2]
    copy(f, one.at + NEIGHBOUR_TID, two.at + NEIGHBOUR_TID, TID)


def same_row(f: IndexFile) -> None:
    one, two = list(f.items(ELEMENT))[:2]
    copy(f, one.at + HEAP_TIDS, two.at + HEAP_TIDS, TID)


def no_list(f: IndexFile) -> None:
    f.put_tid(first(f).at + NEIGHBOUR_TID, *f.tid(link(f, first(f), 0)))


#: Name: what is done to the file, and what bqcore_check says.
DAMAGE: dict[str, tuple[Callable[[IndexFile], object], str]] = {
    "magic": (lambda f: f.put("I", META_MAGIC, 1), "block 0: page id ff90, magic 00000001, version 1"),
    "version": (lambda f: f.put("I", META_VERSION, 2), "block 0: .* version 2"),
    "m": (lambda f: f.put("H", META_M, 3), "block 0: m is 3 and dimensions 24, expected 16 and 24"),
    "dimensions": (lambda f: f.put("I", META_DIM, 25), "dimensions 25, expected 16 and 24"),
    "entry": (lambda f: f.put("H", META_ENTRY_OFFSET, 999), r"block 0: entry point \(\d+,999\) is no elem"),
    "entry level": (lambda f: f.put("h", META_ENTRY_LEVEL, 9), "block 0: entry point .* level 9"),
    "insert page": (lambda f: f.put("I", META_INSERT, 777), "block 0: insert page is 777"),
    "trailer": (lambda f: f.put("I", TRAILER, 0), "damaged: no pointer on the metapage"),
    "model length": (lambda f: f.put("I", TRAILER + 12, 1 << 30), "damaged: impossible length"),
    "model block": (lambda f: f.put("I", TRAILER + 8, 1), "damaged: not a model page"),
    "model block beyond": (lambda f: f.put("I", TRAILER + 8, 1000), "damaged: page missing"),
    "model": (
        lambda f: f.put("B", f.pages(MODEL_PAGE)[0] * PAGE + PAGE_HEADER + 80, 0),
        "its model: ",
    ),
    "page id": (lambda f: f.put("H", 2 * PAGE + PAGE_ID, 7), "block 2: page id 0007"),
    "model page id": (lambda f: f.put("H", 2 * PAGE + PAGE_ID, MODEL_PAGE), "the chain of pages leads here"),
    "chain beyond": (lambda f: f.put("I", PAGE + NEXT, 5000), "block 5000: the chain"),
    "chain in a ring": (
        lambda f: f.put("I", PAGE + NEXT, 1),
        "block 1: the chain .* after 1",
    ),
    "chain cut": (lambda f: f.put("I", PAGE + NEXT, 0xFFFFFFFF), r"block 1: the chain has 1 pages, .* \d+"),
    "zeroed page": (
        lambda f: f.data.__setitem__(slice(2 * PAGE, 3 * PAGE), bytes(PAGE)),
        "block 2: the chain",
    ),
    "line pointer": (lambda f: f.put("H", first(f).pointer, 0x8009), "block 1, item 1: line pointer to"),
    "line pointer, unused": (
        lambda f: f.put("I", first(f).pointer, 0),
        "line pointer to 0 bytes at 0",
    ),
    "overlap": (overlap, "belong to another item too"),
    "type": (lambda f: f.put("B", first(f).at, 3), "block 1, item 1: item of type 3"),
    "type of the other": (lambda f: f.put("B", first(f).at, NEIGHBOURS), "item 1: list of"),
    "length": (
        lambda f: f.put("H", first(f).pointer + 2, f.get("H", first(f).pointer + 2) - 16),
        r"item 1: element of \d+ bytes, expected \d+",
    ),
    "deletion flag": (lambda f: f.put("B", first(f).at + DELETED, 2), "item 1: element has deletion flag 2"),
    "deleted with rows": (lambda f: f.put("B", first(f).at + DELETED, 1), "row 0 of a deleted element"),
    "level": (lambda f: f.put("B", first(f).at + LEVEL, 5), "item 1: list of neighbours .* of another level"),
    "place's version": (lambda f: f.put("B", first(f).at + VERSION, 9), "of another version"),
    "row beyond the table": (
        lambda f: f.put_tid(first(f).at + HEAP_TIDS, 99999, 1),
        r"\(99999,1\), ",
    ),
    "rows with a gap": (lambda f: f.put_tid(first(f).at + HEAP_TIDS + 2 * TID, 0, 1), "row 2 of an element"),
    "same row": (same_row, r"row \(\d+,\d+\) is in element \(\d+,\d+\) too"),
    "row not there": (lambda f: f.put_tid(first(f).at + HEAP_TIDS, 0, 2000), r"row \(0,2000\) is not there"),
    "row missing": (lambda f: f.put_tid(first(f).at + HEAP_TIDS, 0, 0), "of table .* is not in it"),
    "code length": (lambda f: f.put("I", first(f).at + CODE, 400), "not a value of 100 bytes"),
    "code's dimensions": (lambda f: f.put("H", first(f).at + CODE + CODE_DIM, 25), "dimensions 25"),
    "code's tag": (lambda f: f.put("B", first(f).at + CODE + CODE_TAG, 0xB2), "tag b2"),
    "code's kind": (lambda f: f.put("B", first(f).at + CODE + CODE_KIND, 2), "and kind 02"),
    "factor": (
        lambda f: f.put("f", first(f).at + CODE + CODE_FACTORS, np.nan),
        "code are NaN",
    ),
    "factor, finite": (
        lambda f: f.put("f", first(f).at + CODE + CODE_FACTORS, 1.5),
        r"item 1: its code is not that of row \(\d+,\d+\)",
    ),
    "code": (
        lambda f: f.put("B", first(f).at + CODE + CODE_LEVELS, f.data[first(f).at + CODE + CODE_LEVELS] ^ 1),
        r"item 1: its code is not that of row \(\d+,\d+\)",
    ),
    "list elsewhere": (lambda f: f.put_tid(first(f).at + NEIGHBOUR_TID, 4000, 1), r"\(4000,1\) is not there"),
    "list is an element": (no_list, "list of neighbours .* is none"),
    "same list": (same_list, "is another element's too"),
    "count": (lambda f: f.put("H", f.neighbours(first(f)).at + 2, 31), "list of 31 neighbours"),
    "link beyond": (lambda f: put_link(f, first(f), 0, (4000, 1)), r"neighbour \(4000,1\) .* is not there"),
    "link to a list": (
        lambda f: put_link(f, first(f), 0, f.tid(first(f).at + NEIGHBOUR_TID)),
        "on layer 0 is no element",
    ),
    "link to itself": (
        lambda f: put_link(f, first(f), 0, (first(f).block, first(f).offset)),
        "element is its own neighbour on layer 0",
    ),
    "link below its layer": (level_below, "on layer 1 is on lower layers only"),
    "truncated": (lambda f: f.data.__delitem__(slice(2 * PAGE, None)), "damaged"),
    "empty": (lambda f: f.data.__delitem__(slice(PAGE, None)), "damaged"),
}
#: What the index alone does not show.
NEEDS_THE_TABLE = {"row missing", "row not there", "factor, finite", "code"}
FUZZED = 40


@pytest.fixture(scope="module")
def damaged(extension_dir: Path) -> Iterator[tuple[EmbeddedServer, dict[str, IndexFile]]]:
    """Server with one index per damage and FUZZED of random bytes, stopped, damaged and started again."""
    # a page that is whole but for its checksum is what a bug leaves; checksums find the other kind
    settings = {"ignore_checksum_failure": "on", "autovacuum": "off", "fsync": "off"}
    with EmbeddedServer(settings=settings, extension_dirs=[extension_dir], **server_options()) as server:
        with server.connect() as conn:
            conn.execute("CREATE EXTENSION bqcore CASCADE")
            create_table(conn, DATA.base[:250])
            names = [f"damaged {name}" for name in DAMAGE] + [f"fuzzed {i}" for i in range(FUZZED)]
            paths = {}
            for i, name in enumerate(names):
                create_index(conn, WIDTHS[i % 4], name=f'"{name}"')
                paths[name] = server.data_dir / value(conn, "SELECT pg_relation_filepath(%s)", [f'"{name}"'])
        server.stop()
        files = {name: IndexFile(path) for name, path in paths.items()}
        for name, (change, _) in DAMAGE.items():
            change(files[f"damaged {name}"])
        rng = np.random.default_rng(67)
        for i in range(FUZZED):
            file = files[f"fuzzed {i}"]
            for at in rng.integers(0, len(file.data), 2 ** rng.integers(0, 8)):
                file.data[at] ^= 1 << rng.integers(0, 8)
        for file in files.values():
            file.write()
        server.start()
        yield server, files


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(damaged: tuple[EmbeddedServer, dict[str, IndexFile]], name: str) -> None:
    with damaged[0].connect() as conn:
        conn.execute("SET client_min_messages = error")
        if name in NEEDS_THE_TABLE:
            assert check(conn, f'"damaged {name}"', heapallindexed=False)["pages"] > 3
        with pytest.raises(psycopg.errors.IndexCorrupted, match=DAMAGE[name][1]) as failure:
            check(conn, f'"damaged {name}"')
        assert "REINDEX" in (failure.value.diag.message_hint or "")


def test_random_bytes_are_an_error_or_nothing_never_a_crash(
    damaged: tuple[EmbeddedServer, dict[str, IndexFile]],
) -> None:
    found = 0
    with damaged[0].connect() as conn:
        conn.execute("SET client_min_messages = error")
        for i in range(FUZZED):
            try:
                check(conn, f'"fuzzed {i}"')
            except (psycopg.errors.IndexCorrupted, psycopg.errors.DataCorrupted):
                found += 1
        assert found >= FUZZED / 2
        register_vector(conn)
        for i in range(0, FUZZED, 6):
            execute(conn, f'REINDEX INDEX "fuzzed {i}"')
            assert check(conn, f'"fuzzed {i}"')["heap_rows"] == 250
