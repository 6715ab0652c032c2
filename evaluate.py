"""Score a checkpoint: ``python evaluate.py checkpoint=RUN_OR_FILE [key=value ...]``.

Or saved masks: ``python evaluate.py predictions=FOLDER data.root=PATH split=val``.

Model, classes and preprocessing come out of the checkpoint. Every pixel is compared at the size
that its mask has on disk, in one confusion matrix over the whole split.
"""

import segkit  # isort: skip  (first: sets what other libraries read from the environment)

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segkit.config import check_command_line, rebuild, run

if __name__ == "__main__":
    check_command_line("evaluate")  # before the imports that take seconds: a wrong key ends at once

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from segkit.config.load import load_inference, read_checkpoints
from segkit.data.check import check_splits
from segkit.data.contract import SegmentationDataset
from segkit.data.loader import Batch, Collate, eval_loader
from segkit.data.masks import write_mask
from segkit.data.voc import VOCSegmentation
from segkit.data.workers import batches, close, resolve_num_workers
from segkit.engine.checkpoint import Checkpoint
from segkit.engine.distributed import World, connect
from segkit.engine.evaluation import PredictedMask, predict_masks
from segkit.engine.inference import Inference
from segkit.engine.log import log, log_to_console, progress
from segkit.engine.measures import Measures
from segkit.engine.memory import keep_freed_memory
from segkit.engine.precision import allow_tf32, pick_device
from segkit.engine.saved_masks import SavedMasks, holds_masks
from segkit.errors import ConfigError
from segkit.report.comparison import compare, comparison_table
from segkit.report.files import write_scores
from segkit.report.html.findings import Findings
from segkit.report.html.page import ReportData, check_libraries, read_history, write_report
from segkit.report.suspicious import write_suspicious
from segkit.report.tables import class_table, more_scores, write_json


@dataclass(frozen=True)
class Data:
    """The split that is scored, and what must be known of its masks."""

    dataset: SegmentationDataset
    split: str
    ignore_index: int
    palette: NDArray[np.uint8]

    @property
    def classes(self) -> list[str]:
        return list(self.dataset.classes)


@dataclass(frozen=True)
class Subject:
    """What is scored: a model or saved masks.

    Attributes:
        paths: Checkpoints, several of an ensemble, or the folder of the masks.
        predict: Batches to the predictions for their images.
        facts: What ``metrics.json`` says of it.
        inference: How it computes; None for saved masks.
    """

    paths: list[Path]
    predict: Callable[[Iterable[Batch]], Iterator[PredictedMask]]
    facts: dict[str, Any]
    inference: Inference | None = None


