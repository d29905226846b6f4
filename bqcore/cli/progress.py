"""Progress bars on stderr, and how long each stage took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


class Bar:
    """One line of progress; calling it with (done, total) moves it."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self.describe(name)

    def __call__(self, done: int, total: int) -> None:
        """Show `done` of `total` steps."""
        self._progress.update(self._task, completed=done, total=total)

    def describe(self, text: str) -> None:
        """Replace the text before the bar."""
        self._progress.update(self._task, description=f"{text:<36}")


class Stages:
    """Progress bars on stderr, one per stage, and the seconds that each stage took."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Bar]:
        """Show a bar while the block runs; without a terminal, a line when it is done."""
        start = time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            bar = Bar(progress, name)
            yield bar
            bar.describe(name)
            bar(1, 1)
        self.seconds[name] = round(time.perf_counter() - start, 2)
        if not self.console.is_terminal:
            self.note(f"{name}: {self.seconds[name]:.1f} s")

    def note(self, text: str) -> None:
        """Print a line on stderr."""
        self.console.print(text, markup=False, soft_wrap=True)
