"""Trackio (``pip install trackio``): local unless ``TRACKIO_SPACE_ID`` says where to."""

import os
from collections.abc import Mapping
from uuid import uuid4

from segkit.training.loggers import PROJECT, LoggedRun


class Trackio:
    def __init__(self, run: LoggedRun) -> None:
        import trackio

        # Runs are known by their names there, and folders may share theirs.
        self.key = run.key or f"{run.folder.name}-{uuid4().hex[:6]}"
        self.stop = trackio.finish  # not the run's own, after which its end is told twice
        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT") or PROJECT,
            name=self.key,
            config=dict(run.config),
            resume="never" if run.key is None else "allow",
            embed=False,
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, results: Mapping[str, float], failed: bool) -> None:
        if results:
            self.run.log(dict(results))
        self.stop()


make = Trackio
