"""Read every file of a data set, and tell everything that is wrong.

python -m segkit.data.check data.root=PATH [data.train_split=train] [key=value ...]
python -m segkit.data.check data=folders data.images=DIR data.masks=DIR data.val=0.2
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from segkit.cli.arguments import run_tool
from segkit.config.schema import option
from segkit.console import say
from segkit.data.check import check_splits, open_splits
from segkit.tools.data_keys import DataKeys


@dataclass
class Request(DataKeys):
    """The keys of ``check``."""

    train_split: str = option("train", "split, as train.py calls it", name="data.train_split")
    val_split: str = option("val", "the same", name="data.val_split")


def check(request: Request) -> None:
    """Print the pixels of each class, and warnings."""
    names = (request.train_split, request.val_split)
    splits = open_splits(request.open, names, ignore_index=request.ignore_index)
    report = check_splits(splits, ignore_index=request.ignore_index)
    say(report.table())
    for warning in report.warnings:
        say(f"warning: {warning}")
    pairs = ", ".join(f"{len(dataset)} pairs in {name}" for name, dataset in splits.items())
    say(f"{pairs}: fine")


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    return run_tool(Request, check, arguments, str(__doc__))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
