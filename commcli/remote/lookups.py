"""Threads that nobody waits for: a name server that does not answer is not to hold us when all else is done.

asyncio looks names up in threads of a pool and joins them at its end, python joins them once more at its own; a
resolver gives up after 10 to 30 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lookups(ThreadPoolExecutor):
    """For an event loop's default executor: a thread for a call unless one is idle; those that hang end with the
    process. Objects of the kind `at_once` are made where they are asked for: a thread costs more.
    """

    def __init__(self, at_once: type[Any] | None = None) -> None:
        super().__init__()
        self._at_once = at_once
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call it, in a thread."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        if isinstance(fn, partial) and fn.func is self._at_once:
            call()
            return future
        self._calls.put(call)
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let idle threads end; nobody waits for the others."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._calls.put(None)

    def _serve(self) -> None:
        while call := self._calls.get():
            call()
            self._idle.release()
        self._calls.put(None)  # for the next of us
