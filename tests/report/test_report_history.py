"""What a report says of a run by what it logged."""

from pathlib import Path
from typing import Any

import pytest

from segkit.report.html.history import rising_val_loss
from segkit.runs.metrics_csv import read_epochs


def run(*epochs: tuple[float | None, float | None, float | None]) -> list[dict[str, Any]]:
    """Lines of a log: training loss, validation loss and mIoU of each epoch."""
    keys = ("train/loss", "val/loss", "val/miou")
    return [
        {"epoch": number, **dict(zip(keys, values, strict=True))}
        for number, values in enumerate(epochs, start=1)
    ]


OVERFITS = run((0.9, 0.8, 0.5), (0.6, 0.5, 0.6), (0.4, 0.6, 0.58), (0.3, 0.7, 0.57))


def test_a_torn_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"epoch": 1, "lr": 0.1}\n{"epoch": 2, "l')
    assert read_epochs(tmp_path / "m.jsonl") == [{"epoch": 1, "lr": 0.1}]
    assert read_epochs(tmp_path / "no.jsonl") == []


def test_a_validation_loss_that_rises_is_told_with_its_epochs() -> None:
    assert rising_val_loss(OVERFITS) == (
        "It was lowest in epoch 2 (0.5) and rose to 0.7 in epoch 4, while the "
        "training loss went on falling from 0.6 to 0.3: the network overfits since epoch 2. Its "
        "mIoU was highest in epoch 2 (60.0 %). What helps is more training images, or "
        "augment=standard in place of light and none; trainer.patience=5 "
        "trainer.patience_monitor=val/loss ends such a run early, and trainer.monitor=val/loss "
        "keeps the epoch with the lowest loss as best.pt."
    )


def test_a_score_that_still_rose_is_told_too() -> None:
    lines = [*OVERFITS[:3], {**OVERFITS[3], "val/miou": 0.65}]
    found = rising_val_loss(lines)
    assert found and "Its mIoU still rose, from 60.0 % to 65.0 % in epoch 4: more pixels" in found


def test_epochs_without_a_validation_are_left_out() -> None:
    between = [
        {"epoch": 2.5, "train/loss": 0.5},
        {"epoch": 2.7, "train/loss": 0.5, "val/loss": None},
    ]
    assert rising_val_loss([*OVERFITS[:2], *between, *OVERFITS[2:]]) == rising_val_loss(OVERFITS)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"epoch": 1, "lr": 0.1}],
        OVERFITS[:3],  # one validation is no trend
        run((0.9, 0.8, 0.5), (0.6, 0.5, 0.6), (0.4, 0.51, 0.6), (0.3, 0.52, 0.6)),  # noise
        run((0.9, 0.8, 0.5), (0.6, 0.5, 0.6), (0.4, 0.9, 0.6), (0.3, 0.51, 0.6)),  # one epoch
        run((0.3, 0.8, 0.5), (0.3, 0.5, 0.6), (0.4, 0.6, 0.6), (0.5, 0.7, 0.6)),  # it diverges
        run((0.9, 0.8, 0.5), (0.6, 0.7, 0.6), (0.4, 0.6, 0.6), (0.3, 0.5, 0.6)),  # it falls
        run((0.9, 0.8, 0.5), (0.6, float("nan"), 0.6), (0.4, None, 0.6), (0.3, 0.7, 0.6)),
    ],
)
def test_nothing_is_said_of_other_runs(lines: list[dict[str, Any]]) -> None:
    assert rising_val_loss(lines) is None
