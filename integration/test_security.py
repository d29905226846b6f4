"""What a hostile role tries: planted operators and types, functions that tell, rows and columns of others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from conftest import Server
from pgvector.psycopg import register_vector
from support import (
    Connection,
    column,
    create_index,
    create_table,
    execute,
    force_index,
    go_on_until_the_limit,
    plan,
    search_ids,
    search_sql,
    value,
)

from bqcore.datasets import clustered

pytestmark = pytest.mark.postgres

DATA = clustered(300, 24, n_queries=3, random_state=23)


@pytest.fixture
def role(server: Server, conn: Connection) -> Iterator[str]:
    """A role that may create objects in schema public and nothing else, as all might up to Postgres 14."""
    name = f"bqcore_role_{uuid.uuid4().hex[:12]}"
    execute(conn, f"CREATE ROLE {name} LOGIN")
    execute(conn, f"GRANT CREATE ON SCHEMA public TO {name}")
    yield name
    conn.execute("RESET SESSION AUTHORIZATION")
    execute(conn, f"DROP OWNED BY {name} CASCADE")
    execute(conn, f"DROP ROLE {name}")


@pytest.fixture
def hidden(conn: Connection, role: str) -> Connection:
    """The role's session: of 300 rows its policy shows those of even id."""
    create_table(conn, DATA.base)
    create_index(conn, 4)
    execute(conn, f"GRANT SELECT ON items TO {role}")
    conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY even ON items USING (id % 2 = 0)")
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    go_on_until_the_limit(conn)
    force_index(conn)
    return conn


def notices(conn: Connection) -> list[str]:
    """List that fills with what the server tells this session."""
    found: list[str] = []
    conn.add_notice_handler(lambda diagnostic: found.append(diagnostic.message_primary or ""))
    return found


def test_functions_that_tell_see_no_hidden_row(hidden: Connection) -> None:
    hidden.execute("""
        CREATE FUNCTION tell(i integer, v vector) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
        $$ BEGIN RAISE NOTICE '%', i; RETURN true; END $$""")
    told = notices(hidden)
    text = search_sql("l2", where="WHERE tell(id, embedding)")
    assert "items_bq" in plan(hidden, text, {"q": DATA.queries[0]})
    ids = [row[0] for row in execute(hidden, text.replace("%(q)s", "%s"), [DATA.queries[0]] * 2).fetchall()]
    assert len(ids) == 10
    assert told
    assert all(int(i) % 2 == 0 for i in [*told, *ids])


def test_functions_in_the_distance_see_no_hidden_row(hidden: Connection) -> None:
    """The index computes distances before policies filter: with the operator's own function only."""
    hidden.execute("""
        CREATE FUNCTION tell(a vector, b vector) RETURNS float8 LANGUAGE plpgsql IMMUTABLE COST 0.0000001 AS
        $$ BEGIN RAISE NOTICE '%', vector_dims(a); RETURN a <-> b; END $$""")
    hidden.execute("CREATE OPERATOR <~~> (FUNCTION = tell, LEFTARG = vector, RIGHTARG = vector)")
    told = notices(hidden)
    rows = execute(hidden, "SELECT id FROM items ORDER BY embedding <~~> %s LIMIT 10", [DATA.queries[0]])
    assert len(rows.fetchall()) == 10
    assert len(told) == 150


