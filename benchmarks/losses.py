"""The same short training with several losses: does each learn, and how do they compare?

    python benchmarks/losses.py -- experiment=camvid data.root=PATH model.backbone.weights=FILE

What follows ``--`` goes to train.py. Prints a Markdown table; each row is one run with one seed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
LOSSES = ("ce", "focal", "dice", "[ce,dice]", "[focal,dice]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    print("| loss | first epoch | last epoch | val mIoU | val pixel accuracy |")
    print("| --- | --- | --- | --- | --- |")
    for loss in args.losses:
        first, last = run(loss, args.overrides)
        print(
            f"| {loss} | {first['train/loss']:.3f} | {last['train/loss']:.3f} | "
            f"{last['val/miou']:.3f} | {last['val/pixel_accuracy']:.3f} |",
            flush=True,
        )


def run(loss: str, overrides: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """First and last line of the run's ``metrics.jsonl``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TRAIN), *overrides, f"loss={loss}", f"out_dir={folder}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[0]), json.loads(lines[-1])


if __name__ == "__main__":
    main()
