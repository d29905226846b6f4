"""pg_dump and restore of tables with code columns: no row is lost, and codes are as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from dumps import restored
from support import OPERATORS, WIDTHS, Connection, create_table, execute, value

from bqcore.datasets import clustered
from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

DATA = clustered(200, 24, n_queries=1, random_state=43)


@pytest.mark.parametrize("dump_format", ["plain", "custom"])
def test_generated_code_columns_survive(
    embedded: EmbeddedServer, database: str, conn: Connection, tmp_path: Path, dump_format: str
) -> None:
    """Also with a schema that sorts before that of the extension, and with a model in a table."""
    create_table(conn, DATA.base)
    conn.execute("CREATE SCHEMA aaa")
    conn.execute("CREATE TABLE aaa.models AS SELECT bq_train(embedding, 4, 'l2') AS model FROM items")
    conn.execute("CREATE TABLE aaa.queries AS SELECT bq_query(embedding, model) AS q FROM items, aaa.models")
    tables = []
    for metric in OPERATORS:
        for bits in WIDTHS:
            table = f"aaa.{metric}_{bits}"
            stored = value(conn, f"SELECT bq_train(embedding, {bits}, '{metric}')::text FROM items")
            execute(
                conn,
                f"CREATE TABLE {table} (id int, embedding vector(24), code bqcode(24) "
                f"GENERATED ALWAYS AS (public.bq_encode(embedding, '{stored}')) STORED)",
            )
            execute(conn, f"INSERT INTO {table} SELECT * FROM items")
            execute(conn, f"INSERT INTO {table} VALUES (200, NULL)")
            tables.append(table)

    def contents(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
        found = {
            table: execute(connection, f"SELECT id, code::text FROM {table} ORDER BY id").fetchall()
            for table in tables
        }
        for name, text in (("models", "SELECT model::text"), ("queries", "SELECT q::text")):
            found[name] = execute(connection, f"{text} FROM aaa.{name} ORDER BY 1").fetchall()
        return found

    before = contents(conn)
    assert all(len(before[table]) == 201 for table in tables)
    with restored(embedded, database, dump_format, tmp_path) as copy:
        assert contents(copy) == before
        # the model came along: new rows get codes
        execute(
            copy,
            "INSERT INTO aaa.cosine_1 (id, embedding) SELECT 300, embedding FROM aaa.cosine_1 WHERE id = 7",
        )
        assert value(
            copy, "SELECT a.code = b.code FROM aaa.cosine_1 a, aaa.cosine_1 b WHERE a.id = 7 AND b.id = 300"
        )