@pytest.mark.parametrize("where", ["table", "partition"])
def test_functions_of_an_expression_index_see_no_hidden_row(conn: Connection, role: str, where: str) -> None:
    """Rescoring evaluates the expression of an index on candidates that policies have not judged yet."""
    conn.execute("""
        CREATE FUNCTION tell(i integer, v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RAISE NOTICE '%', i; RETURN v; END $$""")
    create_table(conn, DATA.base, "stored")
    if where == "table":
        conn.execute("ALTER TABLE stored RENAME TO items")
    else:
        conn.execute("CREATE TABLE items (id integer, embedding vector(24)) PARTITION BY LIST (id)")
        conn.execute("ALTER TABLE items ATTACH PARTITION stored DEFAULT")
    target = "(tell(id, embedding)::vector(24))"
    create_index(conn, 4, target=target)
    execute(conn, f"GRANT SELECT ON items TO {role}")
    conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY even ON items USING (id % 2 = 0)")
    force_index(conn)
    text = search_sql(target=target)
    conn.execute("SET client_min_messages = warning")
    assert "Index Scan using" in plan(conn, text, {"q": DATA.queries[0]})  # the owner's plan
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    conn.execute("SET client_min_messages = notice")
    told = notices(conn)
    ids = [row[0] for row in conn.execute(text.encode(), {"q": DATA.queries[0]}).fetchall()]
    assert len(ids) == 10
    assert told
    assert all(int(i) % 2 == 0 for i in [*told, *ids])


def test_casts_of_pgvector_keep_their_index_under_policies(conn: Connection, role: str) -> None:
    create_table(conn, DATA.base)
    target = "(embedding::halfvec(24))"
    create_index(conn, 4, target=target, type_name="halfvec")
    execute(conn, f"GRANT SELECT ON items TO {role}")
    conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY even ON items USING (id % 2 = 0)")
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    force_index(conn)
    go_on_until_the_limit(conn)
    text = "SELECT id FROM items ORDER BY embedding::halfvec(24) <-> %s::vector::halfvec(24) LIMIT 10"
    q = DATA.queries[0]
    assert "items_bq" in plan(conn, text, [q])
    assert all(row[0] % 2 == 0 for row in execute(conn, text, [q]).fetchall())


def test_no_function_of_the_extension_is_trusted(conn: Connection) -> None:
    """None is leakproof, so none is run before policies; none runs with its owner's rights."""
    rows = execute(
        conn,
        "SELECT p.oid::regprocedure::text, p.proleakproof, p.prosecdef FROM pg_depend d "
        "JOIN pg_proc p ON p.oid = d.objid JOIN pg_extension e ON e.oid = d.refobjid "
        "WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND e.extname = 'bqcore'",
    ).fetchall()
    assert len(rows) > 50
    assert [row for row in rows if row[1] or row[2]] == []


