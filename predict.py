"""Masks of images and videos: ``python predict.py checkpoint=RUN_OR_FILE source=PATH``.

PATH is an image, a folder, a quoted glob pattern, a video, or the number of a camera. What cannot
be read is named and left out, and makes the exit status 1 at the end.
"""

import segkit  # isort: skip  # noqa: F401  (first: sets what other libraries read from environment)
from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

from pathlib import Path
from typing import Any

from segkit.cli import check_command_line, run

if __name__ == "__main__":
    check_command_line("predict")  # before the imports that take seconds: a wrong key ends at once

import torch
from omegaconf import DictConfig

from segkit.config.palette import painted
from segkit.config.schema import PredictConfig, inference_options, to_settings
from segkit.config.unused import unused_in_prediction
from segkit.errors import ConfigError, DataError
from segkit.inference.loading import KEYS
from segkit.inference.model import open_model
from segkit.inference.onnx_network import OnnxModel
from segkit.predict.outputs import Areas, PredictionOutputs
from segkit.predict.sources import AREAS, find_sources
from segkit.predict.work import Work
from segkit.runtime.device import set_up
from segkit.runtime.log import log, log_to_console, progress
from segkit.runtime.signals import Stopped, StopSignals, exit_code
from segkit.text import bullet_list, join_lines


def predict(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns how much was done, and with ``benchmark`` how fast."""
    log_to_console()
    settings = to_settings(PredictConfig, cfg)
    folder = Path(settings.out_dir)
    sources = find_sources(settings.source, folder)
    videos = sum(source.is_video for source in sources)
    if unused := unused_in_prediction(settings, videos < len(sources), videos > 0):
        raise ConfigError(join_lines(unused))
    model = open_model(settings.checkpoint, inference_options(settings), KEYS)
    precision = model.inference.precision
    set_up(precision.device)
    outputs = PredictionOutputs(
        folder,
        settings.write,
        model.classes,
        painted(model.palette, model.classes, settings.palette),
        opacity=settings.opacity,
        background=settings.background,
        outlines=settings.outlines,
        legend=settings.legend,
    )
    problems: list[str] = []
    try:
        with StopSignals() as stop, Areas(folder / AREAS, model.classes) as areas:
            work = Work(model, outputs, areas, stop, settings, len(sources))
            for source in progress(sources, "predict", len(sources), "files"):
                try:
                    work.predict(source)
                except DataError as error:
                    log.warning("left out: %s", error)
                    problems.append(str(error))
                if stop.received is not None:
                    raise Stopped(stop.received)
    except Stopped as stopped:
        log.info("stopped; %s", work.summary(folder))
        raise SystemExit(exit_code(stopped.number)) from None
    log.info("%s", work.summary(folder))
    if told := outputs.leftovers():
        log.warning("%s", told)
    speed = work.watch.summary("predict") if settings.benchmark and work.images else None
    if speed is not None:
        modules = model.inference.model.modules()
        inside = {m.facts["precision"] for m in modules if isinstance(m, OnnxModel)}
        numbers = "/".join(sorted(inside)) or precision.name
        where = f"{precision.device}, {numbers}, {torch.get_num_threads()} threads"
        log.info("%s", work.watch.text(where))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(sources)} could not be read or written"
            f"{', the others were predicted' * (len(problems) < len(sources))}:\n"
            f"{bullet_list(problems)}"
        )
    return {"sources": len(sources), "images": work.images, "benchmark": speed}


if __name__ == "__main__":
    run("predict", predict)
