"""An asynchronous client behind blocking calls: one implementation of long work serves both kinds."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


class BlockingClient:
    """The methods of an `AsyncQdrantClient` for another thread: each waits until the event loop has done it.

    Parameters
    ----------
    client : AsyncQdrantClient
    loop : asyncio.AbstractEventLoop
        Where the client's calls run; not that of the calling thread.
    """

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._loop = client, loop
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._is_stopped = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            if self._is_stopped:
                raise CancelledError(f"{name}: the task was cancelled")
            made = found(*args, **options)
            return self._result(made) if inspect.isawaitable(made) else made

        return call

    def _result(self, made: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await made

        with self._lock:
            if self._is_stopped:
                made.close()  # type: ignore[attr-defined]
                raise CancelledError("the task was cancelled")
            future = asyncio.run_coroutine_threadsafe(run(), self._loop)
            self._running.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._running.discard(future)

    def stop(self) -> None:
        """Cancel what is under way and refuse what follows."""
        with self._lock:
            self._is_stopped = True
            running = list(self._running)
        for future in running:
            future.cancel()


async def in_thread(client: Any, work: Callable[[BlockingClient], T]) -> T:
    """Run blocking work over an asynchronous client without blocking its event loop.

    Where the task is cancelled, calls under way are cancelled and the work ends at its next one.
    """
    blocking = BlockingClient(client, asyncio.get_running_loop())
    try:
        return await asyncio.to_thread(work, blocking)
    except asyncio.CancelledError:
        blocking.stop()
        raise
