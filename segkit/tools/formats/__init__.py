"""Formats of labels that ``convert`` reads, one file per family."""

from segkit.tools.formats.coco import read_coco
from segkit.tools.formats.cvat import read_cvat
from segkit.tools.formats.ids import read_ids
from segkit.tools.formats.labelme import read_labelme
from segkit.tools.formats.masks import read_binary, read_colors, read_folders
from segkit.tools.formats.yolo import read_yolo

READERS = {
    "labelme": read_labelme,
    "coco": read_coco,
    "cvat": read_cvat,
    "yolo": read_yolo,
    "ids": read_ids,
    "rgb": read_colors,
    "binary": read_binary,
    "folders": read_folders,
}
"""What ``format=NAME`` stands for."""

__all__ = ["READERS"]
