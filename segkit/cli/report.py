"""Several processes that find the same wrong: the first one tells it, the others end in silence."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from segkit.ending import ending

PATIENCE = 10.0
"""Seconds for the first process of torchrun's to tell what is wrong; it ends the others then."""


def end_in_silence() -> NoReturn:
    """The end of a process whose error another one tells; not before that one has done so."""
    time.sleep(PATIENCE)
    raise SystemExit(1) from None


@contextmanager
def report_once() -> Iterator[None]:
    """What fails in here fails in every process alike: the first one on each machine tells it.

    Later, when the processes are connected, an error that all of them have arrives as a
    :class:`~segkit.errors.MainProcessError` in all but the first.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        is_mistake = getattr(error, "code", 1) and ending.received is None
        if is_mistake and os.environ.get("LOCAL_RANK", "0") != "0":
            end_in_silence()
        raise
