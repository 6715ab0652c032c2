"""Public data sets and the folders of other tools, as docs/recipes.md expects them: made-up files.

Names are the real ones, images are 64 x 48, and masks have bars of equal width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

POTSDAM = [[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]]
CVAT_COLORS = [[0, 0, 0], [250, 50, 83], [128, 64, 128], [0, 0, 0]]


def make_recipes(folder: Path) -> None:
    """All of them, below ``folder``."""
    made = _Made(folder)
    cityscapes(made)
    for split, kind, first in (("training", "train", 1), ("validation", "val", 0)):
        for number in (1, 2):
            name = f"ADE_{kind}_{number:08}"
            made.image(f"ADEChallengeData2016/images/{split}/{name}.jpg")
            values = [0, 1, 2, 150 * first]
            made.bars(f"ADEChallengeData2016/annotations/{split}/{name}.png", values)
    made.lines("ADEChallengeData2016/names.txt", [f"thing {k}, object" for k in range(150)])
    pets(made)
    drive(made)
    for split, number in (("Training", 0), ("Training", 1), ("Validation", 12255)):
        name = f"ISIC_{number:07}"
        made.image(f"ISIC2018_Task1-2_{split}_Input/{name}.jpg")
        mask = f"ISIC2018_Task1_{split}_GroundTruth/{name}_segmentation.png"
        made.bars(mask, [0, 255])
    made.lines("ISIC2018_Task1-2_Training_Input/ATTRIBUTION.txt", ["cite"])
    for place, number in (("Train/Urban", 1366), ("Train/Rural", 0), ("Val/Urban", 3514)):
        made.image(f"LoveDA/{place}/images_png/{number}.png")
        made.bars(f"LoveDA/{place}/masks_png/{number}.png", range(8))
    for row in (2, 3, 4, 5, 6):
        made.image(f"potsdam/2_Ortho_RGB/top_potsdam_{row}_10_RGB.tif")
        made.bars(f"potsdam/5_Labels_all/top_potsdam_{row}_10_label.tif", POTSDAM)
    of_tools(made)


class _Made:
    def __init__(self, folder: Path) -> None:
        self.folder, self.rng = folder, np.random.default_rng(0)

    def image(self, name: str) -> None:
        self.save(name, self.rng.integers(60, 200, (48, 64, 3), dtype=np.uint8))

    def bars(self, name: str, values: Sequence[object]) -> None:
        """A mask with the values, or colours, from left to right."""
        array = np.array(values, np.uint8)
        columns = np.arange(64) * len(array) // 64
        self.save(name, np.broadcast_to(array[columns], (48, 64, *array.shape[1:])))

    def pair(self, image: str, mask: str, values: Sequence[object] = (0, 1, 2, 255)) -> None:
        self.image(image)
        self.bars(mask, values)

    def lines(self, name: str, lines: Sequence[str]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))

    def save(self, name: str, values: np.ndarray) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(values)).save(path)


def cityscapes(made: _Made) -> None:
    for split, name in (
        ("train", "aachen_000000_000019"),
        ("train", "bochum_000000_000313"),
        ("val", "frankfurt_000000_000294"),
    ):
        place = f"{split}/{name.partition('_')[0]}/{name}"
        made.image(f"cityscapes/leftImg8bit/{place}_leftImg8bit.png")
        made.bars(f"cityscapes/gtFine/{place}_gtFine_labelIds.png", [7, 8, 26, 3])
        made.bars(f"cityscapes/gtFine/{place}_gtFine_labelTrainIds.png", [0, 1, 13, 255])
        made.bars(f"cityscapes/gtFine/{place}_gtFine_instanceIds.png", [7, 8, 99, 3])
        made.bars(f"cityscapes/gtFine/{place}_gtFine_color.png", [[128, 64, 128], [0, 0, 142]])
        made.lines(f"cityscapes/gtFine/{place}_gtFine_polygons.json", ["{}"])


def pets(made: _Made) -> None:
    for name, kind in (("Abyssinian_1", 1), ("Abyssinian_100", 1), ("yorkshire_terrier_9", 2)):
        made.pair(f"pets/images/{name}.jpg", f"pets/annotations/trimaps/{name}.png", [2, 3, 1, 3])
        made.lines(f"pets/annotations/trimaps/._{name}.png", ["of another system"])
        split = "trainval" if kind == 1 else "test"
        path = made.folder / f"pets/annotations/{split}.txt"
        listed = path.read_text().splitlines() if path.exists() else []
        made.lines(f"pets/annotations/{split}.txt", [*listed, f"{name} 1 {kind} 1"])


def drive(made: _Made) -> None:
    for half, kind, numbers in (("training", "training", range(21, 26)), ("test", "test", (1, 2))):
        for number in numbers:
            home, name = f"drive/{half}", f"{number:02}"
            made.image(f"{home}/images/{name}_{kind}.tif")
            made.bars(f"{home}/1st_manual/{name}_manual1.gif", [0, 255, 255, 0])
            made.bars(f"{home}/mask/{name}_{kind}_mask.gif", [0, 255, 255, 255])


def of_tools(made: _Made) -> None:
    """Folders as mmsegmentation, smp, PaddleSeg, nnU-Net, YOLO, Roboflow and CVAT expect them."""
    lists: dict[str, list[str]] = {"train": [], "val": []}
    rows = ["image,mask,split"]
    for split, name in (("train", "a"), ("train", "b"), ("train", "c"), ("val", "d")):
        made.pair(f"mmseg/img_dir/{split}/{name}.jpg", f"mmseg/ann_dir/{split}/{name}.png")
        made.pair(f"CamVid/{split}/{name}.png", f"CamVid/{split}annot/{name}.png", [*range(10), 11])
        made.pair(f"paddle/images/{name}.jpg", f"paddle/labels/{name}.png")
        lists[split].append(f"images/{name}.jpg labels/{name}.png")
        made.pair(
            f"Dataset001/imagesTr/case_{name}_0000.png", f"Dataset001/labelsTr/case_{name}.png"
        )
        made.pair(f"table/photo_{name}.png", f"table/drawn_{name}.png")
        rows.append(f"photo_{name}.png,drawn_{name}.png,{split}")
        made.image(f"yolo/images/{split}/{name}.jpg")
        made.lines(f"yolo/labels/{split}/{name}.txt", ["0 0 0 0.5 0 0.5 0.5 0 0.5"])
        home = f"roboflow/{'valid' if split == 'val' else split}"
        image = f"{home}/{name}_jpg.rf.0{name}"
        made.pair(f"{image}.jpg", f"{image}_mask.png", [0, 1, 2, 0])
        made.lines(
            f"{home}/_classes.csv", ["Pixel Value, Class", "0, background", "1, cat", "2, dog"]
        )
        made.image(f"task/JPEGImages/{name}.jpg")
        made.bars(f"task/SegmentationClass/{name}.png", CVAT_COLORS)
    for split, pairs in lists.items():
        made.lines(f"paddle/{split}.txt", pairs)
    made.lines("table/pairs.csv", rows)
    made.lines("yolo/data.yaml", ["train: images/train", "val: images/val", "names: [cat]"])
    named = ["# label:color_rgb:parts:actions", "background:0,0,0::", "car:250,50,83::"]
    made.lines("task/labelmap.txt", [*named, "road:128,64,128::"])
