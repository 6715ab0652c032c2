"""Patience with a value that does not improve: counts that can be redone by hand."""

import pytest
from composed import config
from omegaconf import DictConfig

from segkit.config.schema import TrainConfig, less_is_better, to_settings
from segkit.errors import ConfigError
from segkit.training.monitor import EarlyStopping, Monitor


def settings_of(*arguments: str) -> TrainConfig:
    found = config("train", *arguments)
    assert isinstance(found, DictConfig), found
    found.data.classes = ["a", "b"]
    return to_settings(TrainConfig, found)


def waits(patience: EarlyStopping, values: list[float | None]) -> list[int]:
    found = []
    for value in values:
        patience.update(value)
        found.append(patience.waited)
    return found


def test_patience_counts_validations_without_improvement() -> None:
    patience = EarlyStopping("val/miou", "max", patience=3)
    assert waits(patience, [0.5, 0.4, 0.5, 0.6, 0.6]) == [0, 1, 2, 0, 1]
    assert not patience.exhausted
    assert waits(patience, [0.1, 0.6]) == [2, 3]
    assert patience.exhausted
    assert patience.best == 0.6


def test_patience_for_a_loss() -> None:
    assert waits(EarlyStopping("val/loss", "min", 3), [2.0, 1.0, 1.5, 0.5]) == [0, 0, 1, 0]


def test_small_gains_do_not_count_but_add_up() -> None:
    patience = EarlyStopping("val/miou", "max", patience=9, min_delta=0.25)
    # 0.25 more is not enough; 0.5 more than the best that counted is.
    assert waits(patience, [0.0, 0.25, 0.5, 0.625, 1.0]) == [0, 1, 0, 1, 0]
    patience = EarlyStopping("val/loss", "min", patience=9, min_delta=0.25)
    assert waits(patience, [1.0, 0.75, 0.5]) == [0, 1, 0]


def test_no_value_is_no_improvement() -> None:
    patience = EarlyStopping("val/iou/pole", "max", patience=9)
    nan = float("nan")
    assert waits(patience, [None, nan, 0.1, None, nan, 0.2]) == [1, 2, 0, 1, 2, 0]


def test_patience_goes_on_after_a_resume() -> None:
    patience = EarlyStopping("val/miou", "max", patience=3)
    waits(patience, [0.5, 0.4])
    resumed = EarlyStopping("val/miou", "max", patience=3)
    resumed.load_state_dict(patience.state_dict())
    assert waits(resumed, [0.45, 0.5]) == [2, 3]
    other = EarlyStopping("val/loss", "min", patience=3)
    other.load_state_dict(patience.state_dict())
    assert waits(other, [1.2, 1.3]) == [0, 1]


def test_the_best_is_not_chosen_by_weights_that_are_not_used() -> None:
    """best.pt is used with the average, and used to be the best of the others."""
    given = ("trainer.ema_decay=0.99", "trainer.patience=2")
    settings = settings_of(*given, "trainer.monitor=val_raw/miou")
    with pytest.raises(
        ConfigError, match=r"monitor=val_raw/miou: best\.pt is used with the average"
    ):
        Monitor.of(settings)
    way_out = settings_of(*given, "trainer.patience_monitor=val_raw/miou")
    patience = Monitor.of(way_out).patience
    assert patience is not None
    assert patience.monitor == "val_raw/miou"


@pytest.mark.parametrize(
    ("monitor", "less"),
    [
        ("val/loss", True),
        ("val_raw/loss", True),
        ("train/loss/dice", True),
        ("val/miou", False),
        ("val/iou/blossom", False),
        ("val/iou/forest_loss", False),
    ],
)
def test_a_class_may_be_called_as_if_it_were_a_loss(monitor: str, less: bool) -> None:
    assert less_is_better(monitor) == less
