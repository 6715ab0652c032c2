"""A trained model for programs: images in, masks out."""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, TypeVar, overload

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from segkit.config.problems import checked, path_problems
from segkit.config.schema import InferenceOptions
from segkit.data.arrays import Image, Mask, Pixels
from segkit.data.decode import pixels_of, read_image
from segkit.data.levels import Range, to_bytes
from segkit.errors import ConfigError, DataError
from segkit.files import PathLike, user_path
from segkit.inference.loading import (
    OptionNames,
    brings_its_own,
    load_inference,
    read_checkpoints,
    saved_bits,
    saved_range,
)
from segkit.inference.predictor import STRIP, Inference
from segkit.metrics import best_class
from segkit.metrics.counting import row_strips
from segkit.runtime.device import pick_device
from segkit.text import join_lines

ImageLike = PathLike | NDArray[Any] | PIL.Image.Image
Probabilities = NDArray[np.float32]
Result = TypeVar("Result")


def load_model(
    checkpoint: PathLike | Sequence[PathLike],
    *,
    device: str = "auto",
    precision: str | None = None,
    weights: str = "auto",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | str | None = None,
    stride: tuple[int, int] | None = None,
    allow: Sequence[str] = (),
) -> "SegmentationModel":
    """A trained model, ready for images.

    Args:
        checkpoint: A .pt file or a run folder; several are an ensemble.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: Number format of the forward pass: auto, fp32, bf16 or fp16; None is what the
            run used, or ``auto`` if those were fewer bits on another kind of device.
        weights: ``raw``, ``ema`` (the average), or ``auto``: those that the run validated.
        scales: Scales of the image; the mean of the probabilities counts.
        flip: Predict the mirror image too.
        window: Height and width of windows that slide over the image, or ``whole``; None takes
            what the run validated in.
        stride: From one window to the next; None is the run's, or two thirds of ``window``.
        allow: Your own modules that the checkpoint may name. Without them it can name segkit's
            alone, so that a file from a stranger runs no code of theirs.

    Raises:
        CheckpointError: Damaged, or no checkpoint of segkit.
        ConfigError: No such file, or an impossible setting.
    """
    alone = isinstance(checkpoint, str | os.PathLike)
    paths: list[Any] = [checkpoint] if alone else _listed("checkpoint", checkpoint)
    if wrong := [path for path in paths if not isinstance(path, str | os.PathLike)]:
        raise ConfigError(f"checkpoint={wrong[0]!r}: expected a path")
    found = (path_problems(f"checkpoint={path}", str(path), exists=True) for path in paths)
    if problems := list(chain.from_iterable(found)):
        raise ConfigError(join_lines(problems))
    if not isinstance(flip, bool):
        raise ConfigError(f"flip={flip!r}: expected True or False")
    given = {
        "device": str(device),  # torch's own object too
        "precision": precision,
        "weights": weights,
        "scales": _listed("scales", scales),
        "flip": flip,
        "window": window if window in (None, "whole") else _listed("window", window),
        "stride": None if stride is None else _listed("stride", stride),
        "allow": _listed("allow", allow),
    }
    options = checked(InferenceOptions, given)
    return open_model([str(user_path(path)) for path in paths], options, OptionNames())


