"""Dividing a data set into parts of given sizes that resemble each other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segkit.errors import DataError


def divide(
    amounts: NDArray[np.int64],
    groups: NDArray[np.int64],
    ratios: Sequence[float],
    seed: int,
) -> NDArray[np.int64]:
    """Give each image to a part, so that each part has its share of every amount.

    Greedy: the groups come one by one, those first that hold most of some class, and each goes
    where the sum over parts and amounts of ``(share in the part - ratio)**2 / ratio`` grows least.
    The number of images is one more amount. Without groups of several images, the parts get
    exactly the rounded numbers of images. Groups of equal weight are shuffled.

    Args:
        amounts: Pixels of each class (or whatever is to be balanced), (images, classes).
        groups: Images with one number stay together, (images,), from 0 without gaps.
        ratios: Size of each part, above 0, with the sum 1.
        seed: The same one gives the same parts.

    Returns:
        Number of the part of each image, (images,).
    """
    num_groups, num_parts = int(groups.max()) + 1, len(ratios)
    if num_groups < num_parts:
        raise DataError(
            f"{num_groups} groups cannot be divided into {num_parts} parts; expected at least one "
            "group for each"
        )
    shares = np.zeros((num_groups, 1 + amounts.shape[1]))
    np.add.at(shares, groups, np.column_stack([np.ones(len(groups)), amounts]))
    sizes = shares[:, 0].copy()
    shares /= np.maximum(shares.sum(axis=0), 1)
    ratio = np.asarray(ratios, np.float64)
    room = np.full(num_parts, np.inf)
    if sizes.max() == 1:
        room = _rounded(ratio, num_groups)
    shuffled = np.random.default_rng(seed).permutation(num_groups)
    order = shuffled[np.argsort(-shares[shuffled].max(axis=1), kind="stable")]
    have = np.zeros((num_parts, shares.shape[1]))
    part_of_group = np.empty(num_groups, np.int64)
    empty = np.ones(num_parts, bool)
    for place, group in enumerate(order):
        share = shares[group]
        growth = ((2 * (have - ratio[:, None]) + share) * share / ratio[:, None]).sum(axis=1)
        growth[room <= 0] = np.inf
        if num_groups - place <= empty.sum():  # the last groups: no part stays empty
            growth[~empty] = np.inf
        part = int(growth.argmin())
        part_of_group[group] = part
        have[part] += share
        room[part] -= 1
        empty[part] = False
    result: NDArray[np.int64] = part_of_group[groups]
    return result


def _rounded(ratio: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Whole numbers, none 0, with the sum ``total``, that are nearest to ``ratio * total``."""
    sizes = np.maximum(np.floor(ratio * total + 1e-9), 1)
    while sizes.sum() != total:
        step = 1 if sizes.sum() < total else -1
        lack = step * (ratio * total - sizes)
        lack[(sizes + step) < 1] = -np.inf
        sizes[lack.argmax()] += step
    return sizes
