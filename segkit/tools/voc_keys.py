"""Keys that several tools share: what lies in a VOC folder."""

from dataclasses import dataclass
from typing import Any

from segkit.config.schema import REQUIRED, option
from segkit.data.voc import VOCSegmentation


@dataclass
class VOCKeys:
    """Those of ``train.py`` that say what the data are."""

    data_root: str = option(REQUIRED, "folder in VOC layout", name="data.root", path=True)
    classes: list[str] | None = option(None, "names, without labels.txt", name="data.classes")
    num_classes: int | None = option(None, "enough without names", name="data.num_classes")
    ignore_index: int = option(255, "value without a label", name="data.ignore_index", high=65535)
    label_map: dict[Any, Any] | None = option(
        None, "ids in the masks to classes", name="data.label_map"
    )
    colormap: Any = option(None, "for RGB and palette masks", name="data.colormap")
    value_range: Any = option(
        None, "[low,high]: numbers in images that become 0 and 255", name="data.range"
    )

    def open(self, split: str) -> VOCSegmentation:
        """The images and masks of a split."""
        return VOCSegmentation(
            self.data_root,
            split,
            classes=self.classes,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            label_map=self.label_map,
            colormap=self.colormap,
            value_range=self.value_range,
            channels=None,
        )
