"""Write a checkpoint as a file for other runtimes: ``python export.py checkpoint=RUN_OR_FILE``.

The file takes any batch size, height and width, knows its classes, colours and preprocessing, and
appears only after its logits were compared with those of the checkpoint.
"""

import segkit  # isort: skip  # noqa: F401  (first: sets what other libraries read from environment)
from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from segkit.cli import check_command_line, run

if __name__ == "__main__":
    check_command_line("export")  # before the imports that take seconds: a wrong key ends at once

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError, DataError
from segkit.export.parity import CHECKED_BATCHES, TOLERANCES, check_parity, in_short, latency
from segkit.export.writer import SUFFIXES, WithPreprocessing, open_model, write_model
from segkit.files import atomic_write
from segkit.inference.loading import load_network, rebuild_dataset, setting
from segkit.inference.onnx_network import metadata, require
from segkit.models.normalize import Normalize, memory_order
from segkit.runs.checkpoint import Checkpoint, read_checkpoint
from segkit.runs.folder import run_of
from segkit.runtime.finite import all_finite, refuse_logits
from segkit.runtime.log import log, log_to_console, progress
from segkit.text import display_path


def export(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns where the file is, how far it is off, and how fast it is."""
    log_to_console(0)
    if cfg.format == "onnx":
        require("onnx", "onnxruntime", "onnxscript")
    elif cfg.precision != "fp32":
        raise ConfigError(
            f"precision={cfg.precision} is for format=onnx, not for {cfg.format}; leave precision "
            "out, or give format=onnx"
        )

    # Checkpoint -> network that takes normalised images, or bytes
    checkpoint = read_checkpoint(cfg.checkpoint)
    about = checkpoint.about
    path = file_name(cfg, checkpoint.path)
    model: nn.Module = load_network(checkpoint, list(cfg.allow), cfg.weights)
    # What few bits do to made-up pictures says little about those that the network is for.
    in_int8 = cfg.precision.startswith("int8")
    pictures = read_pictures(cfg, checkpoint) if in_int8 else made_up_pictures()
    if cfg.include_preprocessing:
        model = WithPreprocessing(model, about.mean, about.std)
    else:
        normalize = Normalize(tuple(about.mean), tuple(about.std), channels_last=False)
        pictures = ((name, normalize(picture)) for name, picture in pictures)
    images = finite_pictures(model.eval(), pictures, str(checkpoint.path))
    samples = list(islice(images, max(CHECKED_BATCHES)))

    # Network -> file, which is compared with it
    facts = metadata(
        checkpoint,
        preprocessing=cfg.include_preprocessing,
        precision=cfg.precision,
        opset=cfg.opset if cfg.format == "onnx" else None,
    )
    tolerance = TOLERANCES[cfg.precision]
    with atomic_write(path) as temporary:
        write_model(
            model,
            temporary,
            cfg.format,
            facts,
            example=samples[0],
            opset=cfg.opset,
            precision=cfg.precision,
            calibration=chain(samples, images),
        )
        exported = open_model(temporary, cfg.format)
        parity = check_parity(model, exported, samples, tolerance)
        # How fast, side by side
        seconds = speeds(cfg, checkpoint, model, exported, samples[0]) if cfg.latency.runs else {}
    log.info("%s (%.1f MB)", display_path(path), path.stat().st_size / 1e6)
    log.info("%s", parity)
    log.info("(accepted: at most %.0e, at least %g %%)", tolerance.difference, 100 * tolerance.same)
    if seconds:
        log.info(
            "one image of %s on the CPU, %d threads, median of %d: PyTorch %.1f ms, %s %.1f ms",
            "x".join(map(str, cfg.latency.size)),
            torch.get_num_threads(),
            cfg.latency.runs,
            1000 * seconds["torch_seconds"],
            "onnxruntime" if cfg.format == "onnx" else cfg.format,
            1000 * seconds["exported_seconds"],
        )
    return {
        "path": str(path),
        "difference": parity.difference,
        "same": parity.same,
        **seconds,
    }


def file_name(cfg: DictConfig, checkpoint: Path) -> Path:
    """Where the file goes: by default ``export/<checkpoint>.<suffix>`` in the run folder."""
    suffix = SUFFIXES[cfg.format]
    if cfg.out is not None:
        if Path(cfg.out).suffix != suffix:
            raise ConfigError(f"out={cfg.out}: expected a name that ends in {suffix}")
        return Path(cfg.out)
    kind = "" if cfg.precision == "fp32" else f"-{cfg.precision}"
    return run_of(checkpoint) / "export" / f"{checkpoint.stem}{kind}{suffix}"


def speeds(
    cfg: DictConfig,
    checkpoint: Checkpoint,
    model: nn.Module,
    exported: Callable[[Tensor], Tensor],
    sample: Tensor,
) -> dict[str, float]:
    """Seconds that the network and the file take for ``sample`` at the size ``latency.size``.

    Raises:
        ConfigError: The file cannot take this size.
    """
    image = F.interpolate(sample.float(), list(cfg.latency.size)).to(sample.dtype)
    # PyTorch in the memory order in which predict.py lets it compute.
    order = memory_order(setting(checkpoint, "trainer.channels_last", bool))
    model, image = model.to(memory_format=order), image.contiguous(memory_format=order)
    ours = latency(model, image, runs=cfg.latency.runs)
    try:
        theirs = latency(exported, image, runs=cfg.latency.runs)
    except Exception as error:  # of any runtime
        raise ConfigError(
            f"latency.size={cfg.latency.size}: {cfg.format} fails on such an image "
            f"({in_short(error)}). Nothing was written; give a larger one, or latency.runs=0"
        ) from error
    return {"torch_seconds": ours, "exported_seconds": theirs}


@torch.no_grad()
def finite_pictures(
    model: nn.Module, pictures: Iterator[tuple[str, Tensor]], source: str
) -> Iterator[Tensor]:
    """The pictures without their names, each with finite logits.

    Raises:
        CheckpointError: Those of a picture hold NaN or infinity, of which no range can be taken.
    """
    for name, picture in pictures:
        refuse_logits([all_finite(model(picture))], name, source, "fp32")
        yield picture


def made_up_pictures() -> Iterator[tuple[str, Tensor]]:
    """A few pictures with names, uint8 (1, 3, H, W), that are smooth as photographs are."""
    rough = torch.rand(4, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(rough, (192, 256), mode="bicubic").clamp(0, 1)
    for picture in (255 * smooth).to(torch.uint8):
        yield "a made-up picture", picture[None]


def read_pictures(cfg: DictConfig, checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Pictures from all over the data of the run with their ids, uint8 (1, 3, H, W), one by one.

    Raises:
        DataError: The data is not there, or cannot be read.
    """
    split = cfg.calibration.split or setting(checkpoint, "data.train_split", str)
    try:
        dataset = rebuild_dataset(checkpoint, split, cfg.calibration.root, list(cfg.allow))
    except DataError as error:
        raise DataError(
            f"{error}. {cfg.precision} needs pictures of the run's data: give calibration.root=PATH"
        ) from error
    count = min(cfg.calibration.images, len(dataset))
    # Far apart and in no order, so that the first few are a sample too.
    chosen = np.random.default_rng(0).permutation(len(dataset))[:count].tolist()
    for i in progress(chosen, "calibration", count, "images"):
        pixels = np.ascontiguousarray(dataset.read(i)[0].transpose(2, 0, 1))
        yield str(dataset.ids[i]), torch.from_numpy(pixels)[None]


if __name__ == "__main__":
    run("export", export)
