"""Predictions that were written as masks before, by ``evaluate.py`` or by any other program."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from segkit.data.colors import ColorMap
from segkit.data.contract import first_ten
from segkit.data.loader import Batch
from segkit.data.masks import read_mask
from segkit.engine.evaluation import PredictedMask, images
from segkit.errors import DataError


class SavedMasks:
    """The files ``<folder>/<id>.png``: class ids as palette or grey values, or colours.

    Args:
        folder: Where they are.
        ids: Of all images of the split.
        colormap: Of RGB files, as for the masks of a data set.

    Raises:
        DataError: Files are missing; names ten of them.
    """

    def __init__(self, folder: Path, ids: Sequence[str], colormap: ColorMap | None = None) -> None:
        self.folder, self.colormap = folder, colormap
        if missing := [f"{name}.png" for name in ids if not self.file(name).is_file()]:
            raise DataError(
                f"{folder}: {len(missing)} of {len(ids)} masks are missing; expected <id>.png for "
                f"each image of the split:\n{first_ten(missing)}"
            )

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def predict_masks(self, batches: Iterable[Batch]) -> Iterator[PredictedMask]:
        """One for each image.

        Raises:
            DataError: A mask cannot be read, or is not as large as its image.
        """
        for one in images(batches, torch.device("cpu")):
            path = self.file(one.ids[0])
            mask = read_mask(path, colormap=self.colormap)
            height, width = one.target.shape[1:]
            if mask.shape != (height, width):
                raise DataError(
                    f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]} (width x height), its "
                    f"image {width} x {height}; scores are those at the size of the image"
                )
            yield PredictedMask(one, torch.from_numpy(mask.astype("int32"))[None])


def holds_masks(path: Path) -> bool:
    """Whether a path means saved masks: a folder without checkpoints."""
    return path.is_dir() and not any((*path.glob("*.pt"), *path.glob("checkpoints/*.pt")))
