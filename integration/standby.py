"""A streaming standby of an embedded server."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import value

from bqcore_postgres import EmbeddedServer
from bqcore_postgres.server_tree import system_user


def as_server_user() -> dict[str, Any]:
    """Arguments of subprocess: whoever runs the server has to own its data directory."""
    if os.geteuid() != 0:
        return {}
    user = system_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def streaming_standby(primary: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """Run a hot standby that starts from a base backup of the primary and streams from it."""
    if not (primary.bin_dir / "pg_basebackup").exists():
        pytest.skip(f"{primary.bin_dir} has no pg_basebackup")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="bq-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        user = as_server_user()
        if user:
            os.chown(folder, user["user"], user["group"])
        backup = [primary.bin_dir / "pg_basebackup", "--pgdata", folder / "data", "--write-recovery-conf"]
        backup += ["--checkpoint", "fast", "--no-sync", "--dbname", primary.dsn()]
        done = subprocess.run(backup, cwd="/", capture_output=True, text=True, check=False, **user)
        assert done.returncode == 0, done.stderr
        # the copy of the primary's log is not the standby's
        (folder / "data" / "server.log").unlink()
        with EmbeddedServer(
            folder / "data",
            settings={**primary.settings, "fsync": "off"},
            extension_dirs=primary.extension_dirs,
            postgres_version=primary.postgres_version,
        ) as standby:
            yield standby


def catch_up(primary: EmbeddedServer, standby: EmbeddedServer, seconds: float = 30) -> None:
    """Wait until the standby has replayed all that the primary has written."""
    with primary.connect() as writer, standby.connect() as reader:
        # a commit flushes what VACUUM and others have left to the background writer
        writer.execute("SELECT pg_logical_emit_message(true, 'bqcore', 'flush')")
        target = value(writer, "SELECT pg_current_wal_flush_lsn()")
        deadline = time.monotonic() + seconds
        while not value(reader, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [target]):
            assert time.monotonic() < deadline, standby.log_tail()
            time.sleep(0.01)