def score(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns the content of ``metrics.json``."""
    with connect() as world, ExitStack() as stack:
        log_to_console(world.rank)
        return score_in(world, cfg, stack)


def score_in(world: World, cfg: DictConfig, stack: ExitStack) -> dict[str, Any]:
    """:func:`score` in one of the processes of ``world``; ``stack`` is closed when it is done."""
    if cfg.report.write:
        check_libraries()
    device = pick_device(cfg.device, world.local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        allow_tf32()

    # Checkpoint or folder -> data set -> what predicts, and what it is compared with
    source = Path(cfg.predictions) if cfg.predictions else read_checkpoints(cfg.checkpoint)
    data = own_data(cfg) if isinstance(source, Path) else saved_data(cfg, source[0])
    sources = [source, *([open_source(cfg.compare)] if cfg.compare else [])]
    subjects = [make_subject(one, cfg, data, device) for one in sources]
    if cfg.data.check:
        splits = {data.split: data.dataset}
        check = partial(check_splits, splits, ignore_index=data.ignore_index)
        for warning in world.from_main(check).warnings:
            log.warning("warning: %s", warning)
    folder = make_folder(cfg.out_dir, subjects[0].paths, data.split)

    # Data set -> batches -> predictions -> scores, and masks as files
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
    folders = mask_folders(cfg, folder, data.split)
    found = Findings(len(data.classes), data.ignore_index, data.palette, cfg.report.max_images)
    measured: list[Measures] = []
    started = time.perf_counter()
    for subject in subjects:
        measures = Measures(
            len(data.classes),
            data.ignore_index,
            dilation_ratio=cfg.boundary.dilation_ratio,
            trimap_widths=cfg.boundary.trimap_widths,
        )
        for image in progress(subject.predict(batches(image_batches)), data.split, num_images):
            measures.update(image)
            for home in folders if subject is subjects[0] else []:
                write_prediction(home, image, data.palette)
            if cfg.report.write and subject is subjects[0]:
                found.update(image.batch.ids[0], *arrays(image))
        measures.gather(world)
        measured.append(measures)
    shares = world.gather(found)
    speed = len(subjects) * len(data.dataset) / (time.perf_counter() - started)

    # Scores -> files
    scores = measured[0].scores()
    result = {
        **subjects[0].facts,
        **how(subjects[0].inference, world),
        "split": data.split,
        "images": len(data.dataset),
        "convention": "one confusion matrix over all pixels that are not ignored",
        "size": "original",
        "classes": data.classes,
        **scores,
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),
    }
    if not world.is_main:
        return result
    draws = {name: cfg.bootstrap[name] for name in ("resamples", "level", "seed")}
    if cfg.bootstrap.resamples:
        result["bootstrap"] = measured[0].intervals(**draws)
    rows = (image.row() for image in measured[0].images)
    write_scores(folder, result, measured[0].matrix.matrix.tolist(), rows, data.classes)
    log.info("%s\n%s", class_table(scores, data.classes), more_scores(result))
    if cfg.report.write:
        for share in shares[1:]:
            shares[0].merge(share)
        write_suspicious(
            folder / "suspicious_labels.csv", shares[0].suspicious.regions(), data.classes
        )
        config, lines = origin(source)
        matrix = measured[0].matrix.matrix.tolist()
        page = ReportData(result, matrix, data.palette, shares[0], lines, config)
        write_report(folder / "report.html", page)
    if len(measured) == 2:
        comparison = compare(
            scores,
            measured[1].scores(),
            (measured[0].counts, measured[1].counts),
            (measured[0].image_mious, measured[1].image_mious),
            data.classes,
            **draws,
        )
        write_json(folder / "compare.json", {"files": [s.facts for s in subjects], **comparison})
        log.info("\n%s", comparison_table(comparison))
    log.info(
        "%d images of %s, %.1f images/s; written to %s",
        len(data.dataset),
        data.split,
        speed,
        os.path.relpath(folder),
    )
    return result


def saved_data(cfg: DictConfig, checkpoint: Checkpoint) -> Data:
    """The data that a checkpoint describes, or other data of the same kind."""
    about = checkpoint.about
    saved = OmegaConf.create(about.config)  # may name environment variables
    split = cfg.split or saved.data.val_split
    node = dict(about.config["data"]["dataset"])
    if cfg.data.root is not None:
        node["root"] = cfg.data.root
    dataset = rebuild(node, list(cfg.allow))(split=split)
    return Data(dataset, split, about.ignore_index, np.asarray(about.palette, np.uint8))


def own_data(cfg: DictConfig) -> Data:
    """The data for saved masks, which say nothing of it."""
    split = cfg.split or "val"
    given: Any = OmegaConf.to_container(cfg.data)
    keys = ("classes", "num_classes", "ignore_index", "label_map", "colormap")
    settings = {key: given[key] for key in keys if given[key] is not None}
    dataset = VOCSegmentation(cfg.data.root, split, **settings)
    return Data(dataset, split, dataset.ignore_index, dataset.palette)


def open_source(source: str | Sequence[str]) -> Path | list[Checkpoint]:
    """A folder of masks, or the checkpoint or checkpoints of one model."""
    if isinstance(source, str) and holds_masks(Path(source)):
        return Path(source)
    return read_checkpoints(source)


def make_subject(
    source: Path | list[Checkpoint], cfg: DictConfig, data: Data, device: torch.device
) -> Subject:
    """Saved masks, a checkpoint, or several checkpoints as one ensemble."""
    if isinstance(source, Path):
        masks = SavedMasks(source, data.dataset.ids, cfg.data.colormap)
        return Subject([source], masks.predict_masks, {"predictions": str(source)})
    for checkpoint in source:
        check_classes(checkpoint, data)
    inference = load_inference(source, cfg, device)
    facts = [
        {
            "checkpoint": str(one.path),
            "weights": "ema" if cfg.weights != "raw" and one.state.get("average") else "raw",
            "epoch": one.state["epoch"],
        }
        for one in source
    ]
    return Subject(
        [one.path for one in source],
        partial(predict_masks, inference),
        facts[0] if len(facts) == 1 else {key: [one[key] for one in facts] for key in facts[0]},
        inference,
    )


def check_classes(checkpoint: Checkpoint, data: Data) -> None:
    about = checkpoint.about
    if about.classes != data.classes:
        raise ConfigError(
            f"{checkpoint.path} knows the classes {', '.join(about.classes)}; the data has "
            f"{', '.join(data.classes)}. To train on other classes, start train.py with "
            f"init_from={checkpoint.path}"
        )
    if about.ignore_index != data.ignore_index:
        raise ConfigError(
            f"{checkpoint.path} was trained with data.ignore_index={about.ignore_index}; here it "
            f"is {data.ignore_index}, so the two would be scored on other pixels"
        )


def how(inference: Inference | None, world: World) -> dict[str, Any]:
    """How the scores were computed, for ``metrics.json``."""
    if inference is None:
        return {}
    fallbacks = [window for window in world.gather(inference.fallback) if window is not None]
    return {
        "precision": inference.precision.name,
        "tta": {"scales": list(inference.scales), "flip": inference.flip},
        "window": inference.window,
        "stride": inference.stride,
        "window_after_out_of_memory": min(fallbacks, default=None),
    }


def run_folder(path: Path) -> Path:
    """The folder of the run that wrote a checkpoint."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def make_folder(out_dir: str | None, paths: Sequence[Path], split: str) -> Path:
    """Where the files go: by default ``eval/<split>-<checkpoint>`` in the run folder."""
    home = run_folder(paths[0])
    name = paths[0].stem if len(paths) == 1 else f"ensemble-of-{len(paths)}"
    folder = Path(out_dir) if out_dir else home / "eval" / f"{split}-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"out_dir={folder}: cannot be made ({error.strerror}); give out_dir=..."
        ) from None
    return folder.absolute()


