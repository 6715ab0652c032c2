"""How often intervals and p values of few images are right: ``python benchmarks/intervals.py``.

Draws splits of images from populations whose true scores are known, and counts how often a 95 %
interval of the mean IoU holds the true value, and how often two models that are equally good have
p < 0.05. Beside what segkit does stand percentiles of a bootstrap, and its bias-corrected and
accelerated form (BCa; Efron 1987). ``--repeats 1000`` gives the table of docs/metrics.md.
"""

import argparse
import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from segkit.metrics import difference_intervals, iou_intervals, swap_p_values
from segkit.metrics.uncertainty import iou_of_sums

PIXELS = 100_000  # of an image
NUM_IMAGES = (2, 3, 5, 10, 20, 30, 100)
DRAWS = 1000


def street(count: int, random: torch.Generator) -> Tensor:
    """Shares of 8 classes, common to very rare, of which every image shows something."""
    return dirichlet(torch.tensor([8, 6, 4, 2, 1, 0.5, 0.3, 0.2]).expand(count, 8), random)


def objects(count: int, random: torch.Generator) -> Tensor:
    """A background, and one or two of 5 classes in each image, as in VOC."""
    order = torch.rand(count, 5, generator=random).argsort(1).argsort(1)
    number = torch.randint(1, 3, (count, 1), generator=random)
    there = torch.cat([torch.ones(count, 1, dtype=torch.bool), order < number], dim=1)
    shares = dirichlet(torch.tensor([6.0, 1, 1, 1, 1, 1]).expand(count, 6), random) * there
    return shares / shares.sum(1, keepdim=True)


def binary(count: int, random: torch.Generator) -> Tensor:
    """A tenth of foreground, more or less."""
    return dirichlet(torch.tensor([9.0, 1.0]).expand(count, 2), random)


KINDS: tuple[Callable[[int, torch.Generator], Tensor], ...] = (street, objects, binary)


def dirichlet(alpha: Tensor, random: torch.Generator) -> Tensor:
    drawn = torch._standard_gamma(alpha.double(), generator=random).clamp(min=1e-30)
    return drawn / drawn.sum(1, keepdim=True)


def two_models(
    kind: Callable[[int, torch.Generator], Tensor], count: int, random: torch.Generator
) -> list[Tensor]:
    """Counts float64 (count, 3, C) of images by two models that are equally good.

    An image is as hard for one as for the other; what is left differs at random.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    shares = kind(count, random)
    num_classes = shares.shape[1]
    skill = torch.linspace(2.5, 0.3, num_classes, dtype=torch.float64) + normal(count, 1)
    found = []
    for _ in range(2):
        hits = shares * (skill + 0.5 * normal(count, num_classes)).sigmoid()
        # Where the others go: to what the image shows, and a little to anything.
        place = 0.7 * shares + 0.3 * dirichlet(torch.full_like(shares, 0.5), random)
        others = place[:, None] * (1 - torch.eye(num_classes))
        wrong = ((shares - hits)[:, :, None] * others / others.sum(2, keepdim=True)).sum(1)
        counts = torch.stack([hits, shares, hits + wrong], dim=1)
        found.append((PIXELS * counts).round())
    return found


def bootstrap(counts: Tensor, random: torch.Generator) -> Tensor:
    """Mean IoU of splits drawn from the images, (DRAWS,)."""
    drawn = torch.randint(len(counts), (DRAWS, len(counts)), generator=random)
    return iou_of_sums(counts[drawn].sum(1))[:, 0]


def percentiles(draws: Tensor) -> tuple[float, float]:
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return low, high


def bca(counts: Tensor, draws: Tensor) -> tuple[float, float]:
    normal = NormalDist()
    score = iou_of_sums(counts.sum(0))[0]
    below = ((draws < score).double().mean() + (draws <= score).double().mean()) / 2
    bias = normal.inv_cdf(min(max(below.item(), 1 / DRAWS), 1 - 1 / DRAWS))
    without = iou_of_sums(counts.sum(0) - counts)[:, 0]
    gap = without.mean() - without
    skew = (gap**3).sum() / (6 * (gap**2).sum().clamp(min=1e-30) ** 1.5)
    ends = []
    for share in (0.025, 0.975):
        z = bias + normal.inv_cdf(share)
        ends.append(normal.cdf(bias + z / (1 - skew.item() * z)))
    low, high = draws.quantile(torch.tensor(ends, dtype=draws.dtype)).tolist()
    return low, high


def holds(ends: tuple[float, float] | None, truth: float) -> bool:
    return ends is not None and ends[0] <= truth <= ends[1]


def measure(kind: Callable[..., Tensor], count: int, truth: float, repeats: int) -> list[float]:
    """Shares in percent: three of intervals, then those of p values and intervals that see less."""
    random = torch.Generator().manual_seed(count)
    right = torch.zeros(6)
    for seed in range(repeats):
        first, second = two_models(kind, count, random)
        state = random.get_state()
        draws = bootstrap(first, random)
        random.set_state(state)
        change = bootstrap(second, random) - draws
        rarer = min((change <= 0).sum(), (change >= 0).sum())
        p = swap_p_values(first, second, DRAWS, seed)[0]
        right += torch.tensor(
            [
                holds(percentiles(draws), truth),
                holds(bca(first, draws), truth),
                holds(iou_intervals(first)[0], truth),
                2 * (rarer + 1) / (DRAWS + 1) < 0.05,
                not holds(difference_intervals(first, second)[0], 0.0),
                p is not None and p < 0.05,
            ]
        )
    return (100 * right / repeats).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{arguments.repeats} splits each; +-{196 / math.sqrt(arguments.repeats) / 2:.1f} at 50 %"
    )
    print(
        "| data | images | percentile | BCa | segkit | bootstrap p < 0.05 | 0 outside | p < 0.05 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        many = two_models(kind, 200_000, torch.Generator().manual_seed(1))[0]
        truth = iou_of_sums(many.sum(0))[0].item()
        for count in NUM_IMAGES:
            shares = measure(kind, count, truth, arguments.repeats)
            print(
                f"| {kind.__name__} | {count} | " + " | ".join(f"{x:.1f}" for x in shares) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