#: Every function of the extension that PUBLIC may call, by what it reads and as whom it runs.
PUBLIC_FUNCTIONS = {
    # its arguments only, as the caller
    "arguments": """
        bq_bound(bqcode,bqquery,double precision) bq_decode(bqcode,bqmodel)
        bq_cosine_distance(bqcode,bqcode) bq_cosine_distance(bqcode,bqquery)
        bq_cosine_distance(bqquery,bqcode) bq_distance(bqcode,bqcode) bq_distance(bqcode,bqquery)
        bq_encode(halfvec,bqmodel) bq_encode(vector,bqmodel)
        bq_eq(bqcode,bqcode) bq_eq(bqmodel,bqmodel) bq_eq(bqquery,bqquery)
        bq_l2_distance(bqcode,bqcode) bq_l2_distance(bqcode,bqquery) bq_l2_distance(bqquery,bqcode)
        bq_model_id(bqcode) bq_model_id(bqmodel) bq_model_id(bqquery) bq_model_info(bqmodel)
        bq_ne(bqcode,bqcode) bq_ne(bqmodel,bqmodel) bq_ne(bqquery,bqquery)
        bq_negative_inner_product(bqcode,bqquery) bq_negative_inner_product(bqquery,bqcode)
        bq_query(halfvec,bqmodel) bq_query(vector,bqmodel)
        bq_train(halfvec,integer,text) bq_train(halfvec,integer,text,bigint)
        bq_train(vector,integer,text) bq_train(vector,integer,text,bigint)
        bqcode(bqcode,integer,boolean) bqcode(bytea) bqcode_in(cstring,oid,integer) bqcode_out(bqcode)
        bqcode_send(bqcode) bqcode_typmod_in(cstring[])
        bqmodel(bytea) bqmodel_in(cstring) bqmodel_out(bqmodel) bqmodel_send(bqmodel)
        bqquery(bytea) bqquery_in(cstring) bqquery_out(bqquery) bqquery_send(bqquery)
        bqcore_version()""",
    # an argument of type internal: no statement can call it
    "internal": """
        bq_train_add(internal,halfvec,integer,text) bq_train_add(internal,halfvec,integer,text,bigint)
        bq_train_add(internal,vector,integer,text) bq_train_add(internal,vector,integer,text,bigint)
        bq_train_final(internal)
        bqcode_cosine_index_distance(internal,internal) bqcode_ip_index_distance(internal,internal)
        bqcode_l2_index_distance(internal,internal) bqcode_kmeans_distance(internal,internal)
        bqcode_hnsw_support(internal) bqcode_ivfflat_support(internal)
        bqcode_recv(internal,oid,integer) bqmodel_recv(internal) bqquery_recv(internal)
        bqhnsw_distance(internal,internal) bqhnsw_norm(internal) bqhnsw_handler(internal)
        bqhnsw_halfvec_cosine_support(internal) bqhnsw_halfvec_ip_support(internal)
        bqhnsw_halfvec_l2_support(internal) bqhnsw_vector_cosine_support(internal)
        bqhnsw_vector_ip_support(internal) bqhnsw_vector_l2_support(internal)""",
    # an index's model, as the caller, who needs SELECT on all columns and rows; runs no functions
    "index": """
        bqcore_index_encode(regclass,vector) bqcore_index_estimate(regclass,vector,vector)
        bqcore_index_info(regclass) bqcore_index_model(regclass)""",
    # a table, with the same needs; functions of the index run as its owner, see test_permissions.py
    "table": "bqcore_recall(regclass,integer,integer,vector[])",
    # for the table's owner, whom C asks for; functions of the index run as the owner
    "owner": "bqcore_train(regclass)",
}
#: Those that PUBLIC may not call: they read without asking for SELECT.
CLOSED_FUNCTIONS = "bqcore_check(regclass,boolean)"


def test_every_function_that_public_may_call_is_known(conn: Connection) -> None:
    """A function that is new here needs a decision, and its kind of test, first."""
    rows = execute(
        conn,
        "SELECT p.oid::regprocedure::text, has_function_privilege('pg_monitor', p.oid, 'EXECUTE'), "
        "p.proargtypes::oid[] && ARRAY['internal'::regtype::oid] FROM pg_depend d "
        "JOIN pg_proc p ON p.oid = d.objid JOIN pg_extension e ON e.oid = d.refobjid "
        "WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND e.extname = 'bqcore'",
    ).fetchall()
    # signatures hold blanks in "double precision" only
    known = {
        kind: set(text.replace("double precision", "double_precision").split())
        for kind, text in PUBLIC_FUNCTIONS.items()
    }
    found = {(name.replace(" ", "_"), public, internal) for name, public, internal in rows}
    assert {name for name, public, _ in found if public} == set().union(*known.values())
    assert sum(map(len, known.values())) == len(set().union(*known.values()))
    assert {name for name, public, _ in found if not public} == {CLOSED_FUNCTIONS}
    assert {name for name, _, internal in found if internal} == known["internal"]


def test_functions_of_arguments_name_no_relation() -> None:
    """What is classified as reading its arguments cannot name a relation."""
    for kind in ("arguments", "internal"):
        assert "regclass" not in PUBLIC_FUNCTIONS[kind]
    for kind in ("index", "table", "owner"):
        assert all("regclass" in name for name in PUBLIC_FUNCTIONS[kind].split())


