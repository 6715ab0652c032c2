"""train.py as it is started, with a network that learns something."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpu_parts import Cases, Options, Row, Unavailable

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
TINY = (
    "data.dataset.num_train=24", "data.dataset.num_val=6", "data.dataset.height=48",
    "data.dataset.width=64", "trainer.max_epochs=2", "loader.num_workers=0",
    "model.backbone.width=8", "model.aspp_channels=16", "model.decoder_channels=16",
)  # fmt: skip


def cases(options: Options) -> Cases:
    return {
        "the shapes, no argument": partial(run, options, TINY if options.quick else ()),
        "CamVid, experiment=camvid, 10 epochs": partial(camvid, options),
    }


def camvid(options: Options) -> Iterator[Row]:
    if options.quick or options.data is None or options.weights is None:
        raise Unavailable("quick" if options.quick else "no --data and --weights")
    weights = options.weights / "mobilenet_v2.pth"
    places = (f"data.root='{options.data}'", f"model.backbone.weights='{weights}'")
    length = ("trainer.max_epochs=10", "augment.late_epochs=2", "trainer.val_every=5")
    settings = ("experiment=camvid", *length)
    yield from run(options, (*settings, *places))


def run(options: Options, overrides: tuple[str, ...]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        fixed = (f"out_dir='{folder}'", f"trainer.device={options.device}")
        subprocess.run([sys.executable, str(TRAIN), *overrides, *fixed], check=True)
        summary = json.loads(Path(folder, "summary.json").read_text())
        lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    yield {
        "best mIoU": summary["best_score"],
        "seconds": summary["seconds"],
        "images/s, last epoch": epochs[-1]["images_per_second"],
        "first loss": epochs[0]["train/loss"],
        "last loss": epochs[-1]["train/loss"],
        "MiB": epochs[-1].get("memory_mib"),
    }
