"""Is a reduced precision right for this model on this machine? One batch tells before step 1.

Some kernels compute garbage in some formats without a word: dilated depthwise convolutions in
bfloat16 and channels_last on CPUs with AVX-512, for one. A run then learns badly for hundreds of
steps and ends in NaN.

Gradients of the whole network cannot be compared: through dozens of BatchNorm layers rounding
alone turns them, and a sound MobileNetV2 has cosines below 0 between bfloat16 and float32. So each
layer is compared by itself, on the input that it has in the network and a random gradient of its
output. Only the layer's own rounding is left then: 0.3 % at most in all our backbones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segkit.data.loader import Batch
from segkit.errors import TrainingError
from segkit.runtime.device import DTYPES, Precision
from segkit.training.step import TrainStep

# Ten times what sound layers show. It bounds the norm to within 3 % and the cosine above 0.9995.
MAX_ERROR = 0.03
MAX_IMAGES = 2  # float32 needs more memory than the precision that the batch size was chosen for
SLOPE = 1 / 64  # size of the random gradients: sums over a large map of them must fit into fp16


def check_precision(
    model: nn.Module, loss_fn: nn.Module, image: Tensor, target: Tensor, precision: Precision
) -> str:
    """Compare every layer's output and gradients, and the loss, with those in float32.

    A layer is a module with trainable parameters of its own that returns a tensor. Model, its
    statistics and the random numbers are as before afterwards.

    Args:
        model: In train mode.
        loss_fn: Called as ``loss_fn(logits, target)``.
        image: float32 (N, C, H, W); the first two are enough.
        target: int64 (N, H, W).
        precision: The one to try.

    Returns:
        One line on how close they are.

    Raises:
        TrainingError: Something is off; names the layer and the way out.
    """
    image, target = image[:MAX_IMAGES], target[:MAX_IMAGES]
    exact = Precision("fp32", precision.device)
    with _as_before(model, precision.device):
        with _compared(model, precision) as errors, torch.no_grad(), exact.autocast():
            exact_loss = loss_fn(model(image), target).item()
        with precision.autocast():
            logits = model(image)
        loss = loss_fn(logits, target)
        _check_whole(model, loss, exact_loss, precision)
    name, error = max(errors.items(), key=lambda item: item[1], default=("no layer", 0.0))
    return (
        f"{precision.name} agrees with float32 on the first batch: loss {loss.item():.4f} and "
        f"{exact_loss:.4f}, largest error of a layer {100 * error:.2f} % ({name})"
    )


def try_precision(model: nn.Module, step: TrainStep, batch: Batch) -> str:
    """:func:`check_precision` on the first images of a batch; nothing of it stays on the device.

    Args:
        model: In train mode, on the device.
        step: What a training step does.
        batch: A batch of the training split.
    """
    device = step.precision.device
    image = step.normalize(batch.image[:MAX_IMAGES].to(device))
    target = batch.target[:MAX_IMAGES].to(device).long()
    text = check_precision(model, step.loss_fn, image, target, step.precision)
    if device.type == "cuda":  # float32's memory is none of the run's
        torch.cuda.reset_peak_memory_stats(device)
    return text


@contextmanager
def _compared(model: nn.Module, precision: Precision) -> Iterator[dict[str, float]]:
    """While it lasts, a forward pass compares each layer; yields the largest error of each."""
    largest: dict[str, float] = {}

    def compare(
        name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        if not isinstance(output, Tensor):
            return
        call = partial(layer.forward, **kwargs)  # calling the layer would run this hook again
        for what, error in _errors(layer, call, args, output, precision).items():
            if not error <= MAX_ERROR:  # NaN is off, too
                raise TrainingError(
                    f"trainer.precision={precision.name} computes {what} of layer {name} wrongly: "
                    f"it differs from that in float32 by {100 * error:.3g} %. Use "
                    "trainer.precision=fp32; if you wrote the layer, keep it out of autocast; "
                    "trainer.check_precision=false trains on regardless"
                )
            largest[name] = max(largest.get(name, 0.0), error)

    hooks = [
        layer.register_forward_hook(partial(compare, name), with_kwargs=True)
        for name, layer in model.named_modules()
        if any(p.requires_grad for p in layer.parameters(recurse=False))
    ]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _errors(
    layer: nn.Module,
    call: Callable[..., Tensor],
    args: tuple[Any, ...],
    output: Tensor,
    precision: Precision,
) -> dict[str, float]:
    """How far output and gradients of one layer are off, as a part of the float32 value."""
    dtype = DTYPES[precision.name]
    # Both get the same, rounded numbers, so that only what the layer itself does can differ.
    args = tuple(arg.to(dtype) if _is_float(arg) else arg for arg in args)
    slope = (torch.randn_like(output) * SLOPE).to(dtype)
    exact = _run(layer, call, args, slope, torch.float32, Precision("fp32", precision.device))
    tried = _run(layer, call, args, slope, dtype, precision)
    errors = {}
    for what, reference in exact.items():
        difference = (tried[what] - reference).norm().item()
        # Where the true value is next to nothing, rounding is all there is.
        floor = SLOPE * torch.finfo(dtype).eps * reference.numel() ** 0.5
        errors[what] = difference / max(reference.norm().item(), floor)
    return errors


def _run(
    layer: nn.Module,
    call: Callable[..., Tensor],
    args: tuple[Any, ...],
    slope: Tensor,
    dtype: torch.dtype,
    precision: Precision,
) -> dict[str, Tensor]:
    """Output and gradients of one layer, float32, for inputs in ``dtype``."""
    inputs = [a.detach().to(dtype).requires_grad_() if _is_float(a) else a for a in args]
    params = {n: p for n, p in layer.named_parameters(recurse=False) if p.requires_grad}
    wanted: dict[str, Tensor] = {f"the gradient of the {name}": p for name, p in params.items()}
    of_inputs = {f"the gradient of input {i}": x for i, x in enumerate(inputs) if _is_float(x)}
    with torch.enable_grad(), precision.autocast():
        output = call(*inputs)
    # Those of the inputs always: GroupNorm without its input's is a segmentation fault up to torch
    # 2.11.
    gradients = torch.autograd.grad(
        output,
        [*wanted.values(), *of_inputs.values()],
        slope.to(output.dtype),
        materialize_grads=True,
    )
    found = dict(zip([*wanted, *of_inputs], gradients, strict=True)) | {"the output": output}
    if not any(p.ndim > 1 for p in params.values()):
        # Not compared for norms: theirs is a small difference of large numbers, all rounding.
        found = {what: tensor for what, tensor in found.items() if what not in of_inputs}
    return {what: tensor.detach().float() for what, tensor in found.items()}


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _check_whole(model: nn.Module, loss: Tensor, exact: float, precision: Precision) -> None:
    """Refuse a loss that differs from the ``exact`` one, and gradients that are not finite."""
    if not abs(loss.item() - exact) <= 0.05 * abs(exact) + 0.01:
        raise TrainingError(
            f"trainer.precision={precision.name}: the loss of the first batch is "
            f"{loss.item():.4g}, in float32 {exact:.4g}; use trainer.precision=fp32"
        )
    # fp16's gradients may overflow at any scale but that of the trainer's scaler, which sees to it.
    if precision.name == "fp16":
        return
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    for (name, _), gradient in zip(named, gradients, strict=True):
        if gradient is not None and not gradient.isfinite().all():
            raise TrainingError(
                f"trainer.precision={precision.name}: the gradient of {name} is not finite on the "
                "first batch; use trainer.precision=fp32"
            )


@contextmanager
def _as_before(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back buffers and random state; without dropout, whose draws depend on the format."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dropouts = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    modes = [layer.training for layer in dropouts]
    for layer in dropouts:
        layer.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for layer, mode in zip(dropouts, modes, strict=True):
            layer.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
