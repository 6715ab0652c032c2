"""MLflow (``pip install mlflow``): a local data base unless ``MLFLOW_TRACKING_URI`` says where."""

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from segkit.training.loggers import PROJECT, LoggedRun

MOST = 500  # metrics in one call; it takes 1000
RETRIES = "4"  # of a call to a server that is not there: half a minute, not four


class MLflow:
    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        import mlflow
        from mlflow.entities import Metric, Param

        self.client: Any = mlflow.MlflowClient()
        self.metric = Metric
        if run.key is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
            found = self.client.get_experiment_by_name(name)
            place = self.client.create_experiment(name) if found is None else found.experiment_id
            self.key = str(self.client.create_run(place, run_name=run.folder.name).info.run_id)
            params = [Param(name, str(value)) for name, value in run.settings.items()]
            self.client.log_batch(self.key, params=params)
        else:
            self.key = run.key
            self.client.update_run(self.key, status="RUNNING")
        self.client.log_dict(self.key, dict(run.config), "config.yaml")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        found = [self.metric(allowed(name), v, now, step) for name, v in values.items()]
        for start in range(0, len(found), MOST):
            self.client.log_batch(self.key, metrics=found[start : start + MOST])

    def finish(self, results: Mapping[str, float], failed: bool) -> None:
        self.scalars(results, 0)
        self.client.set_terminated(self.key, "FAILED" if failed else "FINISHED")


def allowed(name: str) -> str:
    """A name that MLflow takes: class names may hold anything, and it stores some as paths."""
    return re.sub(r"/{2,}", "/", re.sub(r"[^\w /-]", "_", name)).strip("/")


make = MLflow
