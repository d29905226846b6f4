"""The extension under memory checkers: make memory-postgres.

The embedded server cannot be rebuilt: the checkers see what Postgres takes from the system, not each palloc.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Server
from support import Connection, server_options

from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

#: Every entry of the access method and all widths of codes; an odd number of dimensions leaves padding.
WORK = """
CREATE TABLE items (id int PRIMARY KEY, embedding vector(65));
INSERT INTO items SELECT i, (SELECT array_agg(random() - 0.5) FROM generate_series(1, 65) WHERE i > 0)::vector
 FROM generate_series(1, 300) i;
CREATE INDEX a ON items USING bqhnsw (embedding vector_l2_ops);
CREATE INDEX b ON items USING bqhnsw (embedding vector_cosine_ops) WITH (bits = 4);
CREATE INDEX c ON items USING bqhnsw (embedding vector_ip_ops) WITH (bits = 2);
CREATE INDEX d ON items USING bqhnsw ((embedding::halfvec(65)) halfvec_l2_ops) WITH (bits = 8);
SET enable_seqscan = off;
SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 7) LIMIT 3;
SELECT id FROM items ORDER BY embedding <=> (SELECT embedding FROM items WHERE id = 8) LIMIT 3;
SELECT id FROM items ORDER BY embedding <#> (SELECT embedding FROM items WHERE id = 9) LIMIT 3;
UPDATE items SET embedding = embedding * embedding WHERE id < 20;
DELETE FROM items WHERE id BETWEEN 20 AND 60;
VACUUM items;
INSERT INTO items SELECT id + 1000, embedding * embedding FROM items WHERE id > 280;
REINDEX INDEX b;
SELECT bqcore_recall('a', 10, 20) > 0.8, bqcore_recall('b', 10, 20) > 0.8, bqcore_recall('c', 10, 20) > 0.8;
SELECT sum(bq_distance(bq_encode(embedding, m), bq_query(embedding, m))) FROM items,
 (SELECT bq_train(embedding, 8, 'l2') AS m FROM items) t;
SET hnsw.iterative_scan = strict_order;
SELECT count(*) AS rows_seen FROM
 (SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 7)) t;
"""


def test_the_checker_is_in_the_server(server: Server, conn: Connection) -> None:
    preload = os.environ.get("BQCORE_TEST_PRELOAD")
    if preload is None or not isinstance(server, EmbeddedServer):
        pytest.skip("BQCORE_TEST_PRELOAD is not set (make memory-postgres)")
    conn.execute("LOAD 'bqcore'")
    maps = Path(f"/proc/{conn.info.backend_pid}/maps").read_text()
    assert "libasan" in maps
    library = next(line.split()[-1] for line in maps.splitlines() if line.endswith("/bqcore.so"))
    assert b"__asan_report_load" in Path(library).read_bytes()


@pytest.mark.slow
def test_valgrind_finds_nothing_in_the_extension(extension_dir: Path, open_folder: Path) -> None:
    """In a single-user server: uses of uninitialised bytes, also in what is written, and invalid accesses."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed (Debian: valgrind)")
    if os.environ.get("BQCORE_TEST_PRELOAD"):
        pytest.skip("valgrind and a preloaded checker exclude each other")
    folder = open_folder / "data"
    server = EmbeddedServer(folder, extension_dirs=[extension_dir], **server_options())
    with server, server.connect() as conn:
        conn.execute("CREATE EXTENSION bqcore CASCADE")
    server.start()
    try:
        server.stop()
        checker = ["valgrind", "--error-limit=no", "--num-callers=20", f"--log-file={folder}/valgrind.%p"]
        done = subprocess.run(
            [*checker, str(server.bin_dir / "postgres"), "--single", "-D", str(folder), "postgres"],
            # a statement a line
            input=WORK.strip().replace(";\n", ";\0").replace("\n", " ").replace("\0", "\n") + "\n",
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            **server._files.as_user(),
        )
    finally:
        server.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    assert done.stdout.count('= "t"') == 3
    assert '1: rows_seen = "' in done.stdout
    logs = [path.read_text() for path in folder.glob("valgrind.*")]
    assert len(logs) == 1
    (summary,) = [line for line in logs[0].splitlines() if "ERROR SUMMARY" in line]
    print(summary)  # shown by pytest -rP; Postgres writes padding of its own
    assert "bqcore.so" not in logs[0]
