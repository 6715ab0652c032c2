"""A network as a file that runs without segkit."""

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import CheckpointError
from segkit.export.parity import in_short, resized
from segkit.export.quantize import reduce_precision
from segkit.inference.onnx_network import open_session

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript", "pt2": ".pt2"}
EXTRA_FILE = "segkit.json"  # the metadata in formats other than ONNX


class WithPreprocessing(nn.Module):
    """A network that takes bytes.

    Args:
        model: Takes normalised images.
        mean: Per channel, of values in [0, 1].
        std: Standard deviation of each channel, for values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of images, uint8 (N, 3, H, W) RGB, or of the channels and bits of the run."""
        scale = 65535 if image.dtype == torch.uint16 else 255
        logits: Tensor = self.model(image.float().div(scale).sub(self.mean).div(self.std))
        return logits


def write_model(
    model: nn.Module,
    path: Path,
    format: str,
    facts: dict[str, str],
    *,
    example: Tensor,
    opset: int,
    precision: str,
    calibration: Iterable[Tensor] = (),
    size: tuple[int, int] | None = None,
) -> None:
    """Write ``model`` for any batch size, height and width, or for single images of one size.

    Args:
        model: In eval mode, on the CPU.
        path: The file.
        format: ``onnx``, ``torchscript`` or ``pt2`` (of ``torch.export``, which asks for images
            larger than the network's stride).
        facts: Metadata; in ONNX the properties of the model, else a file ``segkit.json`` in it.
        example: What the model takes, (1, C, H, W).
        opset: Version of ONNX's operators.
        precision: See :func:`reduce_precision`; other than fp32 with ONNX only.
        calibration: As there.
        size: The height and width that the file takes; None is any, TorchScript's files take any.

    Raises:
        CheckpointError: PyTorch cannot export this model.
    """
    if size is not None:
        example = resized(example, size)
        calibration = (resized(image, size) for image in calibration)
    else:
        padded = F.pad(example.float(), (0, 96, 0, 64))[:, :, :64, :96].to(example.dtype)
        example = torch.cat([padded] * 2)
    free = {0: "batch", 2: "height", 3: "width"} if size is None else None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters about themselves
            if format == "torchscript":
                traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                    model, example, check_trace=False
                )
                torch.jit.save(traced, path, _extra_files={EXTRA_FILE: json.dumps(facts)})
            elif format == "pt2":
                sides = (dict.fromkeys(free, torch.export.Dim.DYNAMIC),) if free else None
                program = torch.export.export(model, (example,), dynamic_shapes=sides)
                torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(facts)})
            else:
                _write_onnx(model, example, path, opset, free)
                reduce_precision(path, precision, calibration)
                _add_properties(path, facts)
    except RuntimeError as error:  # the exporters' own errors are such
        others = " or ".join(f"format={other}" for other in SUFFIXES if other != format)
        raise CheckpointError(
            f"{path}: PyTorch cannot export this model as {format} ({in_short(error)}); perhaps it "
            f"can with {others}"
        ) from error


def _write_onnx(
    model: nn.Module, example: Tensor, path: Path, opset: int, free: dict[int, str] | None
) -> None:
    # It tells of a conversion that fails by a traceback; whether it did is looked at below.
    logging.getLogger("onnxscript.version_converter").setLevel(logging.ERROR)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=(free,) if free else None,
        verbose=False,
    )
    assert program is not None
    found = program.model.opset_imports[""]
    if found != opset:  # the exporter gives up a conversion without an error
        raise CheckpointError(f"{path}: PyTorch can write it with opset={found}, not {opset}")
    program.save(str(path), external_data=False)


def _add_properties(path: Path, facts: dict[str, str]) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)


def open_exported(path: Path, format: str) -> Callable[[Tensor], Tensor]:
    """What an exported file computes, without anything of this package around it.

    Raises:
        CheckpointError: It cannot be opened.
    """
    try:
        return _open(path, format)
    except Exception as error:  # of any runtime
        raise CheckpointError(f"{path}: cannot be opened again ({in_short(error)})") from error


def _open(path: Path, format: str) -> Callable[[Tensor], Tensor]:
    if format == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch would rather have pt2
            scripted: Callable[[Tensor], Tensor] = torch.jit.load(path)  # type: ignore[no-untyped-call]
        return scripted
    if format == "pt2":
        return torch.export.load(path).module()
    session = open_session(path)
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
