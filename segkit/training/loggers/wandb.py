"""Weights & Biases (``pip install wandb``); ``WANDB_MODE=offline`` sends nothing."""

import os
from collections.abc import Mapping

from segkit.training.loggers import PROJECT, LoggedRun


class WandB:
    def __init__(self, run: LoggedRun) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.folder.name,
            dir=run.folder,
            config=dict(run.config),
            id=run.key,
            resume="allow",
            settings=wandb.Settings(console="off"),  # train.log has it, and it takes over stdout
        )
        self.key = str(self.run.id)
        # Its own count of steps would drop those that a resumed run makes again.
        self.run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "step": step})

    def finish(self, results: Mapping[str, float], failed: bool) -> None:
        self.run.summary.update(dict(results))
        self.run.finish(exit_code=int(failed))


make = WandB
