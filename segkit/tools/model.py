"""What a trained model weighs and what it costs, and a small file of it to hand on.

python -m segkit.tools.model checkpoint=RUN_OR_FILE ['size=[512,512]'] [out=small.pt]
"""

import copy
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segkit.cli.arguments import output_file, run_tool
from segkit.config.schema import REQUIRED, option
from segkit.console import say
from segkit.errors import ConfigError

PARTS = ("backbone", "aspp", "decoder", "classifier")


@dataclass
class Request:
    """The keys of ``model``."""

    checkpoint: str = option(REQUIRED, "a .pt file or a run folder", path=True)
    size: str = option("[512,512]", "height and width of the image whose operations are counted")
    weights: str = option(
        "auto", "those of out; auto: what the run validated", choices=("auto", "raw", "ema")
    )
    allow: list[str] = option([], "your own modules that the checkpoint may name")
    out: str | None = option(
        None, "write the weights and what predicting needs, nothing else", path=True
    )
    force: bool = option(False, "replace a file that is there")
    dry_run: bool = option(False, "do everything but write")


def model(request: Request) -> None:
    """Print parameters and operations; write ``out``."""
    height, width = image_size(request.size)
    path = None if request.out is None else output_file("out", request.out, request.force)
    # Slow imports, when the keys are known to be right
    from segkit.inference.loading import load_network
    from segkit.runs.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(request.checkpoint)
    network = load_network(checkpoint, request.allow, request.weights)
    total = sum(p.numel() for p in network.parameters())
    say(f"{checkpoint.path}: {mebibytes(checkpoint.path)}")
    say(f"{len(checkpoint.metadata.classes)} classes: {', '.join(checkpoint.metadata.classes)}")
    say(f"parameters: {total / 1e6:.3f} million")
    for name in PARTS:
        if hasattr(network, name):
            count = sum(p.numel() for p in getattr(network, name).parameters())
            say(f"  {name:<10} {count / 1e6:.3f} million")
    flops = count_flops(network, (1, len(checkpoint.metadata.mean), height, width))
    say(f"operations: {flops / 1e9:.2f} GFLOP an image of {height} x {width} (height x width)")
    say("  (a multiplication with its addition counts as two; convolutions and matrices only)")
    if path is None:
        return
    if request.dry_run:
        say(f"dry run: would write {path}")
        return
    write_small(path, checkpoint, request.weights)
    say(f"written: {path}, {mebibytes(path)}")


def mebibytes(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def image_size(text: str) -> tuple[int, int]:
    """``[512,768]`` as (512, 768)."""
    if not (found := re.fullmatch(r"\[ *([1-9]\d{0,4}) *, *([1-9]\d{0,4}) *\]", text)):
        raise ConfigError(f"size={text}: expected height and width in pixels, as [512,768]")
    return int(found[1]), int(found[2])


def count_flops(network: Any, shape: tuple[int, ...]) -> int:
    """Floating point operations of one forward pass, counted and not computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = network.to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops())


def write_small(path: Path, checkpoint: Any, weights: str) -> None:
    """The checkpoint without optimizer, further weights, recipe, and paths of this computer."""
    from segkit.runs.checkpoint import model_weights, save_checkpoint, weights_kind

    config = copy.deepcopy(checkpoint.metadata.config)
    for name in ("out_dir", "resume", "init_from"):
        config[name] = None
    data, backbone = config.get("data", {}), config["model"].get("backbone")
    for node in (data, data.get("dataset")):
        if isinstance(node, dict) and isinstance(node.get("root"), str):
            node["root"] = Path(node["root"]).name
    if isinstance(backbone, dict) and "weights" in backbone:
        backbone["weights"] = None
    state = {
        "epoch": checkpoint.state["epoch"],
        "model": model_weights(checkpoint.state, weights),
        "kept": weights_kind(checkpoint.state, weights),
    }
    metadata = replace(checkpoint.metadata, config=config, recipe={})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, state, metadata, checkpoint.scores)


if __name__ == "__main__":
    sys.exit(run_tool(Request, model, sys.argv[1:], str(__doc__)))
