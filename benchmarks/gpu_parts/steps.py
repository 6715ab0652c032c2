"""Steps on a batch that stays on the device: segkit's loop beside a bare one of smp's."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import nn

from gpu_parts import Cases, Options, Row, Unavailable
from gpu_parts.machine import smp
from gpu_parts.measure import Work, measure
from gpu_parts.training import CLASSES, TRIO, resident, train
from segkit.models.normalize import Normalize
from segkit.runtime.device import Precision

LOSSES = {"CE": "loss=ce", "CE+focal+dice": TRIO}


def cases(options: Options) -> Cases:
    every = product(options.precisions, options.backbones, LOSSES)
    return {" ".join(case): partial(steps, options, *case) for case in every}


def steps(options: Options, precision: str, backbone: str, loss: str) -> Iterator[Row]:
    overrides = (f"model/backbone={backbone}", f"trainer.precision={precision}", LOSSES[loss])
    encoder = "mobilenet_v2" if options.quick else backbone
    makers: dict[str, Callable[[], Work]] = {"segkit": lambda: train(options, *overrides)}
    note = {}
    try:
        smp()
        makers["smp's model"] = lambda: train(options, *overrides, model=smp_model(encoder))
        makers["smp"] = lambda: bare_loop(options, precision, encoder, loss)
    except Unavailable as reason:
        note["note"] = str(reason)
    found = measure(options, makers)
    ours, same, peer = found["segkit"], found.get("smp's model"), found.get("smp")
    yield {
        "segkit ms": ours.ms,
        "(least to most)": ours.spread,
        "segkit's loop, smp's model ms": same and same.ms,
        "smp ms": peer and peer.ms,
        "smp / segkit": peer and peer.ms / ours.ms,
        "smp / segkit's loop": peer and same and peer.ms / same.ms,
        "segkit MiB": ours.mib,
        "loop MiB": same and same.mib,
        "smp MiB": peer and peer.mib,
    } | note


def smp_model(encoder: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = smp().DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES)
    return model


def smp_loss(terms: str) -> nn.Module | Callable[..., torch.Tensor]:
    kinds = {
        "CE": nn.CrossEntropyLoss(ignore_index=255),
        "focal": smp().losses.FocalLoss("multiclass", ignore_index=255),
        "dice": smp().losses.DiceLoss("multiclass", from_logits=True, ignore_index=255),
    }
    return lambda logits, target: sum(kinds[name](logits, target) for name in terms.split("+"))


def bare_loop(options: Options, precision: str, encoder: str, terms: str) -> Work:
    """The loop of smp's README with autocast: normalised float images, int64 targets."""
    chosen = Precision(precision, torch.device(options.device))
    model, loss_fn = smp_model(encoder).to(chosen.device).train(), smp_loss(terms)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler, batch = chosen.grad_scaler(), resident(options)
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels_last=False)
    image, target = normalize(batch.image), batch.target.long()

    def work(count: int) -> None:
        torch.backends.cudnn.benchmark = False
        for _ in range(count):
            with chosen.autocast():
                loss = loss_fn(model(image), target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            loss.item()

    return work
