"""Work on many files at once, with a bar, and with every problem of every file."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from segkit.data.contract import first_ten
from segkit.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        done = pool.map(caught, items)
        disable = None if progress else True  # None: shown on a terminal only
        return list(tqdm(done, what, len(items), leave=False, disable=disable))


def each(work: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """``work`` of each item, in order, with a bar called ``what`` on a terminal.

    Raises:
        DataError: What was wrong with any of the items, the first ten of them in words.
    """
    done = attempt(work, items, what)
    problems = [str(one) for one in done if isinstance(one, DataError)]
    if problems:
        raise DataError(f"{len(problems)} of {len(items)} cannot be used:\n{first_ten(problems)}")
    return [one for one in done if not isinstance(one, DataError)]
