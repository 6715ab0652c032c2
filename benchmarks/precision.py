"""Compare number formats: the same short training in each, losses and speed side by side.

    python benchmarks/precision.py --precisions fp32 bf16 fp16 -- data=voc data.root=PATH

What follows ``--`` goes to train.py. Prints a Markdown table; each row is one run with one seed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

TRAIN = Path(__file__).resolve().parent.parent / "train.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"torch {torch.__version__}, {device}; train.py {' '.join(args.overrides)}\n")
    print("| precision | " + " | ".join(f"loss {e + 1}" for e in range(args.epochs)), end="")
    print(" | mIoU | images/s | to fp32 | skipped steps | MiB |")
    print("| --- " * (args.epochs + 6) + "|")
    reference = None
    for precision in args.precisions:
        lines = run(precision, args.device, args.epochs, args.overrides)
        # The first epoch holds the warm-up of kernels and caches.
        speed = max(line["images_per_second"] for line in lines[1:] or lines)
        reference = reference or speed
        losses = " | ".join(f"{line['train/loss']:.4f}" for line in lines)
        last = lines[-1]
        print(
            f"| {precision} | {losses} | {last['val/miou']:.4f} | {speed:.1f} | "
            f"{speed / reference:.2f} | {last['train/skipped_steps']:.0f} | "
            f"{last.get('memory_mib', 0):.0f} |",
            flush=True,
        )


def run(precision: str, device: str, epochs: int, overrides: list[str]) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(TRAIN),
            *overrides,
            f"trainer.precision={precision}",
            f"trainer.device={device}",
            f"trainer.max_epochs={epochs}",
            f"out_dir={folder}",
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
