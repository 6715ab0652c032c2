"""What `segkit.runtime.memory.keep_freed_memory` is worth: one training step with and without it.

    python benchmarks/allocator.py [--steps 8] [--height 360] [--width 480]

Each side runs in a process of its own, in turn; prints the medians and their ratio.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--side", choices=("default", "kept"))
    args = parser.parse_args()
    if args.side:
        measure(args.side == "kept", args.steps, (args.height, args.width))
        return
    medians = {}
    for side in ("default", "kept"):
        command = [sys.executable, __file__, "--side", side, "--steps", str(args.steps)]
        command += ["--height", str(args.height), "--width", str(args.width)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, faults = (float(word) for word in output.split())
        medians[side] = seconds
        print(f"{side}: {seconds:.2f} s a step, {faults:.0f} page faults")
    print(f"ratio {medians['default'] / medians['kept']:.2f}")


def measure(kept: bool, steps: int, size: tuple[int, int]) -> None:
    import torch

    import segkit  # noqa: F401  (first: sets OMP_WAIT_POLICY)
    from segkit.losses import CrossEntropyLoss
    from segkit.models import DeepLabV3Plus
    from segkit.runtime.memory import keep_freed_memory

    if kept and not keep_freed_memory():
        raise SystemExit("not possible here: no glibc")
    model = DeepLabV3Plus("mobilenet_v2", 11, separable=True, aspp_channels=128)
    model = model.to(memory_format=torch.channels_last)
    loss_fn = CrossEntropyLoss()
    image = torch.randn(8, 3, *size).to(memory_format=torch.channels_last)
    target = torch.randint(0, 11, (8, *size))
    seconds, faults = [], []
    for _ in range(steps):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        loss_fn(model(image), target).backward()
        model.zero_grad()
        seconds.append(time.perf_counter() - started)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(statistics.median(seconds), statistics.median(faults))


if __name__ == "__main__":
    main()
