"""Validation: what it takes beside the forward pass of the network."""

from collections.abc import Iterator
from functools import partial

import torch

from gpu_parts import Cases, Options, Row
from gpu_parts.measure import ROUNDS, measure
from gpu_parts.training import CLASSES, TRIO, random_images, train
from segkit.data.loader import Batch
from segkit.metrics import PRCurves
from segkit.training.validation import Prediction, evaluate

IMAGES, LOADED = 200, 8
DRAWN = [0, 1, 2]


def cases(options: Options) -> Cases:
    every = [(classes, curves) for classes in (CLASSES, 150) for curves in (False, True)]
    return {
        f"{classes} classes{', three PR curves' * curves}": partial(row, options, classes, curves)
        for classes, curves in every
    }


def row(options: Options, classes: int, curves: bool) -> Iterator[Row]:
    backbone, precision = options.backbones[:2][-1], options.precisions[0]
    choice = (f"model/backbone={backbone}", f"trainer.precision={precision}", TRIO)
    training = train(options, *choice, f"model.num_classes={classes}")
    batches = host_batches(options, classes)
    step, model = training.step, training.model.eval()
    counts = PRCurves(classes, 255, classes=DRAWN)

    def on_image(image: Prediction) -> None:
        counts.update(image.logits, image.batch.target)

    def validate(loads: int) -> None:
        evaluate(
            model,
            [batches[i % len(batches)] for i in range(loads)],
            step,
            num_classes=classes,
            ignore_index=255,
            on_image=on_image if curves else None,
        )

    @torch.no_grad()
    def network(loads: int) -> None:
        for i in range(loads * LOADED):
            image = batches[0].image[i % LOADED : i % LOADED + 1].to(step.precision.device)
            with step.precision.autocast():
                model(step.normalize(image))

    makers = {"validation": lambda: validate, "network": lambda: network}
    found = measure(options, makers, block=IMAGES // LOADED // ROUNDS)
    whole, alone = found["validation"], found["network"]
    yield {
        "images/s": 1e3 * LOADED / whole.ms,
        "ms an image": whole.ms / LOADED,
        "network ms": alone.ms / LOADED,
        "beside the network %": 100 * (whole.ms / alone.ms - 1),
        "MiB": whole.mib,
        "network MiB": alone.mib,
    }


def host_batches(options: Options, classes: int) -> list[Batch]:
    """Two loads, pinned where a device takes them from."""
    image, target = random_images(2 * LOADED, (options.size, options.size), classes)
    ids = tuple(map(str, range(LOADED)))
    loads = [Batch(image[i : i + LOADED], target[i : i + LOADED], ids) for i in (0, LOADED)]
    return [load.pin_memory() for load in loads] if options.device == "cuda" else loads
