"""Score a checkpoint: ``python evaluate.py checkpoint=RUN_OR_FILE [key=value ...]``.

Or saved masks: ``python evaluate.py predictions=FOLDER data.root=PATH split=val``.

Model, classes and preprocessing come out of the checkpoint. Every pixel is compared at the size
that its mask has on disk, in one confusion matrix over the whole split.
"""

import segkit  # isort: skip  (first: sets what other libraries read from the environment)
from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from segkit.cli import check_command_line, run

if __name__ == "__main__":
    check_command_line("evaluate")  # before the imports that take seconds: a wrong key ends at once

import torch
from omegaconf import DictConfig

from segkit.data.check import check_splits
from segkit.data.loader import Collate, eval_loader
from segkit.data.workers import batches, close, resolve_num_workers
from segkit.evaluation.comparison import compare
from segkit.evaluation.measures import Measures
from segkit.evaluation.outputs import Output, image_result
from segkit.evaluation.split import own_data, saved_data
from segkit.evaluation.target import make_target, open_source
from segkit.inference.loading import read_checkpoints
from segkit.report.html.findings import Findings
from segkit.report.html.page import check_libraries
from segkit.runtime.device import pick_device, set_up
from segkit.runtime.distributed import DistributedContext, connect
from segkit.runtime.log import log, log_to_console, progress
from segkit.text import display_path, throughput


def score(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns the content of ``metrics.json``."""
    with connect() as world, ExitStack() as stack:
        log_to_console(world.rank)
        return score_in(world, cfg, stack)


def score_in(world: DistributedContext, cfg: DictConfig, stack: ExitStack) -> dict[str, Any]:
    """:func:`score` in one of the processes of ``world``; ``stack`` is closed when it is done."""
    if cfg.report.write:
        check_libraries()
    device = pick_device(cfg.device, world.local_rank, world.size)
    set_up(device)

    # Checkpoint or folder -> data set -> what predicts, and what it is compared with
    source = Path(cfg.predictions) if cfg.predictions else read_checkpoints(cfg.checkpoint)
    data = own_data(cfg) if isinstance(source, Path) else saved_data(cfg, source[0])
    sources = [source, *([open_source(cfg.compare)] if cfg.compare is not None else [])]
    subjects = [make_target(one, cfg, data, device) for one in sources]
    if cfg.data.check:
        splits = {data.split: data.dataset}
        palette, ignored = data.palette, data.ignore_index
        check = partial(check_splits, splits, ignore_index=ignored, trained=False, palette=palette)
        for warning in world.broadcast_from_main(check).warnings:
            log.warning("warning: %s", warning)
    output = Output(cfg, data, subjects[0].paths)
    if world.is_main:  # the others end before it writes
        stack.callback(output.close)

    # Data set -> batches -> predictions -> measures, and masks as files
    image_batches = eval_loader(
        data.dataset,
        collate=Collate((0, 0, 0), data.ignore_index),  # pads nothing: equal sizes only
        batch_size=cfg.loader.batch_size,
        num_workers=resolve_num_workers(cfg.loader.num_workers),
        device=device,
        rank=world.rank,
        world_size=world.size,
    )
    stack.callback(close, image_batches)
    num_images = len(range(world.rank, len(data.dataset), world.size))
    findings = Findings(len(data.classes), data.ignore_index, data.palette, cfg.report.max_images)
    measured: list[Measures] = []
    started = time.perf_counter()
    for subject in subjects:
        measures = Measures(
            len(data.classes),
            data.ignore_index,
            dilation_ratio=cfg.boundary.dilation_ratio,
            trimap_widths=cfg.boundary.trimap_widths,
        )
        predicted = subject.predict(batches(image_batches))
        for image in progress(predicted, data.split, num_images, "images"):
            measures.update(image)
            if subject is subjects[0]:
                output.add(image)
                if cfg.report.write:
                    findings.update(image_result(image))
        measures.gather(world)
        measured.append(measures)
    others = world.gather(findings)[1:]
    speed = len(subjects) * len(data.dataset) / (time.perf_counter() - started)

    # Measures -> scores -> files
    result = {
        **subjects[0].facts,
        **subjects[0].provenance(world),
        "split": data.split,
        "images": len(data.dataset),
        "convention": "one confusion matrix over all pixels that are not ignored",
        "size": "original",
        "classes": data.classes,
        **measured[0].scores(),
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),
    }
    if not world.is_main:
        return result
    draws = {name: cfg.bootstrap[name] for name in ("resamples", "level", "seed")}
    if cfg.bootstrap.resamples:
        result["bootstrap"] = measured[0].intervals(cfg.bootstrap.level)
    output.scores(result, measured[0])
    comparison: dict[str, Any] | None = None
    if len(measured) == 2:
        first, second = measured
        difference = compare(
            first.scores(),
            second.scores(),
            (first.counts, second.counts),
            (first.image_mious, second.image_mious),
            data.classes,
            **draws,
        )
        comparison = {"files": [subject.facts for subject in subjects], **difference}
        output.comparison(comparison)
    if cfg.report.write:
        for other in others:
            findings.merge(other)
        output.report(source, result, measured[0], findings, comparison)
    log.info(
        "%d images of %s, %s; written to %s",
        len(data.dataset),
        data.split,
        throughput(speed),
        display_path(output.folder),
    )
    return result


if __name__ == "__main__":
    run("evaluate", score)
