"""The keys by which several tools are told what lies in a VOC folder."""

from dataclasses import dataclass
from typing import Any

from segkit.cli.arguments import key
from segkit.data.voc import VOCSegmentation


@dataclass
class VOCKeys:
    """Those of ``train.py`` that say what the data are."""

    data_root: str = key("folder in VOC layout", name="data.root", path=True)
    classes: list[str] | None = key("names, without labels.txt", None, name="data.classes")
    num_classes: int | None = key("enough without names", None, name="data.num_classes")
    ignore_index: int = key("value without a label", 255, name="data.ignore_index", high=65535)
    label_map: dict[Any, Any] | None = key(
        "ids in the masks to classes", None, name="data.label_map"
    )
    colormap: Any = key("for RGB and palette masks", None, name="data.colormap")
    value_range: Any = key(
        "[low,high]: numbers in pictures that become 0 and 255", None, name="data.range"
    )

    def open(self, split: str) -> VOCSegmentation:
        """The pictures and masks of a split."""
        return VOCSegmentation(
            self.data_root,
            split,
            classes=self.classes,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            label_map=self.label_map,
            colormap=self.colormap,
            value_range=self.value_range,
        )