def test_functions_that_take_internal_cannot_be_called(conn: Connection, role: str) -> None:
    # Postgres 17.12 does not even find them for arguments of unknown type; 18.4 does
    refusals = (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFunction)
    known = execute(
        conn, "SELECT count(*) FROM pg_proc WHERE proname IN ('bqhnsw_distance', 'bqmodel_recv')"
    ).fetchone()
    assert known == (2,)
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    for call in (
        "bqhnsw_distance(NULL, NULL)",
        "bqhnsw_vector_l2_support(NULL)",
        "bqcode_hnsw_support(NULL)",
        "bqcode_kmeans_distance(NULL, NULL)",
        "bq_train_final(NULL)",
        "bq_train_add(NULL, '[1,2]'::vector, 1, 'l2')",
        "bqmodel_recv(NULL)",
    ):
        with pytest.raises(refusals, match=r"type internal|does not exist"):
            execute(conn, f"SELECT {call}")


def test_columns_without_privilege_stay_closed(conn: Connection, role: str) -> None:
    create_table(conn, DATA.base)
    create_index(conn)
    execute(conn, f"GRANT SELECT (id) ON items TO {role}")
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    force_index(conn)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(conn, "SELECT id FROM items ORDER BY embedding <-> %s LIMIT 1", [DATA.queries[0]])
    conn.execute("RESET SESSION AUTHORIZATION")
    execute(conn, f"GRANT SELECT (embedding) ON items TO {role}")
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    assert search_ids(conn, DATA.base[7], 1) == [7]


def test_a_code_column_may_be_closed_to_who_searches(conn: Connection, role: str) -> None:
    create_table(conn, DATA.base)
    model = value(conn, "SELECT bq_train(embedding, 8, 'l2')::text FROM items")
    execute(
        conn,
        "ALTER TABLE items ADD code bqcode(24) "
        f"GENERATED ALWAYS AS (bq_encode(embedding, '{model}'::bqmodel)) STORED",
    )
    create_index(conn, options=", rescore_column = 'code'")
    execute(conn, f"GRANT SELECT (id, embedding) ON items TO {role}")
    execute(conn, f"SET SESSION AUTHORIZATION {role}")
    force_index(conn)
    assert search_ids(conn, DATA.base[7], 1) == [7]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(conn, "SELECT code FROM items")


PLANTED = {
    "operators": """
        CREATE FUNCTION public.trap(a ext.{type}, b ext.{type}) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE OPERATOR public.<-> (FUNCTION = public.trap, LEFTARG = ext.{type}, RIGHTARG = ext.{type});
        CREATE OPERATOR public.<#> (FUNCTION = public.trap, LEFTARG = ext.{type}, RIGHTARG = ext.{type});
        CREATE OPERATOR public.<=> (FUNCTION = public.trap, LEFTARG = ext.{type}, RIGHTARG = ext.{type})""",
    "types": "CREATE TYPE public.{type} AS (x text)",
}