def mask_folders(cfg: DictConfig, folder: Path, split: str) -> list[Path]:
    """Where the predicted masks go, if anywhere."""
    folders = [folder / "predictions"] if cfg.save_predictions else []
    if cfg.voc_results:  # comp6: trained on any data
        folders.append(folder / "results/VOC2012/Segmentation" / f"comp6_{split}_cls")
    return folders


def arrays(image: PredictedMask) -> list[Any]:
    """Image, target, prediction and what is known of the confidence, each (H, W) or (H, W, 3)."""
    batch = image.batch
    planes = [batch.target, image.pred, image.confidence, image.label_confidence]
    picture = batch.image[0].permute(1, 2, 0).cpu().numpy()
    return [picture, *(None if plane is None else plane[0].cpu().numpy() for plane in planes)]


def origin(source: Path | list[Checkpoint]) -> tuple[str, list[dict[str, Any]]]:
    """Configuration and log of the run that a checkpoint comes from; nothing for saved masks."""
    if isinstance(source, Path):
        return "", []
    config = OmegaConf.to_yaml(OmegaConf.create(source[0].about.config))
    return config, read_history(run_folder(source[0].path) / "metrics.jsonl")


def write_prediction(home: Path, image: PredictedMask, palette: NDArray[np.uint8]) -> None:
    path = home / f"{image.batch.ids[0]}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, image.pred[0].cpu().numpy().astype(np.uint8), palette)


if __name__ == "__main__":
    run("evaluate", score)
