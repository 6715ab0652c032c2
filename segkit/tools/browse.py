"""Show what the model will be fed: images and masks, as they are and as augmentation makes them.

python -m segkit.tools.browse data=voc data.root=PATH [images=6] [epochs=3] [key=value ...]

All other keys are those of train.py: data=..., augment=..., experiment=..., seed=...
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from segkit.cli import check_command_line, run
from segkit.cli.arguments import RENAMED, output_file, run_tool
from segkit.config import build, build_augment
from segkit.config.palette import painted
from segkit.config.schema import option
from segkit.console import say
from segkit.data.arrays import Mask, Pixels
from segkit.data.check import check_splits
from segkit.data.dataset import can_examine
from segkit.data.decode import load_labels
from segkit.data.facts import used_palette
from segkit.data.judge import compare_palettes
from segkit.data.loader import Samples
from segkit.data.masks import voc_palette
from segkit.errors import ConfigError
from segkit.report.contact_sheet import Tile, contact_sheet
from segkit.report.images import picture, write_image
from segkit.training.data import build_paste


@dataclass
class Request:
    """The keys of ``browse`` itself."""

    images: int = option(6, "rows of the sheet: images from all over the split", low=1, high=1000)
    epochs: int = option(3, "what is fed in so many first epochs", low=1, high=1000)
    out: str = option("browse.png", "the sheet, a PNG file", path=True)
    force: bool = option(False, "replace a file that is there")
    dry_run: bool = option(False, "do everything but write")


def browse(request: Request) -> None:
    check_command_line("train")
    run("train", partial(write_sheet, request=request))


def write_sheet(cfg: DictConfig, request: Request) -> None:
    """The image of each row as it is in its file, then as in epoch 1, 2, ... of a training."""
    if cfg.resume is not None:
        raise ConfigError("browse shows what a command would train on: leave out resume")
    if not request.out.endswith(".png"):
        raise ConfigError(f"out={request.out}: expected a name that ends in .png")
    path = output_file("out", request.out, request.force)
    dataset = build(cfg.data.dataset)(split=cfg.data.train_split)
    paste, pixels = None, None
    if cfg.augment.copy_paste or cfg.augment.rare_crop:
        split = cfg.data.train_split
        counts = check_splits({split: dataset}, ignore_index=cfg.data.ignore_index).counts[split]
        paste, pixels = build_paste(cfg, dataset, counts), counts.pixels.tolist()
    fed = Samples(dataset, build_augment(cfg, pixels), cfg.seed, cfg.data.ignore_index, paste)
    count = min(request.images, len(dataset))
    rows = []
    palettes: dict[str, list[Any]] = {}
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    for index in tqdm(chosen, "browse", leave=False, disable=None):
        image, mask = dataset.read(index)
        if can_examine(dataset) and dataset.indices_count:
            file = dataset.files(index)[1]
            palettes[str(file)] = used_palette(load_labels(file), mask != cfg.data.ignore_index)
        tiles = [tile(image, mask, dataset.ids[index], cfg.data.ignore_index)]
        for epoch in range(1, request.epochs + 1):
            image, mask = fed.read(epoch, index)
            tiles.append(tile(image, mask, f"epoch {epoch}", cfg.data.ignore_index))
        rows.append(tiles)
    compare_palettes(palettes)
    palette = np.asarray(getattr(dataset, "palette", voc_palette()), np.uint8)
    colors = painted(palette, dataset.classes, cfg.palette)
    sheet = contact_sheet(rows, list(dataset.classes), colors, cfg.data.ignore_index)
    if request.dry_run:
        say(f"dry run: would write {path}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, sheet)
    say(f"{count} of {len(dataset)} images of {cfg.data.train_split}: {path}")


def tile(image: Pixels, mask: Mask, name: str, ignore_index: int) -> Tile:
    height, width = mask.shape
    ignored = float((mask == ignore_index).mean())
    return Tile(picture(image), mask, f"{name}: {height} x {width}, {ignored:.0%} ignored")


def main(arguments: Sequence[str]) -> int:
    """Take the own keys out of the command line and leave the others to Hydra."""
    names = {"help", "h", *RENAMED, *(f.name for f in fields(Request))}
    own = [
        text for text in arguments if text.partition("=")[0].lstrip("-").replace("-", "_") in names
    ]
    sys.argv = [sys.argv[0], *(text for text in arguments if text not in own)]
    return run_tool(Request, browse, own, str(__doc__))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
