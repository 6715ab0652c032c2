"""Predictions that were written as masks before, by ``evaluate.py`` or by any other program."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from segkit.data.classes import parse_label_map
from segkit.data.colors import ColorMap, Palette, parse_colormap
from segkit.data.decode import load_labels, palette_of_head
from segkit.data.facts import used_palette
from segkit.data.judge import compare_palettes
from segkit.data.labels import apply_label_map, check_labels
from segkit.data.loader import Batch
from segkit.data.masks import to_labels
from segkit.errors import DataError
from segkit.inference.predictions import PredictedMask, images
from segkit.text import bullet_list

LABEL_MAP, COLORMAP = "predictions_label_map", "predictions_colormap"


class SavedMasks:
    """The files ``<folder>/<id>.png``: class ids as palette or grey values, or colours.

    Args:
        folder: Where they are.
        ids: Names of all images of the split.
        num_classes: Number of classes.
        ignore_index: Value of the pixels of the data set's masks that are not judged.
        colormap: Of RGB and palette files, as for the masks of a data set.
        label_map: Their ids to class ids or ``"ignore"``, as for the masks of a data set.
        palette: Colours of the classes in the data set's masks, uint8 (C, 3); None: they have none.

    Raises:
        DataError: Files are missing (names ten of them), or their palettes disagree, with each
            other or with those of the data set.
    """

    def __init__(
        self,
        folder: Path,
        ids: Sequence[str],
        num_classes: int,
        ignore_index: int = 255,
        *,
        colormap: ColorMap | None = None,
        label_map: Mapping[int | str, int | str] | None = None,
        palette: Palette | None = None,
    ) -> None:
        self.folder, self.num_classes, self.ignore_index = folder, num_classes, ignore_index
        self.colormap = parse_colormap(colormap, COLORMAP)
        self.label_map = parse_label_map(label_map or {}, num_classes, ignore_index, key=LABEL_MAP)
        if missing := [f"{name}.png" for name in ids if not self.file(name).is_file()]:
            raise DataError(
                f"{folder}: {len(missing)} of {len(ids)} masks are missing; expected <id>.png for "
                f"each image of the split:\n{bullet_list(missing)}"
            )
        if colormap is None:
            self._check_palettes(ids, None if label_map else palette)

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def _check_palettes(self, ids: Sequence[str], known: Palette | None) -> None:
        """Compare them where they are not all the same, which their heads tell."""
        heads = {name: palette_of_head(self.file(name)) for name in ids}
        if len({*heads.values()} - {b""}) > 1:
            whole = {
                str(self.file(name)): used_palette(load_labels(self.file(name))) for name in ids
            }
            compare_palettes(whole, "saved masks", COLORMAP)
        if known is None:
            return
        size, usual = 3 * len(known), known.tolist()
        for name, colors in heads.items():
            own = np.frombuffer(colors[:size], np.uint8).reshape(-1, 3).tolist()
            if own and own != usual[: len(own)] and sorted(own) == sorted(usual[: len(own)]):
                index = next(i for i, color in enumerate(own) if color != usual[i])
                raise DataError(
                    f"{self.file(name)}: its palette has the colours of the data set's masks, but "
                    f"at other indices: {index} is {tuple(own[index])}, there it is "
                    f"{tuple(usual[index])}. If the colours are right: '{COLORMAP}="
                    f"{str(usual).replace(' ', '')}'; if the indices are: {COLORMAP}=indices"
                )

    def predict_masks(self, batches: Iterable[Batch]) -> Iterator[PredictedMask]:
        """One for each image.

        Raises:
            DataError: A mask cannot be read, or is not as large as its image.
        """
        for one in images(batches, torch.device("cpu")):
            path = self.file(one.ids[0])
            stored = load_labels(path)
            mask = to_labels(stored, self.colormap, self.ignore_index, str(path), COLORMAP)
            if self.label_map:
                mask = apply_label_map(
                    mask, self.label_map, self.ignore_index, name=str(path), key=LABEL_MAP
                )
            height, width = one.target.shape[1:]
            if mask.shape != (height, width):
                raise DataError(
                    f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]} (width x height), its "
                    f"image {width} x {height}; scores are those at the size of the image"
                )
            judged = one.target[0].numpy() != self.ignore_index
            check_labels(mask[judged], self.num_classes, None, name=str(path), key=LABEL_MAP)
            yield PredictedMask(one, torch.from_numpy(mask.astype("int32"))[None])


def holds_masks(path: Path) -> bool:
    """Whether a path means saved masks: a folder without checkpoints."""
    return path.is_dir() and not any((*path.glob("*.pt"), *path.glob("checkpoints/*.pt")))
