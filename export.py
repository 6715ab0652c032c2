"""Write a checkpoint as a file for other runtimes: ``python export.py checkpoint=RUN_OR_FILE``.

The file takes any batch size, height and width, or with ``size=[H,W]`` single images of one size.
It knows its classes, colours and preprocessing, and appears only after its logits were compared
with those of the checkpoint.
"""

import segkit  # isort: skip  # noqa: F401  (first: sets what other libraries read from environment)
from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from segkit.cli import check_command_line, run

if __name__ == "__main__":
    check_command_line("export")  # before the imports that take seconds: a wrong key ends at once

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.config.schema import ExportConfig, to_settings
from segkit.errors import ConfigError
from segkit.export.images import finite_images, made_up_images, read_images
from segkit.export.parity import CHECKED_BATCHES, TOLERANCES, check_parity, in_short, latency
from segkit.export.writer import SUFFIXES, WithPreprocessing, open_exported, write_model
from segkit.files import atomic_write
from segkit.inference.loading import load_network, saved_bits, setting
from segkit.inference.onnx_network import export_metadata, require
from segkit.inference.predictor import pair
from segkit.models.normalize import Normalize, memory_order
from segkit.runs.checkpoint import Checkpoint, read_checkpoint
from segkit.runs.folder import run_of
from segkit.runtime.log import log, log_to_console
from segkit.text import display_path


def export(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns where the file is, how far it is off, and how fast it is."""
    log_to_console()
    settings = to_settings(ExportConfig, cfg)
    if settings.format == "onnx":
        require("onnx", "onnxruntime", "onnxscript")
    elif settings.precision != "fp32":
        raise ConfigError(
            f"precision={settings.precision} is for format=onnx, not for {settings.format}; "
            "leave precision out, or give format=onnx"
        )

    check_sizes(settings)

    # Checkpoint -> network that takes normalised images, or bytes
    checkpoint = read_checkpoint(settings.checkpoint)
    metadata = checkpoint.metadata
    path = file_name(settings, checkpoint.path)
    model: nn.Module = load_network(checkpoint, settings.allow, settings.weights)
    # What few bits do to made-up images says little about those that the network is for.
    in_int8 = settings.precision.startswith("int8")
    made_up = made_up_images(len(metadata.mean), saved_bits(metadata))
    named = read_images(settings, checkpoint) if in_int8 else made_up
    if settings.include_preprocessing:
        model = WithPreprocessing(model, metadata.mean, metadata.std)
    else:
        normalize = Normalize(tuple(metadata.mean), tuple(metadata.std), channels_last=False)
        named = ((name, normalize(image)) for name, image in named)
    images = finite_images(model.eval(), named, str(checkpoint.path))
    samples = list(islice(images, max(CHECKED_BATCHES)))

    # Network -> file, which is compared with it
    size = pair(settings.size)
    facts = export_metadata(
        checkpoint,
        preprocessing=settings.include_preprocessing,
        precision=settings.precision,
        opset=settings.opset if settings.format == "onnx" else None,
        size=size,
    )
    tolerance = TOLERANCES[settings.precision]
    with atomic_write(path) as temporary:
        write_model(
            model,
            temporary,
            settings.format,
            facts,
            example=samples[0],
            opset=settings.opset,
            precision=settings.precision,
            calibration=chain(samples, images),
            size=size,
        )
        exported = open_exported(temporary, settings.format)
        parity = check_parity(model, exported, samples, tolerance, size)
        seconds = {}
        if settings.latency.runs:  # how fast, side by side
            seconds = speeds(settings, checkpoint, model, exported, samples[0])
    log.info("%s (%.1f MB)", display_path(path), path.stat().st_size / 1e6)
    log.info("%s", parity)
    log.info("(accepted: at most %.0e, at least %g %%)", tolerance.difference, 100 * tolerance.same)
    if seconds:
        log.info(
            "one image of %s on the CPU, %d threads, median of %d: PyTorch %.1f ms, %s %.1f ms",
            "x".join(map(str, latency_size(settings))),
            torch.get_num_threads(),
            settings.latency.runs,
            1000 * seconds["torch_seconds"],
            "onnxruntime" if settings.format == "onnx" else settings.format,
            1000 * seconds["exported_seconds"],
        )
    return {
        "path": str(path),
        "difference": parity.difference,
        "same": parity.same,
        **seconds,
    }


def check_sizes(settings: ExportConfig) -> None:
    """Raise a ConfigError where ``size`` is for nothing, or is not the size that is measured."""
    if settings.size is None:
        return
    if settings.format == "torchscript":
        raise ConfigError(
            "size is for format=onnx and format=pt2: a TorchScript file takes images of any size; "
            "leave size out"
        )
    if latency_size(settings) != settings.size:
        raise ConfigError(
            f"latency.size={settings.latency.size}: the file takes size={settings.size} alone; "
            "leave latency.size out"
        )


def latency_size(settings: ExportConfig) -> list[int]:
    """Height and width of the image that is measured."""
    return settings.latency.size or settings.size or [256, 256]


def file_name(settings: ExportConfig, checkpoint: Path) -> Path:
    """Where the file goes: by default ``export/<checkpoint>.<suffix>`` in the run folder."""
    suffix = SUFFIXES[settings.format]
    if settings.out is not None:
        if Path(settings.out).suffix != suffix:
            raise ConfigError(f"out={settings.out}: expected a name that ends in {suffix}")
        return Path(settings.out)
    kind = "" if settings.precision == "fp32" else f"-{settings.precision}"
    return run_of(checkpoint) / "export" / f"{checkpoint.stem}{kind}{suffix}"


def speeds(
    settings: ExportConfig,
    checkpoint: Checkpoint,
    model: nn.Module,
    exported: Callable[[Tensor], Tensor],
    sample: Tensor,
) -> dict[str, float]:
    """Seconds that the network and the file take for ``sample`` at :func:`latency_size`.

    Raises:
        ConfigError: The file cannot take this size.
    """
    size = latency_size(settings)
    image = F.interpolate(sample.float(), size).to(sample.dtype)
    # PyTorch in the memory order in which predict.py lets it compute.
    order = memory_order(setting(checkpoint, "trainer.channels_last", bool))
    model, image = model.to(memory_format=order), image.contiguous(memory_format=order)
    ours = latency(model, image, runs=settings.latency.runs)
    try:
        theirs = latency(exported, image, runs=settings.latency.runs)
    except Exception as error:  # of any runtime
        raise ConfigError(
            f"latency.size={size}: {settings.format} fails on such an image "
            f"({in_short(error)}). Nothing was written; give a larger one, or latency.runs=0"
        ) from error
    return {"torch_seconds": ours, "exported_seconds": theirs}


if __name__ == "__main__":
    run("export", export)
