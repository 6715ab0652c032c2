"""A network out of an ONNX file of ours, to be used like the one that it was made of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segkit
from segkit.commands import command
from segkit.errors import CheckpointError, ConfigError
from segkit.files import refuse_special
from segkit.inference.onnx_data import has_external_data
from segkit.runs.checkpoint import Checkpoint
from segkit.runs.description import described
from segkit.runs.plain import Test, expect, expect_entries, is_count, is_text

METADATA_FORMAT = "1"
CPU = "CPUExecutionProvider"
# What the metadata share with a checkpoint's description, and what they tell besides.
DESCRIBED = ("config", "classes", "palette", "ignore_index", "mean", "std")
IMAGES = ("trained_on", "pretrained_on")  # not in the oldest files
PRECISIONS = ("fp32", "fp16", "int8_dynamic", "int8_static")
FACTS: dict[str, tuple[Test, str]] = {
    **dict.fromkeys(("format", "segkit", "torch"), (is_text, "a version")),
    "preprocessing": (lambda value: type(value) is bool, "true or false"),
    "precision": (lambda value: is_text(value) and value in PRECISIONS, ", ".join(PRECISIONS)),
    "opset": (is_count, "a version of ONNX's operators"),
    "epoch": (lambda value: value is None or is_count(value), "a number of epochs"),
}
# ``size`` is for other readers: here the graph itself tells what it takes.


def require(*packages: str) -> None:
    """Raise a ConfigError with the way out unless all of the optional packages are there."""
    if missing := [package for package in packages if find_spec(package) is None]:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"{', '.join(missing)} {verb} not installed: python -m pip install {' '.join(missing)}"
        )


def export_metadata(
    checkpoint: Checkpoint,
    *,
    preprocessing: bool,
    precision: str,
    opset: int | None,
    size: tuple[int, int] | None = None,
) -> dict[str, str]:
    """What an exported file says of itself: every value as JSON.

    Args:
        checkpoint: What it is made of.
        preprocessing: It takes bytes, and normalises them itself.
        precision: fp32, fp16, int8_dynamic or int8_static: how it computes.
        opset: Version of ONNX's operators; None for other formats.
        size: Height and width of the images that it takes; None is any.
    """
    metadata = checkpoint.metadata
    config = {
        key: metadata.config[key]
        for key in ("data", "trainer", "val", "loss", "palette")
        if key in metadata.config
    }
    content = {
        "format": METADATA_FORMAT,
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),
        **{name: getattr(metadata, name) for name in (*DESCRIBED, *IMAGES) if name != "config"},
        "window": metadata.window,
        "preprocessing": preprocessing,
        "precision": precision,
        "opset": opset,
        "size": size,
        "epoch": checkpoint.state.get("epoch"),
        "config": config,
    }
    return {key: json.dumps(value) for key, value in content.items()}


def open_session(path: Path | str, providers: Sequence[str] = (CPU,)) -> Any:
    """onnxruntime's session on a file, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone: it comments on quantised graphs at length
    return onnxruntime.InferenceSession(str(path), options, providers=list(providers))


