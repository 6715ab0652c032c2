"""The node of a data set that a checkpoint holds, for other files of the same kind."""

from collections.abc import Mapping
from typing import Any

from segkit.errors import ConfigError

VOC, FOLDERS = "segkit.data.VOCSegmentation", "segkit.data.FolderSegmentation"
LAYOUTS = (VOC, FOLDERS, "segkit.data.Shapes")
# What images and masks mean, which all layouts say alike.
MEANING = (
    *("classes", "num_classes", "ignore_index", "label_map", "colormap"),
    *("value_range", "channels", "bits"),
)


def elsewhere(
    node: Mapping[str, Any], root: str | None, files: Mapping[str, Any]
) -> dict[str, Any]:
    """A node for a folder in VOC layout, or for two folders, whichever of them was trained on.

    Args:
        node: With ``_target_`` and the arguments of the data set.
        root: The folder; None: none.
        files: Arguments of ``FolderSegmentation``; without any the files stay those of ``root``.

    Raises:
        ConfigError: The data set is another one, which knows no such folders.
    """
    target = node.get("_target_")
    shared = {key: node[key] for key in ("_partial_", *MEANING) if key in node}
    if files:
        if target not in LAYOUTS:
            raise ConfigError(
                f"data.{next(iter(files))}: is for data=voc and data=folders; the data set that "
                f"the checkpoint was trained on is {target}"
            )
        # Other folders, or lists, are not divided as those were.
        divided = files.keys() & {"images", "masks", "splits"}
        division = dict.fromkeys(("splits", "val", "split_seed", "group")) if divided else {}
        known = dict(node) if target == FOLDERS else {"_target_": FOLDERS, **shared}
        return {**known, **division, **files}
    if root is not None and target == FOLDERS:
        return {"_target_": VOC, **shared, "root": root}
    return {**node, **({} if root is None else {"root": root})}
