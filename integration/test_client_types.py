"""psycopg adapters and SQLAlchemy types for the extension's types, and their bulk helpers."""

from __future__ import annotations

import asyncio

import numpy as np
import psycopg
import pytest
from conftest import Server
from pgvector.psycopg import register_vector_async
from sqlalchemy import Column, Computed, Integer, MetaData, Table, create_engine, func, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session
from support import Connection, create_table, execute, value

from bqcore import RaBitQ
from bqcore.datasets import clustered
from bqcore_postgres.copying import copy_rows, copy_rows_async
from bqcore_postgres.psycopg_types import register_codes, register_codes_async
from bqcore_postgres.sqlalchemy import BQCODE, BQMODEL, bq_encode, bq_query
from bqcore_postgres.values import Code, encode_rows

pytestmark = pytest.mark.postgres

DATA = clustered(300, 48, n_queries=5, random_state=8)
MODEL = RaBitQ(4, "cosine", random_state=2).fit(DATA.base)


@pytest.fixture
def typed(conn: Connection) -> Connection:
    if value(conn, "SELECT to_regtype('bqcode') IS NULL"):
        pytest.skip("this release of the extension has no type bqcode (0.2.0 has)")
    register_codes(conn)
    return conn


@pytest.mark.parametrize("binary", [False, True])
def test_values_pass_both_ways(typed: Connection, binary: bool) -> None:
    cursor = typed.cursor(binary=binary)
    mark = "%b" if binary else "%t"
    codes = list(encode_rows(MODEL, DATA.base[:20]))
    for code, x in zip(codes, DATA.base, strict=False):
        row = cursor.execute(
            f"SELECT {mark}::bqcode, bq_encode(%s, {mark}::bqmodel)".encode(), [code, x, MODEL]
        ).fetchone()
        assert row == (code, code)
    row = cursor.execute(f"SELECT {mark}::bqmodel".encode(), [MODEL]).fetchone()
    assert row is not None
    assert row[0].model_id == MODEL.model_id


def test_copied_codes_are_those_of_the_server(typed: Connection) -> None:
    execute(typed, "CREATE TABLE items (id integer, embedding vector(48), code bqcode(48))")
    rows = zip(range(300), DATA.base, encode_rows(MODEL, DATA.base), strict=True)
    assert copy_rows(typed, "items", ["id", "embedding", "code"], ["int4", "vector", "bqcode"], rows) == 300
    assert value(typed, "SELECT count(*) FROM items WHERE code = bq_encode(embedding, %b)", [MODEL]) == 300
    with pytest.raises(ValueError, match="expected 3 types, one per column, not 1"):
        copy_rows(typed, "items", ["id", "embedding", "code"], ["int4"], [])


def test_asynchronous_connections(typed: Connection, server: Server, database: str) -> None:
    execute(typed, "CREATE TABLE items (id integer, code bqcode(48))")

    async def run() -> Code:
        async with await psycopg.AsyncConnection.connect(server.dsn(database), autocommit=True) as conn:
            await register_vector_async(conn)
            await register_codes_async(conn)
            rows = enumerate(encode_rows(MODEL, DATA.base))
            assert (
                await copy_rows_async(conn, ["public", "items"], ["id", "code"], ["int4", "bqcode"], rows)
                == 300
            )
            cursor = await conn.execute("SELECT code FROM items WHERE id = 7")
            row = await cursor.fetchone()
            assert row is not None
            return row[0]

    assert asyncio.run(run()) == next(encode_rows(MODEL, DATA.base[7:8]))


def test_a_database_without_the_types_says_so(server: Server, database: str) -> None:
    with (
        server.connect(database) as conn,
        pytest.raises(psycopg.ProgrammingError, match="no type bqcode and bqmodel"),
    ):
        register_codes(conn)


def test_sqlalchemy_makes_tables_and_searches_them(typed: Connection, server: Server, database: str) -> None:
    create_table(typed, DATA.base, "vectors")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(server.dsn(database)))
    metadata = MetaData()
    from pgvector.sqlalchemy import VECTOR

    vectors = Table("vectors", metadata, Column("id", Integer), Column("embedding", VECTOR(48)))
    items = Table(
        "items",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("embedding", VECTOR(48)),
        Column("code", BQCODE(48)),
    )
    with Session(engine) as session:
        items.create(session.connection())
        session.execute(
            insert(items).from_select(["id", "embedding"], select(vectors.c.id, vectors.c.embedding))
        )
        session.execute(items.update().values(code=bq_encode(items.c.embedding, MODEL)))
        expected = list(encode_rows(MODEL, DATA.base))
        assert session.execute(select(items.c.code).order_by(items.c.id)).scalars().all() == expected
        q = DATA.queries[0]
        statement = select(items.c.id).order_by(items.c.code.cosine_distance(bq_query(q, MODEL))).limit(10)
        found = session.execute(statement).scalars().all()
        estimates = MODEL.estimate(MODEL.encode(DATA.base), q)
        assert set(found) == set(np.argsort(estimates, kind="stable")[:10].tolist())
        session.execute(insert(items).values(id=1000, code=expected[3]))
        assert session.execute(select(items.c.code).where(items.c.id == 1000)).scalar() == expected[3]
        reflected = Table("items", MetaData(), autoload_with=session.connection())
        assert isinstance(reflected.c.code.type, BQCODE)
    engine.dispose()


def test_statements_compile_without_a_server() -> None:
    items = Table(
        "items",
        MetaData(),
        Column("code", BQCODE(3), Computed(func.bq_encode("x", MODEL), persisted=True)),
        Column("model", BQMODEL),
    )
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call,unused-ignore]
    text = str(select(items.c.code.l2_distance(bq_query([1, 2, 3], MODEL))).compile(dialect=dialect))
    assert "items.code <-> (SELECT bq_query(CAST(" in text
    assert "items.code <#> items.code" in str(
        select(items.c.code.max_inner_product(items.c.code)).compile(dialect=dialect)
    )
    code = next(encode_rows(MODEL, DATA.base[:1]))
    literal = select(items.c.model).where(items.c.code == code)
    assert code.to_text() in str(
        literal.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    ).replace("\\\\", "\\")
