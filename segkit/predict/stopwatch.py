"""How long the parts of the work take."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from segkit.text import throughput

PERCENTILES = (50, 90, 99)


class Stopwatch:
    """Notes the seconds that each part of the work took, every time::

    watch = Stopwatch()
    with watch("read"):
        ...
    watch.seconds["read"]  # [0.012]
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """What raises is not noted."""
        started = time.perf_counter()
        yield
        self.seconds[part].append(time.perf_counter() - started)

    def summary(self, part: str) -> dict[str, float]:
        """``count``, ``images_per_second`` and ``p50``, ``p90``, ``p99`` in seconds."""
        seconds = self.seconds[part]
        values = np.percentile(seconds, PERCENTILES).tolist()
        return {
            "count": len(seconds),
            "images_per_second": len(seconds) / sum(seconds),
            **{f"p{p}": value for p, value in zip(PERCENTILES, values, strict=True)},
        }

    def text(self, where: str) -> str:
        """Two lines for people: the prediction, and what stands around it.

        Args:
            where: The device and what else the numbers depend on.
        """
        found = self.summary("predict")
        latencies = ", ".join(f"p{p} {1000 * found[f'p{p}']:.1f} ms" for p in PERCENTILES)
        around = ", ".join(
            f"{part} {1000 * self.summary(part)['p50']:.1f} ms"
            for part in ("read", "write")
            if self.seconds[part]
        )
        return (
            f"prediction alone, {found['count']:.0f} times after a warm-up ({where}): {latencies}; "
            f"{throughput(found['images_per_second'])}\n"
            f"beside it, per image (p50): {around}"
        )
