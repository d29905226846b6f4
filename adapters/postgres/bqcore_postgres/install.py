"""Compile the Postgres extension with PGXS and copy it into a server.

The C sources come from the checkout or from the copy that the wheel carries. A build is kept in a cache under
a key of its inputs, so that a second call costs a few milliseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Our own CFLAGS: those recorded in pg_config may name warnings that an older compiler does not know.
# Contraction is off so that Postgres and Python compute the same bits.
_CFLAGS = "-O2 -fPIC -fvisibility=hidden -fno-strict-aliasing -fwrapv -ffp-contract=off"
_PRODUCTS = (".o", ".so", ".bc", ".a", ".dylib", ".d")
_TAIL_LINES = 30


@dataclass(frozen=True)
class InstallReport:
    """What `install` put where.

    Parameters
    ----------
    pg_config : Path
        The pg_config that named the folders.
    server_version : str
        As pg_config prints it, for example "PostgreSQL 18.4".
    files : tuple of Path
        Installed files.
    has_pgvector : bool
        Whether the server has pgvector's control file, which ``CREATE EXTENSION bqcore`` needs.
    """

    pg_config: Path
    server_version: str
    files: tuple[Path, ...]
    has_pgvector: bool

    @property
    def next_sql(self) -> str:
        """The statement to run in a database next."""
        return "CREATE EXTENSION bqcore CASCADE;"

    @property
    def update_sql(self) -> str:
        """The statement to run instead in a database that has an older version of the extension."""
        return "ALTER EXTENSION bqcore UPDATE;"

    def as_dict(self) -> dict[str, object]:
        """Return values that JSON can hold."""
        return {
            "pg_config": str(self.pg_config),
            "server_version": self.server_version,
            "files": [str(path) for path in self.files],
            "has_pgvector": self.has_pgvector,
            "next_sql": self.next_sql,
            "update_sql": self.update_sql,
        }


def source_dir() -> tuple[Path, Path]:
    """Folders of the C sources: the checkout's if this is one, else the copy inside the wheel.

    Returns
    -------
    tuple of Path
        The ``native`` folder and the ``extension`` folder.

    Raises
    ------
    RuntimeError
        If neither exists.
    """
    package = Path(__file__).resolve().parent
    candidates = []
    if len(package.parents) > 2:
        candidates.append((package.parents[2] / "native", package.parent / "extension"))
    candidates.append((package / "_sources" / "native", package / "_sources" / "extension"))
    for native, extension in candidates:
        if (native / "src").is_dir() and (extension / "Makefile").is_file():
            return native, extension
    tried = " or ".join(str(extension / "Makefile") for _, extension in candidates)
    raise RuntimeError(f"the extension's sources are missing: no {tried}")


def find_pg_config(explicit: Path | None = None) -> Path:
    """Find the pg_config of the server to install into.

    Parameters
    ----------
    explicit : Path, optional
        Taken as it is when given; then the variable PG_CONFIG, then the PATH are looked at.

    Returns
    -------
    Path
        An executable file.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    named = explicit or (Path(value) if (value := os.environ.get("PG_CONFIG")) else None)
    if named is not None:
        if not os.access(named, os.X_OK) or named.is_dir():
            origin = "--pg-config" if explicit else "$PG_CONFIG"
            raise RuntimeError(f"{origin} names {named}, which is no executable file")
        return named.absolute()
    found = shutil.which("pg_config")
    if found is None:
        raise RuntimeError(
            "no pg_config on the PATH: install the server's development package "
            "(Debian: postgresql-server-dev-18) or pass --pg-config"
        )
    return Path(found)


def _ask(pg_config: Path, option: str) -> str:
    try:
        done = subprocess.run([str(pg_config), option], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"{pg_config} {option} failed: {error}") from error
    return done.stdout.strip()


def _source_files(native: Path, extension: Path) -> list[tuple[Path, Path]]:
    """Pairs of file and its place in the build tree, which is laid out as the checkout is."""
    pairs = []
    for folder, place in (
        (native / "include", Path("native/include")),
        (native / "src", Path("native/src")),
        (extension, Path("adapters/postgres/extension")),
    ):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in _PRODUCTS:
                pairs.append((path, place / path.relative_to(folder)))
    return pairs


def _check_tools(pg_config: Path) -> None:
    if shutil.which("make") is None:
        raise RuntimeError(
            "building the extension needs make and a C compiler (Debian: apt install build-essential)"
        )
    words = shlex.split(os.environ.get("CC") or _ask(pg_config, "--cc"))
    if not words or shutil.which(words[0]) is None:
        compiler = words[0] if words else "cc"
        raise RuntimeError(
            f"building the extension needs the C compiler {compiler!r}, which is not on the PATH (or set CC)"
        )
    version = _ask(pg_config, "--version")
    for path in (
        Path(_ask(pg_config, "--pgxs")),
        Path(_ask(pg_config, "--includedir-server")) / "postgres.h",
    ):
        if not path.is_file():
            raise RuntimeError(
                f"{version} has no development files ({path} is missing): install its server development "
                "package (Debian: postgresql-server-dev-NN)"
            )