class OnnxModel(nn.Module):
    """What the network in a checkpoint is, but computed by onnxruntime.

    Takes normalised images like the original, also where the preprocessing is in the file: then
    they are turned back into bytes first. So everything that works with the original does with
    this, on the same numbers. A file of one fixed size takes smaller images too: what they lack at
    the right and below is filled with the mean colour, and cut off the logits.

    Args:
        path: A file that ``export.py format=onnx`` wrote.

    Attributes:
        facts: The metadata as builtins: ``classes``, ``palette``, ``mean``, ``std``,
            ``ignore_index``, ``preprocessing``, ``precision``, ``opset``, ...
        size: The height and width that the graph takes; None is any.

    Raises:
        CheckpointError: Not there, no ONNX file, or none of ours.
        ConfigError: onnxruntime is missing.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        require("onnxruntime")
        import onnxruntime

        refuse_special(path, CheckpointError)
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file")
        if has_external_data(Path(path)):
            raise CheckpointError(
                f"{path}: some of its numbers are in other files, which export.py never does: "
                f"refused. Export the checkpoint with {command('export')}"
            )
        known = onnxruntime.get_available_providers()
        try:
            self.session = open_session(
                path, [name for name in ("CUDAExecutionProvider", CPU) if name in known]
            )
        except Exception as error:  # its own classes, which it does not document
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: onnxruntime cannot read it ({reason})") from error
        self.path = Path(path)
        self.facts = read_facts(self.path, self.session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        config = self.facts["config"]  # of a file that may be anybody's
        data = config.get("data") if isinstance(config, dict) else None
        bits = 16 if isinstance(data, dict) and data.get("bits") == 16 else 8
        self.bytes = torch.uint16 if bits == 16 else torch.uint8
        kind = f"tensor(uint{bits})" if self.facts["preprocessing"] else "tensor(float)"
        if [one.type for one in inputs] != [kind] or len(outputs) != 1:
            raise CheckpointError(
                f"{path}: takes {', '.join(one.type for one in inputs)} and makes {len(outputs)} "
                f"outputs; expected {kind} and one output. Was it edited?"
            )
        self.input = inputs[0].name
        sides = inputs[0].shape[2:]  # texts where any number is taken
        fixed = len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)
        self.size: tuple[int, int] | None = tuple(sides) if fixed else None

    def forward(self, image: Tensor) -> Tensor:
        """Logits float32 (N, C, H, W) of normalised images, float (N, C, H, W)."""
        given = image.detach().float()
        height, width = image.shape[2:]
        if self.size is not None:
            below, right = self.size[0] - height, self.size[1] - width
            if min(below, right) < 0:
                raise CheckpointError(
                    f"{self.path}: takes images of {self.size[0]} x {self.size[1]} pixels, one is "
                    f"{height} x {width}; take windows of that size, or export without size"
                )
            given = F.pad(given, (0, right, 0, below))  # 0 is the mean
        if self.facts["preprocessing"]:
            mean, std = (
                given.new_tensor(self.facts[name]).view(-1, 1, 1) for name in ("mean", "std")
            )
            most = torch.iinfo(self.bytes).max
            given = given.mul(std).add(mean).mul(most).round().clamp(0, most).to(self.bytes)
        try:
            (logits,) = self.session.run(None, {self.input: given.contiguous().cpu().numpy()})
        except Exception as error:  # its own classes, which it does not document
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self.path}: onnxruntime fails on an image of {tuple(image.shape)} ({reason})"
            ) from error
        return torch.from_numpy(np.asarray(logits))[..., :height, :width].to(image.device)


def read_facts(path: Path, properties: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of an exported file as builtins, checked; those of others are left out.

    Raises:
        CheckpointError: None of ours, or an entry is not what it should be.
    """
    known = properties.keys() & {*DESCRIBED, *IMAGES, *FACTS}
    try:
        facts = {name: json.loads(properties[name], parse_constant=_no_number) for name in known}
    except (ValueError, RecursionError):
        facts = {}
    if facts.get("format") != METADATA_FORMAT:
        raise CheckpointError(
            f"{path}: no file of segkit's export.py: its metadata lack the classes and the "
            f"preprocessing. Export the checkpoint with {command('export')}"
        )
    expect_entries(path, "its metadata", facts, (*DESCRIBED, *FACTS))
    for name, (test, expected) in FACTS.items():
        expect(path, name, facts[name], test, expected)
    return facts


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


@dataclass(frozen=True)
class ExportedCheckpoint(Checkpoint):
    """An exported file in the place of a checkpoint: not weights, but a network that is open."""

    network: OnnxModel = field(kw_only=True)


def read_onnx(path: Path | str) -> ExportedCheckpoint:
    """An exported file as a checkpoint.

    Raises:
        CheckpointError: As :class:`OnnxModel`.
        ConfigError: onnxruntime is not installed.
    """
    network = OnnxModel(path)
    facts = network.facts
    # fp32 is what surrounds it; what it does inside is its own affair.
    entries = {name: facts[name] for name in (*DESCRIBED, *IMAGES) if name in facts}
    entries["precision"] = "fp32"
    metadata = described(Path(path), entries)
    return ExportedCheckpoint(Path(path), {"epoch": facts["epoch"]}, metadata, {}, network=network)
