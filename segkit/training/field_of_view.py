"""What training sees of an image, and whether the model's atrous rates fit into it."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pkgutil import resolve_name
from statistics import median_low
from typing import Any

from omegaconf import DictConfig, open_dict

from segkit.config.schema import TrainConfig
from segkit.data.loader import Samples
from segkit.models.atrous import ATROUS_RATES, fitting_rates, misfit

NUM_SAMPLES = 8  # crops are all of one size, whole images of a few
NUM_LARGE = 64  # of which some are turned, or larger than others


def seen_sizes(
    samples: Samples, epoch: int, *, look_for_large: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the transforms of an epoch make of some images, as height and width in pixels.

    Args:
        samples: Of training.
        epoch: Whose transforms.
        look_for_large: At more images, for the largest; each is read and transformed.

    Returns:
        Their medians; and the size of a batch that holds the largest height and the largest width.
    """
    shapes = _shapes(samples, epoch, NUM_SAMPLES)
    medians = median_low(s[0] for s in shapes), median_low(s[1] for s in shapes)
    if look_for_large:
        shapes += _shapes(samples, epoch, NUM_LARGE)
    return medians, (max(s[0] for s in shapes), max(s[1] for s in shapes))


def _shapes(samples: Samples, epoch: int, count: int) -> list[tuple[int, ...]]:
    size = len(samples)
    indices = [i * size // count for i in range(count)] if size > count else range(size)
    return [samples.read(epoch, index)[0].shape for index in indices]


def complete_model(model: DictConfig, size: tuple[int, int]) -> None:
    """Write the size of what training sees, and the rates that fit it, where they are null.

    A model whose constructor does not take ``train_crop`` is left alone.

    Args:
        model: The node of a run that begins, changed in place.
        size: Height and width in pixels.
    """
    if "train_crop" not in inspect.signature(resolve_name(model["_target_"])).parameters:
        return
    with open_dict(model):
        if model.get("train_crop") is None:
            model.train_crop = list(size)
        if model.get("atrous_rates") is None:
            model.atrous_rates = list(fitting_rates(model.train_crop, *stride_and_scale(model)))


def atrous_rates(model: Mapping[Any, Any]) -> list[int] | None:
    """Those of a model's node; None of a model that has none, or other ones by that name."""
    if "atrous_rates" not in model:
        return None
    rates = model["atrous_rates"] or ATROUS_RATES.get(stride_and_scale(model)[0], ())
    rates = list(rates) if isinstance(rates, Sequence) else []
    return rates if rates and all(type(rate) is int for rate in rates) else None


def pixels_per_cell(model: Mapping[Any, Any]) -> Fraction:
    """Of the image, in a row of what the atrous rates are counted in."""
    stride, scale = stride_and_scale(model)
    return stride / Fraction(scale).limit_denominator(1000)


def stride_and_scale(model: Mapping[Any, Any]) -> tuple[int, float]:
    """Of a model's node, perhaps out of anybody's checkpoint: the usual ones if it has no such."""
    stride, scale = model.get("output_stride"), model.get("input_scale")
    return (
        stride if isinstance(stride, int) and stride > 0 else 16,
        scale if isinstance(scale, int | float) and 0.001 <= scale < math.inf else 1.0,
    )


def view_text(model: Mapping[Any, Any]) -> str:
    """Rates and crop of a model's node, for people."""
    rates = ", ".join(map(str, atrous_rates(model) or ()))
    stride, scale = stride_and_scale(model)
    text = f"atrous rates {rates} at output stride {stride}"
    if scale != 1:
        text += f" of images enlarged by {scale:g}"
    if model.get("train_crop") is None:
        return text
    height, width = model["train_crop"]
    return f"{text}, crops of {height} x {width}"


def view_warnings(
    model: Mapping[Any, Any],
    size: tuple[int, int],
    source: Mapping[Any, Any] | None,
    *,
    goes_on: bool,
) -> Iterator[str]:
    """What does not fit together, one line each.

    Args:
        model: The node of the model that is trained.
        size: Height and width in pixels of what training sees.
        source: The node of the model whose weights it starts from (``init_from``).
        goes_on: The run is resumed.
    """
    rates = atrous_rates(model)
    if rates is None:
        return
    if text := misfit(rates, size, *stride_and_scale(model), fixed=goes_on):
        yield text
    before = None if source is None else atrous_rates(source)
    if source is None or before is None:
        return
    reaches = [rate * pixels_per_cell(source) for rate in before]
    if reaches != [rate * pixels_per_cell(model) for rate in rates]:
        same = [reach / pixels_per_cell(model) for reach in reaches]
        keep = ",".join(str(rate) for rate in same)
        way = f"; 'model.atrous_rates=[{keep}]' keeps the rates"
        yield (
            f"init_from: its weights were trained with {view_text(source)}; this run has "
            f"{view_text(model)}. Branches of another rate look at other places and have to learn "
            f"anew{way if all(rate.denominator == 1 and rate > 0 for rate in same) else ''}"
        )
    elif list(source.get("train_crop") or size) != list(size):
        yield (
            f"init_from: its weights were trained with {view_text(source)}; this run trains on "
            f"{size[0]} x {size[1]}"
        )


def likely_causes(settings: TrainConfig, size: tuple[int, int], batch_size: int) -> str:
    """Why a score may fall while the loss does, and what to try, as one line.

    Args:
        settings: The configuration.
        size: Height and width in pixels of what training sees.
        batch_size: Images per step and process.
    """
    causes = []
    if settings.val.window.size is None:
        rates = settings.model.get("atrous_rates")
        what = f"atrous rates {', '.join(map(str, rates))}" if rates else "a larger field of view"
        causes.append(
            f"whole images beside crops of {size[0]} x {size[1]} and {what} "
            f"('val.window.size=[{size[0]},{size[1]}]' scores what training sees)"
        )
    causes.append(
        f"BatchNorm's statistics of {batch_size} images (a larger loader.batch_size, or "
        "model.freeze_bn=true)"
    )
    causes.append(f"the learning rate (optimizer.lr={settings.optimizer['lr'] / 3:.1g})")
    return "likely causes, the first that applies: " + "; ".join(causes)
