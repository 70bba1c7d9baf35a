"""Work in threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Generator[_Result, None, None]:
    """`map` over threads, a few items ahead, so that endless inputs do not fill the memory.

    Close it after use: a generator that is only dropped may end in one of its own threads, which cannot wait
    for itself.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def ahead(items: Iterable[_Item], count: int) -> Generator[_Item, None, None]:
    """The items, made by a thread that is at most `count` ahead; its errors are raised here.

    Close it after use, as `in_order`.
    """
    ready: Queue[tuple[_Item | None, BaseException | None, bool]] = Queue(count)
    stopped = Event()

    def put(entry: tuple[_Item | None, BaseException | None, bool]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item, None, False)):
                    return
            put((None, None, True))
        except BaseException as error:  # handed on, whatever it is
            put((None, error, True))

    maker = Thread(target=make, daemon=True)
    maker.start()
    try:
        while True:
            item, error, ended = ready.get()
            if error is not None:
                raise error
            if ended:
                return
            yield item  # type: ignore[misc]  # None alone where it ended
    finally:
        stopped.set()
        maker.join()
