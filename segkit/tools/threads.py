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


def each(work: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """``work`` of each item, in order, with a bar called ``what`` on a terminal.

    Threads, not processes: Pillow and zlib release the lock while they decode.

    Raises:
        DataError: What was wrong with any of the items, the first ten of them in words.
    """

    def caught(item: Item) -> tuple[Result | None, str | None]:
        try:
            return work(item), None
        except DataError as error:
            return None, str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done = list(tqdm(pool.map(caught, items), what, len(items), leave=False, disable=None))
    problems = [problem for _, problem in done if problem is not None]
    if problems:
        raise DataError(f"{len(problems)} of {len(items)} cannot be used:\n{first_ten(problems)}")
    return [result for result, _ in done]