@pytest.fixture
def planted(server: Server, database: str, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A database with pgvector in schema ext, and operators and types of a role in public."""
    name = f"bqcore_role_{uuid.uuid4().hex[:12]}"
    with server.connect(database) as conn:
        conn.execute(
            "CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext; GRANT USAGE ON SCHEMA ext TO PUBLIC"
        )
        execute(conn, f"CREATE ROLE {name}; GRANT CREATE ON SCHEMA public TO {name}; SET ROLE {name}")
        for type_name in ("vector", "halfvec"):
            execute(conn, PLANTED[request.param].replace("{type}", type_name))
        conn.execute("RESET ROLE")
        yield conn
        execute(
            conn, f"DROP EXTENSION IF EXISTS bqcore CASCADE; DROP OWNED BY {name} CASCADE; DROP ROLE {name}"
        )


@pytest.mark.parametrize("planted", PLANTED, indirect=True)
def test_the_install_script_takes_nothing_planted(planted: Connection) -> None:
    """Where others may write to the extension's schema, it is not installed over what they put there."""
    with pytest.raises(psycopg.Error, match=r"not operator public\.<|operator does not exist"):
        execute(planted, "CREATE EXTENSION bqcore SCHEMA public")
    assert value(planted, "SELECT count(*) FROM pg_extension WHERE extname = 'bqcore'") == 0
    planted.execute("CREATE SCHEMA own; CREATE EXTENSION bqcore SCHEMA own")
    owned = "SELECT objid FROM pg_depend JOIN pg_extension e ON e.oid = refobjid WHERE deptype = 'e'"
    foreign = f"""
        SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) FROM pg_depend d
        WHERE d.objid IN ({owned} AND extname = 'bqcore') AND d.refobjid NOT IN ({owned})
        AND d.refclassid IN ('pg_operator'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass)
        AND NOT EXISTS ( -- before 18 an extension does not own the arrays of its types
            SELECT FROM pg_type t WHERE d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
            AND t.typelem IN ({owned}))"""
    assert column(planted, foreign) == []
    operators = column(
        planted,
        "SELECT DISTINCT amopopr::regoperator::text FROM pg_amop JOIN pg_am ON pg_am.oid = amopmethod "
        "WHERE amname = 'bqhnsw'",
    )
    assert len(operators) == 6
    assert all(name.startswith("ext.") for name in operators)
    planted.execute("SET search_path = ext, own, public")
    register_vector(planted)
    create_table(planted, DATA.base)
    create_index(planted)
    planted.execute("SET search_path = public, ext, own")
    assert value(planted, "SELECT bqcore_recall('ext.items_bq')") > 0.9
    planted.execute("DROP EXTENSION bqcore CASCADE; DROP SCHEMA own")


@pytest.mark.parametrize("planted", ["operators"], indirect=True)
def test_an_upgrade_does_not_go_on_with_what_was_planted(planted: Connection) -> None:
    """The script of version 0.1.0 took the first operator of that name."""
    execute(planted, "CREATE EXTENSION bqcore SCHEMA public VERSION '0.1.0'")
    with pytest.raises(psycopg.errors.DuplicateObject, match=r"not operator public\.<"):
        execute(planted, "ALTER EXTENSION bqcore UPDATE")


def test_what_is_ahead_in_the_search_path_is_not_run(conn: Connection, role: str) -> None:
    """Functions of the extension run on objects, not on names."""
    create_table(conn, DATA.base)
    create_index(conn)
    create_index(conn, name="expression_bq", target="(l2_normalize(embedding)::vector(24))", metric="cosine")
    before = [value(conn, f"SELECT bqcore_recall('{name}')") for name in ("items_bq", "expression_bq")]
    execute(conn, f"CREATE SCHEMA evil AUTHORIZATION {role}; SET ROLE {role}")
    conn.execute("""
        CREATE FUNCTION evil.trap(a vector, b vector) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE OPERATOR evil.<-> (FUNCTION = evil.trap, LEFTARG = vector, RIGHTARG = vector);
        CREATE OPERATOR evil.<=> (FUNCTION = evil.trap, LEFTARG = vector, RIGHTARG = vector);
        CREATE FUNCTION evil.l2_normalize(vector) RETURNS vector LANGUAGE sql AS 'SELECT NULL::vector';
        CREATE TYPE evil.vector AS (x text);
        CREATE TEMP TABLE pg_class (oid oid); CREATE TEMP TABLE pg_index (indexrelid oid)""")
    conn.execute("RESET ROLE; SET search_path = evil, pg_temp, public, pg_catalog")
    after = [value(conn, f"SELECT public.bqcore_recall('{name}')") for name in ("items_bq", "expression_bq")]
    assert after == before
    conn.execute("INSERT INTO items SELECT 1000, embedding FROM items WHERE id = 3; REINDEX TABLE items")
    assert value(conn, "SELECT trained_rows FROM public.bqcore_index_info('items_bq')") == 301
