"""Work on many files at once, with a bar, and with every problem of every file."""

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from segkit.errors import DataError
from segkit.text import bullet_list

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failed(NamedTuple):
    """A defect in a thread, on its way to the one that waits."""

    error: BaseException


def attempt(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    *,
    num_threads: int | None = None,
    progress: bool = True,
) -> list[Result | DataError]:
    """``work`` of each item, in order, or the DataError that it raised.

    Threads, not processes: Pillow and zlib release the lock while they decode.

    Args:
        work: Called in any order.
        items: What it is called with.
        what: Name of the bar.
        num_threads: By default one per core, at most 8.
        progress: Show the bar if the standard error stream is a terminal.
    """

    def caught(item: Item) -> Result | DataError:
        try:
            return work(item)
        except DataError as error:
            return error

    if num_threads is None:
        num_threads = min(8, os.cpu_count() or 1)
    results: list[Any] = [None] * len(items)
    todo, turn = iter(range(len(items))), threading.Lock()
    done: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    stopped = threading.Event()

    def work_off() -> None:
        while not stopped.is_set():
            with turn:
                index = next(todo, None)
            if index is None:
                return
            try:
                done.put((index, caught(items[index])))
            except BaseException as error:
                done.put((index, Failed(error)))

    # Not a pool of the standard library: Ctrl-C would wait there until each file that was started
    # is read, and the end of the program again.
    threads = [threading.Thread(target=work_off, daemon=True) for _ in range(max(num_threads, 1))]
    for thread in threads:
        thread.start()
    try:
        disable = None if progress else True  # None: shown on a terminal only
        for _ in tqdm(items, what, leave=False, disable=disable):
            index, result = done.get()
            if isinstance(result, Failed):
                raise result.error
            results[index] = result
    finally:
        stopped.set()
    for thread in threads:
        thread.join()
    return results


def map_parallel(work: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """``work`` of each item, in order, with a bar called ``what`` on a terminal.

    Raises:
        DataError: What was wrong with any of the items, the first ten of them listed.
    """
    done = attempt(work, items, what)
    problems = [str(one) for one in done if isinstance(one, DataError)]
    if problems:
        raise DataError(f"{len(problems)} of {len(items)} cannot be used:\n{bullet_list(problems)}")
    return [one for one in done if not isinstance(one, DataError)]