def cache_root(cache_dir: Path | None = None) -> Path:
    """Folder of builds: the given one, else BQCORE_CACHE, else ``~/.cache/bqcore`` (or XDG_CACHE_HOME's)."""
    if cache_dir is not None:
        return Path(cache_dir)
    if own := os.environ.get("BQCORE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bqcore"


def build(pg_config: Path, *, jobs: int = 2, cache_dir: Path | None = None) -> Path:
    """Compile the extension for a server, or return an earlier build of the same sources.

    Several processes may call this at once: each builds in a folder of its own and the first one to finish
    keeps its result.

    Parameters
    ----------
    pg_config : Path
        pg_config of the server.
    jobs : int
        Parallel compilers.
    cache_dir : Path, optional
        Default: the variable BQCORE_CACHE, else ``~/.cache/bqcore`` (XDG_CACHE_HOME is respected).

    Returns
    -------
    Path
        Folder with ``share/extension/bqcore.control``, ``share/extension/bqcore--*.sql``, ``lib/bqcore.so``.

    Raises
    ------
    RuntimeError
        If pg_config does not work, tools or headers are missing, or the compiler fails; the text has the tail
        of make's output.
    """
    version = _ask(pg_config, "--version")
    native, extension = source_dir()
    contents = [(place, path.read_bytes()) for path, place in _source_files(native, extension)]
    key = hashlib.sha256(f"{version}\0{platform.machine()}\0{_CFLAGS}\0".encode())
    with contextlib.suppress(OSError):
        # Two builds of one version may differ in block size or alignment, which pg_config.h records.
        key.update((Path(_ask(pg_config, "--includedir-server")) / "pg_config.h").read_bytes())
    for place, content in contents:
        key.update(f"{place}\0{len(content)}\0".encode() + content)

    root = cache_root(cache_dir).absolute()
    target = root / f"extension-{key.hexdigest()[:24]}"
    if (target / "lib" / "bqcore.so").is_file():
        return target
    _check_tools(pg_config)
    try:
        root.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="build-", dir=root))
    except OSError as error:
        raise RuntimeError(
            f"cannot write to the cache {root} ({error.strerror}): set BQCORE_CACHE"
        ) from error
    try:
        for place, content in contents:
            path = work / "tree" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _make(pg_config, work, jobs)
        _lay_out(work / "stage", work / "result")
        # The rename fails when another process was first; its result is as good as ours.
        with contextlib.suppress(OSError):
            (work / "result").rename(target)
        if not (target / "lib" / "bqcore.so").is_file():
            raise RuntimeError(f"could not move the build to {target}: remove that folder and try again")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _make(pg_config: Path, work: Path, jobs: int) -> None:
    """Run make and a staged make install: the Makefile knows best which files belong to a server."""
    variables = [
        "with_llvm=no",
        f"PG_CONFIG={pg_config}",
        f"NATIVE={work / 'tree' / 'native'}",
        f"CFLAGS={_CFLAGS}",
    ]
    if compiler := os.environ.get("CC"):
        variables.append(f"CC={compiler}")
    # Under `make test` these would make the inner make a child of the outer one's job server.
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "DESTDIR", "CFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    folder = work / "tree" / "adapters" / "postgres" / "extension"
    for command in (
        ["make", "--silent", f"-j{jobs}", *variables],
        ["make", "--silent", *variables, f"DESTDIR={work / 'stage'}", "install"],
    ):
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
            raise RuntimeError(f"building the extension failed: {shlex.join(command)}\n{tail}")


def _lay_out(stage: Path, result: Path) -> None:
    """Collect the staged files, wherever this server keeps them."""
    names = {"bqcore.control": "share/extension", "bqcore--*.sql": "share/extension", "bqcore.so": "lib"}
    for pattern, place in names.items():
        found = [path for path in stage.rglob(pattern) if path.is_file()]
        if not found:
            raise RuntimeError(f"make install produced no {pattern}")
        (result / place).mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copyfile(path, result / place / path.name)
            (result / place / path.name).chmod(0o755 if place == "lib" else 0o644)
    for folder in (result, *(path for path in result.rglob("*") if path.is_dir())):
        folder.chmod(0o755)


def install(pg_config: Path) -> InstallReport:
    """Build the extension and copy it into the server that pg_config belongs to.

    Files are replaced by renaming, so that running backends keep the library they have mapped.

    Parameters
    ----------
    pg_config : Path
        pg_config of the server.

    Returns
    -------
    InstallReport
        Installed files.

    Raises
    ------
    RuntimeError
        If the build fails or a folder of the server cannot be written.
    """
    built = build(pg_config)
    share = Path(_ask(pg_config, "--sharedir")) / "extension"
    library = Path(_ask(pg_config, "--pkglibdir"))
    # The library first: a control file without its library would break CREATE EXTENSION.
    plan = [(built / "lib" / "bqcore.so", library)]
    plan += [(path, share) for path in sorted((built / "share" / "extension").glob("*.sql"))]
    plan += [(path, share) for path in sorted((built / "share" / "extension").glob("*.control"))]
    files = []
    for path, folder in plan:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(path, folder / path.name)
        except OSError as error:
            raise RuntimeError(
                f"cannot write {folder / path.name} ({error.strerror}): run as the owner of that folder, "
                f"for example with sudo, or copy the files from {built} by hand"
            ) from error
        files.append(folder / path.name)
    return InstallReport(
        pg_config=pg_config,
        server_version=_ask(pg_config, "--version"),
        files=tuple(files),
        has_pgvector=(share / "vector.control").is_file(),
    )


def _replace(source: Path, target: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        shutil.copyfile(source, name)
        Path(name).chmod(source.stat().st_mode & 0o777)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