def _listed(name: str, values: Any) -> list[Any]:
    """The values one by one; a ConfigError for a number, or a text, which is no list of letters."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name}={values!r}: expected a list or a tuple")
    return list(values)


def open_model(
    checkpoint: str | Sequence[str], options: InferenceOptions, names: OptionNames
) -> "SegmentationModel":
    """:func:`load_model` with options that were checked before.

    Args:
        checkpoint: A .pt file or a run folder; several are an ensemble.
        options: How it computes.
        names: What messages call the options.
    """
    checkpoints = read_checkpoints(checkpoint)
    if not checkpoints:
        raise ConfigError("checkpoint=[]: expected at least one .pt file or run folder")
    metadata = checkpoints[0].metadata
    inference = load_inference(checkpoints, options, pick_device(options.device), names)
    return SegmentationModel(
        inference,
        metadata.classes,
        metadata.colors,
        saved_range(metadata),
        saved_bits(metadata),
    )


class SegmentationModel:
    """What :func:`load_model` returns. Several threads may use one at the same time.

    An image is a path, an array uint8 (H, W, 3) RGB or (H, W) grey, or an image of Pillow; of any
    size. The EXIF orientation is applied, as training does. A list of images gives a list; each
    is computed alone, so that a result does not depend on its neighbours. A model that was trained
    with ``data.range`` takes arrays of other numbers too, and applies its range to all that it is
    given. One that was trained on another number of channels takes arrays (H, W, channels).

    Args:
        inference: What computes the scores.
        classes: Names in index order.
        palette: RGB of each class, uint8 (256, 3).
        value_range: The numbers in images that become 0 and 255; None is all of their type.
        bits: 8 or 16, of each channel as the network sees it.
    """

    def __init__(
        self,
        inference: Inference,
        classes: Sequence[str],
        palette: Image,
        value_range: Range | None = None,
        bits: int = 8,
    ) -> None:
        self.inference = inference
        self.classes = list(classes)
        self.palette = palette
        self.value_range, self.bits = value_range, bits
        self.channels = len(inference.normalize.mean)

    @overload
    def predict(self, image: ImageLike) -> Mask: ...
    @overload
    def predict(self, image: list[ImageLike] | tuple[ImageLike, ...]) -> list[Mask]: ...
    def predict(
        self, image: ImageLike | list[ImageLike] | tuple[ImageLike, ...]
    ) -> Mask | list[Mask]:
        """The most probable class of every pixel: uint8 (H, W), int64 with more than 256 classes.

        Raises:
            DataError: A file that cannot be read, or an object of another kind.
            CheckpointError: The network computes NaN or infinity for it.
        """
        return _each(image, lambda one: self.compute(self.to_pixels(one), name=name_of(one))[0])

    @overload
    def probabilities(self, image: ImageLike) -> Probabilities: ...
    @overload
    def probabilities(
        self, image: list[ImageLike] | tuple[ImageLike, ...]
    ) -> list[Probabilities]: ...
    def probabilities(
        self, image: ImageLike | list[ImageLike] | tuple[ImageLike, ...]
    ) -> Probabilities | list[Probabilities]:
        """Of every class at every pixel: float32 (C, H, W), which sum to 1 over the classes.

        Raises:
            DataError: As :meth:`predict`.
            CheckpointError: The network computes NaN or infinity for it.
        """

        def one_image(one: ImageLike) -> Probabilities:
            probs = self.compute(self.to_pixels(one), with_probs=True, name=name_of(one))[1]
            assert probs is not None
            return probs

        return _each(image, one_image)

    def to_pixels(self, given: ImageLike, name: str = "the image") -> Pixels:
        """An image of any kind as the network's, as uint8 (H, W, 3) RGB; see :func:`to_pixels`."""
        with brings_its_own(self.inference.source):
            return to_pixels(given, self.value_range, name, self.channels, self.bits)

    @torch.no_grad()
    def compute(
        self, pixels: Pixels, *, with_probs: bool = False, name: str = "the image"
    ) -> tuple[Mask, Probabilities | None]:
        """Mask (H, W) and on request probabilities (C, H, W) of :meth:`to_pixels`.

        On the device the scores of all classes exist only for the rows that are computed together.

        Raises:
            CheckpointError: The logits are not finite; says so of ``name``.
        """
        height, width = pixels.shape[:2]
        # Writable and in order, which torch.from_numpy asks for.
        pixels = np.require(pixels, requirements=["C", "W"])
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.inference.precision.device)
        num_classes = len(self.classes)
        mask = np.empty((height, width), np.uint8 if num_classes <= 256 else np.int64)
        probs = np.empty((num_classes, height, width), np.float32) if with_probs else None
        for block, scores in self.inference.row_blocks(image, name):
            mask[block] = best_class(scores)[1][0].cpu().numpy()
            if probs is None:
                continue
            for rows in row_strips(block, num_classes * width, STRIP):
                part = scores[:, :, rows.start - block.start : rows.stop - block.start]
                probs[:, rows] = self.inference.comparable(part).softmax(1)[0].cpu().numpy()
        return mask, probs


def name_of(given: ImageLike) -> str:
    """What messages call it."""
    return str(given) if isinstance(given, str | os.PathLike) else "the image"


def to_pixels(
    given: ImageLike,
    value_range: Range | None = None,
    name: str = "the image",
    channels: int = 3,
    bits: int = 8,
) -> Pixels:
    """An image of any kind as uint8 (H, W, 3) RGB, or of other channels and bits.

    Args:
        image: As for :class:`SegmentationModel`.
        value_range: ``data.range`` of the model.
        name: What errors call it.
        channels: Of the result.
        bits: 8 or 16, of the result.

    Raises:
        DataError: A file that cannot be read, or an object of another kind.
    """
    if isinstance(given, PIL.Image.Image):
        return pixels_of(given, name, None, value_range, channels, bits)
    if isinstance(given, str | os.PathLike):
        return read_image(user_path(given), None, value_range, channels, bits)
    if not isinstance(given, np.ndarray):
        raise DataError(
            f"{name} is a {type(given).__name__}; expected a path, an array uint8 (H, W, 3), "
            "or an image of Pillow"
        )
    shape = given.shape
    full = {"uint8": 255, "uint16": 65535}.get(given.dtype.name)
    taken = given.dtype == np.uint8 or (bits == 16 and full is not None)
    taken |= value_range is not None and given.dtype.kind in "iuf"
    grey = given.ndim == 2 and channels in (1, 3)
    if not taken or 0 in shape or not (grey or shape[2:] == (channels,)):
        expected = "uint8 (H, W, 3) in the order red, green, blue (OpenCV: image[..., ::-1]), or"
        expected = f"{expected} grey (H, W)"
        if channels != 3:
            expected = f"uint8 (H, W, {channels}), of which the network was trained with data.mean"
        raise DataError(f"{name} is an array of {given.dtype} {shape}; expected {expected}")
    pixels = to_bytes(given, full, value_range, name, bits)
    return np.repeat(pixels[..., None], channels, axis=2) if pixels.ndim == 2 else pixels


def _each(
    image: ImageLike | list[ImageLike] | tuple[ImageLike, ...], work: Callable[[ImageLike], Result]
) -> Result | list[Result]:
    if isinstance(image, list | tuple):
        return [work(one) for one in image]
    return work(image)
