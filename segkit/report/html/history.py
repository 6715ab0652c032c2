"""What the lines of ``metrics.jsonl`` say of a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

RISE = 0.05  # of the lowest validation loss: less is noise


def number(line: Mapping[str, Any], key: str) -> float | None:
    """A logged value; None if it was not logged, or is not finite."""
    value = line.get(key)
    is_finite = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_finite and value is not None else None


def rising_val_loss(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """What to say of a validation loss that rises while the training loss goes on falling.

    It has risen if the last two validations are both ``RISE`` above the lowest one, which came
    before them.

    Args:
        lines: Those of ``metrics.jsonl``, in the order of their epochs.

    Returns:
        The epochs, what that means, and what to do, after a lead that names the loss; None if it
        has not risen.
    """
    keys = ("val/loss", "train/loss")
    epochs = [line for line in lines if all(number(line, key) is not None for key in keys)]
    if len(epochs) < 3:
        return None
    best, last = min(epochs, key=lambda line: float(line["val/loss"])), epochs[-1]
    limit = best["val/loss"] + RISE * abs(best["val/loss"])
    later = epochs[epochs.index(best) + 1 :]
    has_risen = len(later) >= 2 and all(line["val/loss"] > limit for line in later[-2:])
    if not has_risen or last["train/loss"] >= best["train/loss"]:
        return None
    first = best["epoch"]
    return (
        f"It was lowest in epoch {first} ({best['val/loss']:.3g}) and rose to "
        f"{last['val/loss']:.3g} in epoch {last['epoch']}, while the training loss went on falling "
        f"from {best['train/loss']:.3g} to {last['train/loss']:.3g}: the network overfits since "
        f"epoch {first}. {_of_the_scores(epochs, best)}What helps is more training images, or "
        "augment=standard in place of light and none; "
        "trainer.patience=5 trainer.patience_monitor=val/loss ends such a run early, and "
        "trainer.monitor=val/loss keeps the epoch with the lowest loss as best.pt."
    )


def _of_the_scores(epochs: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str:
    """Whether the mIoU, too, was best where the loss was lowest."""
    then = number(best, "val/miou")
    scored = [line for line in epochs if number(line, "val/miou") is not None]
    if then is None or not scored:
        return ""
    top = max(scored, key=lambda line: float(line["val/miou"]))
    if top["epoch"] > best["epoch"] and top["val/miou"] > then:
        return (
            f"Its mIoU still rose, from {100 * then:.1f} % to {100 * top['val/miou']:.1f} % in "
            f"epoch {top['epoch']}: more pixels are right, but the model is too sure of those that "
            "are wrong. "
        )
    return f"Its mIoU was highest in epoch {top['epoch']} ({100 * top['val/miou']:.1f} %). "
