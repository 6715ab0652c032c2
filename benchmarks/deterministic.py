"""What trainer.deterministic=true costs: steps with and without it, in turn, in one process.

    python benchmarks/deterministic.py [--device cuda] [--backbone resnet50] [--rounds 20]

Prints the median seconds of a step of both kinds and their ratio.
"""

import segkit  # isort: skip  # noqa: F401

import argparse
import statistics
import time

import torch

from segkit.losses import CrossEntropyLoss, DiceLoss, WeightedSum
from segkit.models import DeepLabV3Plus
from segkit.runtime.determinism import make_deterministic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=256)
    args = parser.parse_args()
    device = torch.device(args.device)
    make_deterministic()  # sets the environment before CUDA reads it
    torch.manual_seed(0)
    model = DeepLabV3Plus(args.backbone, 21).to(device).train()
    terms = {"ce": CrossEntropyLoss(), "dice": DiceLoss()}
    loss_fn = WeightedSum({name: {"weight": 1.0, "loss": loss} for name, loss in terms.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    image = torch.randn(4, 3, args.size, args.size, device=device)
    target = torch.randint(21, (4, args.size, args.size), device=device)

    def step(deterministic: bool) -> float:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.deterministic = deterministic
        started = time.perf_counter()
        optimizer.zero_grad()
        loss_fn(model(image), target).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for kind in (False, True):
        step(kind)  # warm-up
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(args.rounds):
        for kind in (False, True):
            seconds[kind].append(step(kind))
    free, bound = (statistics.median(seconds[kind]) for kind in (False, True))
    print(f"{device}, {args.backbone}, 4 x {args.size} x {args.size}, {args.rounds} rounds")
    print(f"{free:.3f} s free, {bound:.3f} s deterministic: ratio {bound / free:.3f}")


if __name__ == "__main__":
    main()
