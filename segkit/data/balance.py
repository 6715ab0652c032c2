"""How often each image comes in an epoch, so that rare classes are seen more often."""

import numpy as np
from numpy.typing import NDArray


def image_weights(shows: NDArray[np.bool_], way: str) -> NDArray[np.float64]:
    """Of each image, how often it is to come beside the others, (N,); 0 where nothing is labelled.

    Args:
        shows: Which image shows which class, (N, C); at least one shows one.
        way: ``repeat_factor``: an image comes as often as its rarest class asks for, a class that
            a share f of the images show as 1 / sqrt(f) (Gupta et al. 2019, arXiv:1908.03195, of
            which the threshold is 1 here). ``class``: every class is drawn equally often, then one
            of the images that show it.
    """
    images = shows.sum(axis=0)
    asked = np.zeros(len(images))
    there = images > 0
    if way == "repeat_factor":
        asked[there] = np.sqrt(len(shows) / images[there])
        weights: NDArray[np.float64] = np.where(shows, asked, 0.0).max(axis=1)
        return weights
    asked[there] = 1 / images[there]
    return np.asarray(shows @ asked)


def draw_images(
    weights: NDArray[np.float64], count: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of ``count`` images, ascending: each comes as often as its weight says, or one more.

    That is, its expected number rounded down or up (systematic sampling, Kitagawa 1996): an epoch
    differs from the next only as far as it must.

    Args:
        weights: Of each image, at least 0, one above it.
        count: How many.
        random: Where its one random number comes from.
    """
    ends = np.cumsum(weights)
    places = (random.random() + np.arange(count)) * (ends[-1] / count)
    last = np.flatnonzero(weights)[-1]  # rounding may reach beyond it
    return np.asarray(np.minimum(np.searchsorted(ends, places, side="right"), last))
