"""What was measured so far, in a file: an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bqcore.tune.measure import Point

FORMAT, FORMAT_VERSION = "bqcore tuning", 1


class State:
    """Screenings and measurements by spec and rows.

    Parameters
    ----------
    path : Path or None
        Read where it exists, written after every step; None keeps nothing.
    key : dict
        What the measurements belong to: data, k, seed.

    Raises
    ------
    ValueError
        If the file is foreign, damaged, or of other data or settings.
    """

    def __init__(self, path: Path | None, key: dict[str, Any]) -> None:
        self._path, self._key = path, json.loads(json.dumps(key))
        self.screened: dict[str, tuple[int, float] | None] = {}
        self._measured: dict[str, list[Point]] = {}
        self.n_resumed = 0
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            is_ours = found["format"] == FORMAT
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: expected a state that bqcore tune wrote: {error}") from error
        if not is_ours or found["version"] != FORMAT_VERSION:
            raise ValueError(
                f"{path}: expected {FORMAT!r} of version {FORMAT_VERSION}, "
                f"not {found['format']!r} of version {found.get('version')}"
            )
        for name, value in self._key.items():
            if found["key"].get(name) != value:
                raise ValueError(
                    f"{path}: expected a state with {name} = {value}, not {found['key'].get(name)}; "
                    "name another file, or remove this one"
                )
        self.screened = {
            spec: None if one is None else (one[0], one[1]) for spec, one in found["screened"].items()
        }
        self._measured = {
            name: [Point.from_dict(one) for one in points] for name, points in found["measured"].items()
        }
        self.n_resumed = len(self.screened) + len(self._measured)

    def measured(self, spec: str, rows: int) -> list[Point] | None:
        """Return the points of a codec over so many rows, None if they are not known."""
        return self._measured.get(f"{rows} {spec}")

    def all_points(self) -> list[Point]:
        """Return everything measured."""
        return [point for points in self._measured.values() for point in points]

    def add(self, spec: str, rows: int, points: list[Point]) -> None:
        """Keep a measurement."""
        self._measured[f"{rows} {spec}"] = points
        self._write()

    def add_screened(self, spec: str, found: tuple[int, float] | None) -> None:
        """Keep bytes and local fidelity of a codec, None for one that cannot be had."""
        self.screened[spec] = found
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "key": self._key,
            "screened": self.screened,
            "measured": {name: [one.as_dict() for one in points] for name, points in self._measured.items()},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(self._path.name + ".part")
        part.write_text(json.dumps(document) + "\n", encoding="utf-8")
        part.replace(self._path)
