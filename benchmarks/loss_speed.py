"""What the losses cost beside PyTorch's own cross-entropy, on the CPU.

    python benchmarks/loss_speed.py [--rounds 15] [--classes 11 21 150] [--network]

Value and gradient by the logits, in turn with ``F.cross_entropy`` of the same settings; CPU seconds
of one thread, medians. Memory is kept as in a training. Prints a Markdown table. With ``--network``
instead: the last resize and the loss beside the network before them, forward and backward, for two
images of 512 x 512 and 150 classes.
"""

import segkit  # isort: skip  # noqa: F401  (first: sets OMP_WAIT_POLICY)

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.losses import CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss, WeightedSum
from segkit.models import DeepLabV3Plus
from segkit.runtime.memory import keep_freed_memory

SIZES = {11: (4, 360, 480), 21: (2, 512, 512), 150: (1, 256, 256)}
LossFn = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--classes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--network", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.network:
        beside_the_network(args.rounds)
        return
    print("| loss | classes | ms | F.cross_entropy ms | speed | kept bytes a pixel | F's |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for num_classes in args.classes:
        images, height, width = SIZES[num_classes]
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(images, num_classes, height, width, generator=generator)
        target = torch.randint(0, num_classes, (images, height, width), generator=generator)
        target[:, : height // 40] = 255
        for name, (ours, theirs) in pairs(num_classes).items():
            times = seconds([ours, theirs], logits.requires_grad_(), target, args.rounds)
            own, other = (statistics.median(taken) for taken in times)
            kept = [kept_bytes(loss, logits, target) / target.numel() for loss in (ours, theirs)]
            print(
                f"| {name} | {num_classes} | {1e3 * own:.0f} | {1e3 * other:.0f} | "
                f"{other / own:.2f} | {kept[0]:.0f} | {kept[1]:.0f} |",
                flush=True,
            )


def pairs(num_classes: int) -> dict[str, tuple[LossFn, LossFn]]:
    """Ours and PyTorch's; sums stand beside its plain cross-entropy."""
    weights = [0.5 + i / num_classes for i in range(num_classes)]
    plain = partial(F.cross_entropy, ignore_index=255)
    weighted = partial(plain, weight=torch.tensor(weights))
    ce, focal, dice = CrossEntropyLoss(), FocalLoss(), DiceLoss()
    duo = WeightedSum({"ce": {"weight": 1, "loss": ce}, "dice": {"weight": 1, "loss": dice}})
    trio = WeightedSum(
        {
            "ce": {"weight": 1, "loss": ce},
            "focal": {"weight": 1, "loss": focal},
            "dice": {"weight": 1, "loss": dice},
        }
    )
    return {
        "CE": (ce, plain),
        "CE, weights": (CrossEntropyLoss(weights), weighted),
        "CE, smoothing": (CrossEntropyLoss(None, 0.1), partial(plain, label_smoothing=0.1)),
        "CE, both": (CrossEntropyLoss(weights, 0.1), partial(weighted, label_smoothing=0.1)),
        "CE+dice": (duo, plain),
        "CE+focal+dice": (trio, plain),
        "lovasz; beside it: by sorting": (LovaszLoss(), lovasz_by_sorting),
    }


def lovasz_by_sorting(logits: Tensor, target: Tensor) -> Tensor:
    """The loss as its paper computes it (Berman et al. 2018), class by class."""
    valid = (target != 255).flatten()
    probs, labels = logits.softmax(1).movedim(1, 0).flatten(1)[:, valid], target.flatten()[valid]
    losses = []
    for class_id, p in enumerate(probs):
        own = (labels == class_id).float()
        errors, order = (own - p).abs().sort(descending=True)
        missed = own[order].cumsum(0)
        union = own.sum() + (1 - own[order]).cumsum(0)
        jaccard = 1 - (own.sum() - missed) / union
        rise = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
        losses.append((errors * rise).sum())
    return torch.stack(losses).mean()


def beside_the_network(rounds: int) -> None:
    """Print the share of the last resize and the loss with 150 classes."""
    image = torch.randn(2, 3, 512, 512).to(memory_format=torch.channels_last)
    target = torch.randint(0, 150, (2, 512, 512))
    losses = {name: pair[0] for name, pair in pairs(150).items()}
    print("| head | loss | network ms | resize and loss ms | share |")
    print("| --- | --- | --- | --- | --- |")
    for separable in (False, True):
        model = DeepLabV3Plus("mobilenet_v2", 150, separable=separable, train_crop=(512, 512))
        model = model.to(memory_format=torch.channels_last)
        taken: dict[str, list[float]] = {name: [] for name in ("network", *losses)}
        for _ in range(rounds + 1):
            started = time.thread_time()
            features = model.backbone(image)
            low = model.classifier(model.decoder(model.aspp(features[-1]), features[0]))
            low.backward(torch.zeros_like(low))
            taken["network"].append(time.thread_time() - started)
            for name, loss in losses.items():
                start = low.detach().requires_grad_()
                started = time.thread_time()
                logits = F.interpolate(start, (512, 512), mode="bilinear", align_corners=False)
                loss(logits, target).backward()
                taken[name].append(time.thread_time() - started)
        network, *others = (statistics.median(times[1:]) for times in taken.values())
        for name, own in zip(losses, others, strict=True):
            print(
                f"| {'separable' if separable else 'dense'} | {name} | {1e3 * network:.0f} | "
                f"{1e3 * own:.0f} | {own / network:.2f} |",
                flush=True,
            )


def seconds(losses: list[LossFn], logits: Tensor, target: Tensor, rounds: int) -> list[list[float]]:
    """CPU seconds of each loss in each round, the first round left out."""
    taken: list[list[float]] = [[] for _ in losses]
    for _ in range(rounds + 1):
        for loss, times in zip(losses, taken, strict=True):
            started = time.thread_time()
            torch.autograd.grad(loss(logits, target), logits)
            times.append(time.thread_time() - started)
    return [times[1:] for times in taken]


def kept_bytes(loss: LossFn, logits: Tensor, target: Tensor) -> int:
    """What the forward pass holds for the backward one, beside its own inputs."""
    inputs = {tensor.untyped_storage().data_ptr() for tensor in (logits, target)}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits, target)
    return sum(x.untyped_storage().nbytes() for at, x in held.items() if at not in inputs)


if __name__ == "__main__":
    main()
