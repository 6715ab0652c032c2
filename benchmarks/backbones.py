"""What backbones cost in DeepLabV3+: parameters, operations, speed on this machine's CPU.

    python benchmarks/backbones.py [--rounds 5] [--size 360 480] [NAME ...]

A name is one of segkit's or timm's. Each round predicts one image by each in turn; the median of
the process's CPU seconds counts, which other work on the machine disturbs less than the clock.
"""

import argparse
import statistics
import time

import torch

from segkit.models import DeepLabV3Plus
from segkit.models.backbones import BACKBONES, Timm
from segkit.tools.model import count_flops

OWN = ["mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet50", "xception", "tiny"]
OF_TIMM = ["mobilenetv3_small_100", "efficientnet_b0", "rexnet_100", "regnety_008", "repvgg_a0"]
OF_TIMM += ["resnet50d", "convnext_atto", "convnext_tiny"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=OWN + OF_TIMM)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480))
    args = parser.parse_args()
    image = torch.randn(1, 3, *args.size)
    models = {name: model(name) for name in args.names}
    seconds: dict[str, list[float]] = {name: [] for name in args.names}
    with torch.inference_mode():
        for number in range(args.rounds + 1):
            for name, network in models.items():
                began = time.process_time()
                network(image)
                if number:  # the first one warms up
                    seconds[name].append(time.process_time() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    base = medians.get("mobilenet_v2", next(iter(medians.values())))
    print(
        "| backbone | of | parameters (million) | GMAC | CPU seconds | "
        "images per CPU second | speed |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, network in models.items():
        whose = "segkit" if name in BACKBONES else "timm"
        count = sum(p.numel() for p in network.backbone.parameters()) / 1e6
        gmac = count_flops(network, image.shape) / 2e9
        own = medians[name]
        row = (f"`{name}`", whose, f"{count:.1f}", f"{gmac:.1f}", f"{own:.2f}", f"{1 / own:.1f}")
        print("|", " | ".join((*row, f"{base / own:.2f}")), "|")


def model(name: str) -> DeepLabV3Plus:
    """A dense head on a backbone from random start."""
    backbone = name if name in BACKBONES else Timm(name)
    return DeepLabV3Plus(backbone, 21, separable=False).eval().to(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
