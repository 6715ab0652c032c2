"""What scores cost beside the network that they are of: CPU time and memory, in one run.

    python benchmarks/scores.py

Each round times the network, then all that is measured of its logits, so that a busy machine slows
both. Prints Markdown tables of medians; one thread, made-up masks of patches.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.nn import functional as F

from segkit.data.loader import Batch
from segkit.data.masks import voc_palette
from segkit.evaluation.measures import Measures
from segkit.inference.held_bytes import HeldBytes
from segkit.inference.predictions import PredictedMask, predict_masks
from segkit.inference.predictor import Inference
from segkit.losses import CrossEntropyLoss
from segkit.metrics import ConfusionMatrix, PRCurves, best_class
from segkit.models import DeepLabV3Plus
from segkit.models.backbones import MobileNet
from segkit.models.normalize import Normalize
from segkit.report.html.findings import Findings
from segkit.report.image_result import ImageResult
from segkit.runtime.device import Precision
from segkit.runtime.memory import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))
from report_pages import answers

CPU = Precision("fp32", torch.device("cpu"))
SIZES = ((11, 360, 480), (21, 512, 512), (150, 512, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=101, help="that a report is made of")
    parser.add_argument("--dense", action="store_true", help="model.separable=false")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    keep_freed_memory()
    print("| classes, size | logits | " + " | ".join(NAMES) + " | curves' memory |")
    print("| --- " * (len(NAMES) + 3) + "|")
    for size in SIZES:
        for layout in (torch.channels_last, torch.contiguous_format):
            row(*size, args.rounds, not args.dense, layout)
    report(args.images, args.rounds, not args.dense)


LAYOUTS = {torch.channels_last: "channels last", torch.contiguous_format: "planes"}
NAMES = ("network, ms", "matrix + loss", "curves", "(a share)", "evaluate", "(a share)")


def row(
    num_classes: int,
    height: int,
    width: int,
    rounds: int,
    separable: bool,
    layout: torch.memory_format,
) -> None:
    network = DeepLabV3Plus(MobileNet("mobilenet_v2"), num_classes, separable=separable)
    inference = Inference(
        network.to(memory_format=torch.channels_last), Normalize((0.5,) * 3, (0.25,) * 3), CPU
    )
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, height, width)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    coarse = torch.randn(1, num_classes, height // 16, width // 16, generator=generator)
    logits = F.interpolate(3 * coarse, (height, width), mode="bilinear")
    patches = torch.randint(0, num_classes, (1, 1, height // 40, width // 40), generator=generator)
    target = F.interpolate(patches.float(), (height, width), mode="nearest")[0].to(torch.uint8)
    target[:, :8] = 255
    logits = logits.to(memory_format=layout)
    batch, loss_fn = Batch(image, target, ("image",)), CrossEntropyLoss()

    class Known:
        """Scores that cost nothing: what is timed is the rest of an evaluation."""

        precision = CPU

        def row_blocks(self, image: torch.Tensor, name: str) -> list[tuple[slice, torch.Tensor]]:
            return [(slice(0, height), logits)]

    def evaluate() -> PredictedMask:
        (mask,) = predict_masks(Known(), [batch])  # type: ignore[arg-type]
        measures.update(mask)
        return mask

    def matrix_and_loss() -> None:
        matrix.update(best_class(logits)[1], target)
        loss_fn(logits, target.long())

    matrix, curves = ConfusionMatrix(num_classes), PRCurves(num_classes, classes=[1, 2, 3])
    measures = Measures(num_classes, 255, trimap_widths=[5])
    net, plain, curve, scores = interleaved(
        [
            lambda: inference(image),
            matrix_and_loss,
            lambda: curves.update(logits, target),
            evaluate,
        ],
        rounds,
    )
    with HeldBytes() as whole:
        found = inference(image).contiguous(memory_format=layout)
        loss_fn(found, target.long())
    with HeldBytes() as held:
        found = inference(image).contiguous(memory_format=layout)
        loss_fn(found, target.long())
        curves.update(found, target)
    print(
        f"| {num_classes}, {height} x {width} | {LAYOUTS[layout]} | {net:.0f} | {plain:.0f} | "
        f"{curve:.1f} | {curve / (net + plain):.1%} | {scores:.1f} | {scores / net:.1%} | "
        f"{held.peak / whole.peak:.2f} x |",
        flush=True,
    )


def report(images: int, rounds: int, separable: bool) -> None:
    num_classes, height, width = SIZES[0]
    network = DeepLabV3Plus(MobileNet("mobilenet_v2"), num_classes, separable=separable).eval()
    network.to(memory_format=torch.channels_last)
    pixels = torch.randn(1, 3, height, width).to(memory_format=torch.channels_last)
    findings = Findings(num_classes, 255, voc_palette())
    results, spent, net = [made_up(n) for n in range(images)], [], []
    network(pixels)
    for result in results:
        start = time.thread_time()
        findings.update(result)
        spent.append(time.thread_time() - start)
        if len(net) < rounds:
            net.append(timed(lambda: network(pixels)))
    start = time.thread_time()
    cards, crops = findings.cards([0.5] * num_classes), findings.doubted()
    end = time.thread_time() - start
    share = (sum(spent) + end) / images / median(net)
    print(
        f"\nReport of {images} images, {num_classes} classes, {height} x {width}: "
        f"{1e3 * sum(spent) / images:.1f} ms an image and {1e3 * end:.0f} ms for the images of "
        f"{len(cards)} images and {len(crops)} regions, {share:.1%} of the network in all; the "
        f"last ten images took {1e3 * sum(spent[-10:]) / 10:.1f} ms each."
    )


def made_up(number: int) -> ImageResult:
    """An image of patches, of which a network gets some blocks wrong."""
    num_classes, height, width = SIZES[0]
    rng = np.random.default_rng(number)
    patches = rng.integers(0, num_classes, (height // 40, width // 40))
    target = np.kron(patches, np.ones((40, 40))).astype(np.uint8)
    pred, confidence, own = answers(target, num_classes, rng, wrong=0.02)
    target[:8] = 255
    small = rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    image = small.repeat(8, 0).repeat(8, 1)
    return ImageResult(f"{number}", image, target, pred.astype(np.int16), confidence, own)


def interleaved(parts: list[Callable[[], object]], rounds: int) -> list[float]:
    """Milliseconds of CPU time of each part: medians of rounds that take one after the other."""
    found: list[list[float]] = [[] for _ in parts]
    for number in range(rounds + 1):
        for values, part in zip(found, parts, strict=True):
            spent = timed(part)
            if number:  # the first one warms up
                values.append(1e3 * spent)
    return [median(values) for values in found]


def timed(part: Callable[[], object]) -> float:
    start = time.thread_time()
    part()
    return time.thread_time() - start


if __name__ == "__main__":
    main()
