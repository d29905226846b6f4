"""The images of docker/: what they hold, and that the data outlive them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from containers import Running, docker, missing, postgres, skip
from pgvector.psycopg import register_vector
from support import Connection, create_index, create_table, hits, search_ids, value

from bqcore.datasets import clustered
from bqcore.evaluation import exact_search

pytestmark = pytest.mark.postgres

MAJORS = (17, 18)
WAIT_SECONDS = 60


@pytest.fixture(scope="module", params=MAJORS)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[int, Running]]:
    """Server of an image, with its major version."""
    with postgres(f"bqcore/postgres:{request.param}") as server:
        yield request.param, server


def connect(server: Running) -> Connection:
    """Connect to a server that may be starting."""
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        # the port on the host may change with a restart, the container's own does not
        address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", server.container)
        try:
            return psycopg.connect(server.dsn, autocommit=True, hostaddr=address, port=5432)
        except psycopg.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


def test_server_is_the_stated_version_not_root_and_healthy(running: tuple[int, Running]) -> None:
    major, server = running
    with connect(server) as conn:
        assert int(value(conn, "SHOW server_version_num")) // 10000 == major
        conn.execute("CREATE EXTENSION bqcore CASCADE")
        versions = dict(conn.execute("SELECT extname, extversion FROM pg_extension").fetchall())
        assert tuple(map(int, versions["vector"].split(".")))[:2] >= (0, 8)
        conn.execute("DROP EXTENSION bqcore")
    assert docker("exec", server.container, "id", "-u") != "0"
    give_up = time.monotonic() + WAIT_SECONDS
    while docker("inspect", "-f", "{{.State.Health.Status}}", server.container) != "healthy":
        assert time.monotonic() < give_up, docker("logs", "--tail", "20", server.container)
        time.sleep(0.5)


def test_recall_outlives_a_killed_container(running: tuple[int, Running]) -> None:
    _, server = running
    data = clustered(4000, 96, n_queries=30, random_state=3)
    truth = exact_search(data.base, data.queries, 10, "l2")[0]

    def recall(conn: Connection) -> float:
        register_vector(conn)
        conn.execute("SET enable_seqscan = off")
        found = [search_ids(conn, q, 10, "l2", "killed") for q in data.queries]
        return sum(map(hits, found, truth)) / truth.size

    with connect(server) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS bqcore CASCADE")
        register_vector(conn)
        create_table(conn, data.base, "killed")
        create_index(conn, 4, "l2", "killed")
        before = recall(conn)
    docker("kill", server.container)
    docker("start", server.container)
    with connect(server) as conn:
        assert value(conn, "SELECT count(*) FROM killed") == len(data.base)
        assert recall(conn) == before
    assert before >= 0.97


def test_without_a_password_the_server_says_what_to_set() -> None:
    if reason := missing("bqcore/postgres:17"):
        skip(reason)
    said = docker("run", "--rm", "bqcore/postgres:17", check=False)
    assert said == "no POSTGRES_PASSWORD: set it, or POSTGRES_HOST_AUTH_METHOD=trust to let everybody in"


def test_scripts_and_names_with_quotes_are_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    if reason := missing("bqcore/postgres:17"):
        skip(reason)
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "one.sql").write_text("CREATE EXTENSION bqcore CASCADE; CREATE TABLE made (e vector(3));")
    environment = ["POSTGRES_PASSWORD=it's", 'POSTGRES_DB=a "name"', "POSTGRES_USER=o hara"]
    container = docker("create", *(f"--env={one}" for one in environment), "bqcore/postgres:17")
    try:
        docker("cp", f"{folder}/.", f"{container}:/docker-entrypoint-initdb.d/")
        docker("start", container)
        address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)
        dsn = psycopg.conninfo.make_conninfo(host=address, user="o hara", password="it's", dbname='a "name"')
        with connect(Running(dsn, container)) as conn:
            assert value(conn, "SELECT count(*) FROM made") == 0
            assert np.isfinite(value(conn, "SELECT '[1,2,3]'::vector <-> '[0,0,0]'::vector"))
    finally:
        docker("rm", "--force", "--volumes", container)
