"""Is a reduced precision right for this model on this machine? One batch tells before step 1.

Some kernels compute garbage in some formats without a word: dilated depthwise convolutions in
bfloat16 and channels_last on CPUs with AVX-512, for one. A run then learns badly for hundreds of
steps and ends in NaN.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segkit.engine.precision import Precision
from segkit.errors import TrainingError

MIN_COSINE = 0.7
MAX_NORM_RATIO = 2.0


def check_precision(
    model: nn.Module, loss_fn: nn.Module, image: Tensor, target: Tensor, precision: Precision
) -> str:
    """Compare loss and every parameter's gradient with those of float32, on one batch.

    The model, its statistics and the random numbers are as before afterwards.

    Args:
        model: In train mode, with its gradients empty.
        loss_fn: Called as ``loss_fn(logits, target)``.
        image: float32 (N, 3, H, W).
        target: int64 (N, H, W).
        precision: The one to try.

    Returns:
        One line on how close they are.

    Raises:
        TrainingError: A gradient is off; names its layer and the way out.
    """
    with _as_before(model):
        exact_loss, exact = _gradients(
            model, loss_fn, image, target, Precision("fp32", precision.device)
        )
        loss, tried = _gradients(model, loss_fn, image, target, precision)
    # What rounding alone may do to a parameter whose true gradient is next to nothing.
    scale = torch.cat([g.flatten() for g in exact.values()]).square().mean().sqrt()
    worst, worst_name = 1.0, ""
    for name, reference in exact.items():
        gradient = tried[name]
        noise = 0.1 * scale * reference.numel() ** 0.5
        if not gradient.isfinite().all():
            raise _off(name, precision, "it is not finite")
        ratio = ((gradient.norm() + noise) / (reference.norm() + noise)).item()
        if not 1 / MAX_NORM_RATIO < ratio < MAX_NORM_RATIO:
            raise _off(name, precision, f"its norm is {ratio:.3g} times that in float32")
        if reference.norm() > noise:
            cosine = torch.cosine_similarity(gradient.flatten(), reference.flatten(), 0).item()
            if cosine < MIN_COSINE:
                raise _off(name, precision, f"its cosine with that in float32 is {cosine:.3f}")
            if cosine < worst:
                worst, worst_name = cosine, name
    if not abs(loss - exact_loss) <= 0.05 * abs(exact_loss) + 0.01:
        raise TrainingError(
            f"trainer.precision={precision.name}: the loss of the first batch is {loss:.4g}, in "
            f"float32 {exact_loss:.4g}; use trainer.precision=fp32"
        )
    return (
        f"{precision.name} agrees with float32 on the first batch: loss {loss:.4f} and "
        f"{exact_loss:.4f}, least cosine of a gradient {worst:.4f} ({worst_name or 'all'})"
    )


def _gradients(
    model: nn.Module, loss_fn: nn.Module, image: Tensor, target: Tensor, precision: Precision
) -> tuple[float, dict[str, Tensor]]:
    with precision.autocast():
        logits = model(image)
    loss = loss_fn(logits, target)
    # fp16: a fixed scale keeps small gradients from 0; the trainer's scaler finds a better one.
    factor = 1024.0 if precision.name == "fp16" else 1.0
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss * factor, [p for _, p in named], allow_unused=True)
    found = {
        name: gradient.detach().float() / factor
        for (name, _), gradient in zip(named, gradients, strict=True)
        if gradient is not None
    }
    return loss.item(), found


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Put back BatchNorm statistics and random state; without dropout, whose draw may differ."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dropouts = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    rates = [layer.p for layer in dropouts]
    rng = torch.get_rng_state()
    for layer in dropouts:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, rate in zip(dropouts, rates, strict=True):
            layer.p = rate
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        torch.set_rng_state(rng)


def _off(name: str, precision: Precision, reason: str) -> TrainingError:
    layer = name.rpartition(".")[0]
    return TrainingError(
        f"trainer.precision={precision.name} computes a wrong gradient for layer {layer} "
        f"({name}): {reason}. Use trainer.precision=fp32; if you wrote the layer, keep it out of "
        "autocast; trainer.check_precision=false trains on regardless"
    )
