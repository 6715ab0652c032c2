"""The curves of a validation are those of the rarest classes, whether or not these were counted."""

from pathlib import Path

import numpy as np
import pytest
from scripts import SMALL, call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util


def curves(run: Path) -> dict[str, np.ndarray]:
    """Counts at each threshold by tag, of the last validation."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("val/pr/")]
    return {tag: tensor_util.make_ndarray(events.Tensors(tag)[-1].tensor_proto) for tag in tags}


@pytest.mark.slow
def test_counted_before_or_after_it_is_the_same(tmp_path: Path) -> None:
    runs = {}
    for check in ("true", "false"):
        done = call(
            "train.py",
            *(*SMALL, "trainer.max_epochs=1", "trainer.num_pr_curves=2"),
            *(f"data.check={check}", f"out_dir={check}"),
            cwd=tmp_path,
        )
        assert done.status == 0, done.err
        runs[check] = curves(tmp_path / check)
    assert len(runs["true"]) == 2
    assert runs["true"].keys() == runs["false"].keys()
    for tag, values in runs["true"].items():
        assert np.array_equal(values, runs["false"][tag]), tag
