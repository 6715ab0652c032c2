"""The data set of a checkpoint, for other files."""

from typing import Any

import pytest

from segkit.errors import ConfigError
from segkit.inference.elsewhere import FOLDERS, VOC, elsewhere

MEANING = {"classes": ["a", "b"], "label_map": {255: 1}, "ignore_index": 255}
OF_VOC = {"_target_": VOC, "_partial_": True, "root": "there", **MEANING}
OF_FOLDERS = {
    "_target_": FOLDERS,
    "_partial_": True,
    **{"images": "i", "masks": "m", "mask_suffix": "_m", "val": 0.2, "split_seed": 1},
    **MEANING,
}
UNDIVIDED = dict.fromkeys(("splits", "val", "split_seed", "group"))
IN_FOLDERS = {"_target_": FOLDERS, "_partial_": True, **MEANING}


@pytest.mark.parametrize(
    ("node", "root", "files", "expected"),
    [
        (OF_VOC, None, {}, OF_VOC),
        (OF_VOC, "new", {}, OF_VOC | {"root": "new"}),
        (OF_FOLDERS, None, {}, OF_FOLDERS),
        (OF_FOLDERS, "new", {}, {"_target_": VOC, "_partial_": True, "root": "new", **MEANING}),
        (
            OF_VOC,
            None,
            {"images": "x", "masks": "y"},
            {**IN_FOLDERS, "images": "x", "masks": "y", **UNDIVIDED},
        ),
        (OF_FOLDERS, None, {"split_seed": 2}, OF_FOLDERS | {"split_seed": 2}),
        (  # other folders are not divided as those were; names end alike
            OF_FOLDERS,
            None,
            {"images": "x", "masks": "y"},
            OF_FOLDERS | {"images": "x", "masks": "y", **UNDIVIDED},
        ),
        (
            OF_FOLDERS,
            None,
            {"masks": "y", "val": 0.5},
            OF_FOLDERS | {"masks": "y", **UNDIVIDED, "val": 0.5},
        ),
        ({"_target_": "my.Data", "root": "a"}, "b", {}, {"_target_": "my.Data", "root": "b"}),
    ],
)
def test_nodes(
    node: dict[str, Any], root: str | None, files: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert elsewhere(node, root, files) == expected


def test_a_data_set_of_ones_own_has_no_folders() -> None:
    with pytest.raises(ConfigError, match=r"data\.masks: .*trained on is my\.Data"):
        elsewhere({"_target_": "my.Data"}, None, {"masks": "m"})
