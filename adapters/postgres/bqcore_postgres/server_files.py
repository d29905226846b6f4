"""Files that the embedded server's user can read: temporary folders, copies of trees and extensions."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .server_tree import system_user


class ServerFiles:
    """The server's user, and the temporary folders that are its own until `remove`.

    As root the user is the system user of `server_tree.system_user`, made on first use; else our own.
    """

    def __init__(self) -> None:
        self.temporary: list[Path] = []

    @functools.cached_property
    def _user(self) -> pwd.struct_passwd | None:
        return system_user() if os.geteuid() == 0 else None

    @property
    def user_name(self) -> str:
        """Name of the server's user, for messages."""
        return self._user.pw_name if self._user else "this user"

    def as_user(self) -> dict[str, Any]:
        """Arguments of subprocess that give up root; the current folder may be closed to that user."""
        arguments: dict[str, Any] = {"cwd": "/"}
        if self._user is not None:
            arguments.update(user=self._user.pw_uid, group=self._user.pw_gid, extra_groups=[])
        return arguments

    def readable(self, paths: Sequence[Path]) -> bool:
        """Whether the server's user can read every file (and list every folder) of `paths`."""
        files = [str(path) for path in paths]
        test = 'for p; do [ -r "$p" ] || exit 1; if [ -d "$p" ]; then [ -x "$p" ] || exit 1; fi; done'
        command = ["/bin/sh", "-c", test, "sh", *files]
        return (
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL, **self.as_user()).returncode == 0
        )

    def give_away(self, path: Path) -> None:
        """Make the server's user the owner of a file, or of a folder and all in it."""
        if self._user is None:
            return
        os.chown(path, self._user.pw_uid, self._user.pw_gid)
        for folder, folders, files in os.walk(path):
            for name in folders + files:
                os.chown(Path(folder) / name, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)

    def make_temporary(self, purpose: str, max_length: int | None = None) -> Path:
        """Make a temporary folder that belongs to the server's user, with a path of bounded length."""
        tried = []
        for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
            try:
                folder = Path(tempfile.mkdtemp(prefix=f"bq-{purpose}-", dir=parent)).resolve()
            except OSError as error:
                tried.append(f"{parent}: {error.strerror}")
                continue
            self.give_away(folder)
            if max_length is not None and len(os.fsencode(folder)) > max_length:
                tried.append(f"{parent}: longer than {max_length} bytes")
            elif not self.readable([folder]):
                tried.append(f"{parent}: closed to the server's user")
            else:
                self.temporary.append(folder)
                return folder
            folder.rmdir()
        raise RuntimeError(f"no temporary folder for the embedded server ({'; '.join(tried)})")

    def copy_tree(self, tree: Path, extension_dirs: Sequence[Path] = ()) -> Path:
        """Copy a server tree, with extensions in it, to where the server's user can read it."""
        # initdb finds its libraries in the folder beside its package, PACKAGE.libs.
        root = self.make_temporary("t")
        package = tree.parent
        own = root / package.name / tree.name
        # Half of a tree's files are headers, which no server reads.
        shutil.copytree(tree, own, symlinks=True, ignore=shutil.ignore_patterns("include"))
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, root / libraries.name, symlinks=True)
        # Postgres adds "postgresql" to share and lib unless "postgres" is in its prefix (Makefile.global).
        share, library = own / "share", own / "lib"
        if (share / "postgresql").is_dir():
            share, library = share / "postgresql", library / "postgresql"
        for folder in extension_dirs:
            shutil.copytree(folder / "share", share, dirs_exist_ok=True)
            if (folder / "lib").is_dir():
                shutil.copytree(folder / "lib", library, dirs_exist_ok=True)
        self._open_up(root)
        return own

    def readable_extensions(self, extension_dirs: Sequence[Path]) -> list[Path]:
        """Return the folders, or copies of those that the server's user cannot read."""
        paths = []
        for folder in extension_dirs:
            wanted = [folder, *folder.glob("share/**/*"), *folder.glob("lib/**/*")]
            # ":" separates the folders of both path settings and has no escape.
            if ":" in str(folder) or not self.readable(wanted):
                copy = self.make_temporary("e")
                for part in ("share", "lib"):
                    if (folder / part).is_dir():
                        shutil.copytree(folder / part, copy / part)
                self._open_up(copy)
                paths.append(copy)
            else:
                paths.append(folder)
        return paths

    def remove(self) -> None:
        """Delete the temporary folders."""
        for folder in self.temporary:
            shutil.rmtree(folder, ignore_errors=True)
        self.temporary.clear()

    def _open_up(self, root: Path) -> None:
        """Give a copied tree to the server's user, whatever the umask and the modes of the original were."""
        for folder, _, files in os.walk(root):
            Path(folder).chmod(0o755)
            for name in files:
                path = Path(folder) / name
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o644)
        self.give_away(root)
