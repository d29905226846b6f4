"""What roles without privileges may learn from an index, and whose functions run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from conftest import Server
from pgvector.psycopg import register_vector
from support import (
    Connection,
    create_index,
    create_table,
    execute,
    force_index,
    go_on_until_the_limit,
    insert,
    search_ids,
    value,
)

from bqcore.datasets import clustered

pytestmark = pytest.mark.postgres

DATA = clustered(300, 24, n_queries=1, random_state=23)

CALLS = [
    "bqcore_recall('items_bq')",
    "bqcore_index_model('items_bq')",
    "bqcore_index_info('items_bq')",
    "bqcore_index_encode('items_bq', (SELECT v FROM given))",
    "bqcore_index_estimate('items_bq', (SELECT v FROM given), (SELECT v FROM given))",
]


@pytest.fixture
def role(server: Server, conn: Connection) -> Iterator[str]:
    """A login role without any privileges."""
    name = f"bqcore_role_{uuid.uuid4().hex[:12]}"
    execute(conn, f"CREATE ROLE {name} LOGIN")
    yield name
    conn.execute("RESET SESSION AUTHORIZATION")
    execute(conn, f"DROP OWNED BY {name} CASCADE")
    execute(conn, f"DROP ROLE {name}")


@pytest.fixture
def items(conn: Connection) -> Connection:
    create_table(conn, DATA.base)
    create_index(conn)
    conn.execute("CREATE TABLE given AS SELECT embedding AS v FROM items WHERE id = 1")
    conn.execute("GRANT SELECT ON given TO PUBLIC")
    return conn


@pytest.mark.parametrize("call", CALLS)
def test_who_cannot_read_the_table_learns_nothing_from_its_index(
    items: Connection, role: str, call: str
) -> None:
    execute(items, f"SET SESSION AUTHORIZATION {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table items"):
        execute(items, f"SELECT {call}")
    items.execute("RESET SESSION AUTHORIZATION")
    # one column is not enough: a centroid says something about rows as a whole
    execute(items, f"GRANT SELECT (id) ON items TO {role}")
    execute(items, f"SET SESSION AUTHORIZATION {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table items"):
        execute(items, f"SELECT {call}")
    items.execute("RESET SESSION AUTHORIZATION")
    execute(items, f"GRANT SELECT ON items TO {role}")
    execute(items, f"SET SESSION AUTHORIZATION {role}")
    assert value(items, f"SELECT {call}") is not None


@pytest.mark.parametrize("call", CALLS)
def test_what_tells_of_all_rows_is_refused_under_row_level_security(
    items: Connection, role: str, call: str
) -> None:
    execute(items, f"GRANT SELECT ON items TO {role}")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY even ON items USING (id % 2 = 0)")
    assert value(items, f"SELECT {call}") is not None  # the owner sees every row
    execute(items, f"SET SESSION AUTHORIZATION {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        execute(items, f"SELECT {call}")


def test_scans_respect_row_level_security(items: Connection, role: str) -> None:
    execute(items, f"GRANT SELECT ON items TO {role}")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY even ON items USING (id % 2 = 0)")
    execute(items, f"SET SESSION AUTHORIZATION {role}")
    go_on_until_the_limit(items)
    force_index(items)
    ids = search_ids(items, DATA.queries[0], 10)
    assert len(ids) == 10
    assert all(i % 2 == 0 for i in ids)


def test_an_ordinary_role_owns_and_uses_its_indexes(
    server: Server, conn: Connection, database: str, role: str
) -> None:
    execute(conn, f"GRANT CREATE ON SCHEMA public TO {role}")
    with server.connect(database) as own:
        execute(own, f"SET SESSION AUTHORIZATION {role}")
        register_vector(own)
        create_table(own, DATA.base)
        create_index(own, 4, "cosine")
        force_index(own)
        assert search_ids(own, DATA.base[7], 1, "cosine") == [7]
        assert value(own, "SELECT bqcore_recall('items_bq')") > 0.9


@pytest.mark.parametrize("where", ["expression", "predicate"])
def test_recall_does_not_run_the_owners_functions_as_the_caller(
    conn: Connection, role: str, where: str
) -> None:
    """A superuser who asks for the recall of an index must not lend its owner his rights."""
    execute(conn, f"GRANT CREATE ON SCHEMA public TO {role}")
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    conn.execute("CREATE TABLE seen (who text)")
    conn.execute("GRANT INSERT ON seen TO PUBLIC")
    conn.execute("""
        CREATE FUNCTION note() RETURNS void LANGUAGE plpgsql VOLATILE AS
        $$ BEGIN INSERT INTO public.seen VALUES (current_user); END $$""")
    conn.execute("""
        CREATE FUNCTION trojan(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN PERFORM public.note(); RETURN v; END $$""")
    create_table(conn, DATA.base[:50])
    if where == "expression":
        create_index(conn, target="(trojan(embedding)::vector(24))")
    else:
        create_index(conn, where="WHERE trojan(embedding) IS NOT NULL")
    conn.execute("TRUNCATE seen")
    conn.execute("RESET SESSION AUTHORIZATION")
    assert value(conn, "SELECT bqcore_recall('items_bq')") > 0.9
    assert {row[0] for row in conn.execute("SELECT who FROM seen").fetchall()} <= {role}


#: Functions of an index: a name in them may mean what their owner thinks, or what a caller planted.
PREPARE = {
    "plpgsql": """LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN length(note) >= 0 THEN v END; END $$""",
    # what sessions put into the expression in its place, under the search_path of that moment, and keep
    "sql": """LANGUAGE sql AS $$ SELECT CASE WHEN length(note) >= 0 THEN v END $$""",
    "table": """LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM lookup; RETURN v; END $$""",
}


@pytest.mark.parametrize("call", ["recall('public.items_bq')", "check('public.items_bq', true)"])
@pytest.mark.parametrize("where", ["expression", "predicate"])
@pytest.mark.parametrize("prepare", PREPARE)
def test_functions_of_an_index_run_nothing_of_the_caller_as_the_owner(
    server: Server, conn: Connection, database: str, role: str, prepare: str, where: str, call: str
) -> None:
    """A caller's schemas and temporary objects must not come before what the owner meant."""
    conn.execute("CREATE TABLE secret AS SELECT 'hidden' AS s; CREATE TABLE lookup ()")
    execute(conn, f"CREATE FUNCTION prepare(v vector, note text) RETURNS vector IMMUTABLE {PREPARE[prepare]}")
    # on an empty table, where names that only the owner's search_path finds are no error
    create_table(conn, DATA.base[:0], columns=", note text DEFAULT ''")
    if where == "expression":
        create_index(conn, target="(prepare(embedding, note)::vector(24))")
    else:
        create_index(conn, where="WHERE prepare(embedding, note) IS NOT NULL")
    insert(conn, "items", range(100), DATA.base[:100])
    execute(conn, f"GRANT SELECT ON items, lookup TO {role}; GRANT CREATE ON DATABASE {database} TO {role}")
    execute(conn, f"GRANT EXECUTE ON FUNCTION bqcore_check(regclass, boolean) TO {role}")

    with server.connect(database) as other:
        execute(other, f"SET SESSION AUTHORIZATION {role}")
        other.execute("""
            CREATE SCHEMA mine; GRANT USAGE ON SCHEMA mine TO PUBLIC;
            CREATE TABLE mine.loot (s text); GRANT ALL ON mine.loot TO PUBLIC;
            CREATE FUNCTION mine.steal() RETURNS int LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO mine.loot SELECT s FROM public.secret; RETURN 1; END $$;
            CREATE FUNCTION mine.length(text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
            $$ BEGIN RETURN mine.steal(); END $$;
            SET search_path = mine, pg_catalog, public""")
        if prepare == "table":
            other.execute("CREATE TEMP VIEW lookup AS SELECT mine.steal()")
            other.execute("GRANT SELECT ON lookup TO PUBLIC")
        other.execute("EXPLAIN SELECT * FROM items")  # the session reads the index's expressions
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="table secret"):
            other.execute(
                "SELECT prepare(embedding, note) FROM items"
            )  # it works, with the caller's own rights
        if prepare == "table":
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="has had temporary objects"):
                execute(other, f"SELECT bqcore_{call}")
        else:
            assert value(other, f"SELECT bqcore_{call}") is not None
        assert other.execute("SELECT * FROM mine.loot").fetchall() == []
        assert value(other, "SELECT current_user") == role
        assert value(other, "SHOW search_path") == "mine, pg_catalog, public"


def test_temporary_objects_do_not_matter_to_plain_indexes_and_owners(conn: Connection, role: str) -> None:
    create_table(conn, DATA.base[:100])
    create_index(conn)
    execute(conn, f"GRANT SELECT ON items TO {role}")
    create_table(conn, DATA.base[:100], "others")
    create_index(conn, table="others", target="(l2_normalize(embedding)::vector(24))", metric="cosine")
    execute(conn, f"ALTER TABLE others OWNER TO {role}")
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    conn.execute("CREATE TEMP TABLE mine (x int)")
    assert value(conn, "SELECT bqcore_recall('items_bq')") > 0.9
    assert value(conn, "SELECT bqcore_recall('others_bq')") > 0.9
    conn.execute("RESET SESSION AUTHORIZATION")
    assert value(conn, "SELECT bqcore_recall('others_bq')") > 0.9


def test_nobody_sets_the_segment_of_a_parallel_build(conn: Connection) -> None:
    conn.execute("LOAD 'bqcore'")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="build_segment"):
        conn.execute("SET bqcore.build_segment = '123'")
