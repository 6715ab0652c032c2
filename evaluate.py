"""Score a checkpoint: ``python evaluate.py checkpoint=RUN_OR_FILE [key=value ...]``.

Model, classes and preprocessing come out of the checkpoint. Every pixel is compared at the size
that its mask has on disk, in one confusion matrix over the whole split.
"""

import segkit  # isort: skip  (first: sets what other libraries read from the environment)

import os
from pathlib import Path
from typing import Any

from segkit.config import check_command_line, rebuild, run

if __name__ == "__main__":
    check_command_line("evaluate")  # before the imports that take seconds: a wrong key ends at once

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from segkit.data.check import check_splits
from segkit.data.loader import Collate, batches, eval_loader, resolve_num_workers
from segkit.data.masks import write_mask
from segkit.engine.checkpoint import Checkpoint, read_checkpoint
from segkit.engine.log import log, log_to_console, progress
from segkit.engine.loop import Prediction, evaluate
from segkit.engine.memory import keep_freed_memory
from segkit.engine.precision import Normalize, Precision, allow_tf32, pick_device
from segkit.errors import CheckpointError, ConfigError
from segkit.metrics import ConfusionMatrix
from segkit.report.pictures import confusion_picture, write_picture
from segkit.report.tables import class_table, write_csv, write_json


def score(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns the content of ``metrics.json``."""
    log_to_console()
    device = pick_device(cfg.device)
    checkpoint = read_checkpoint(cfg.checkpoint)
    about = checkpoint.about
    precision = Precision.pick(cfg.precision or about.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        allow_tf32()

    # Checkpoint -> data set -> batches
    saved = OmegaConf.create(about.config)  # may name environment variables
    split = cfg.split or saved.data.val_split
    dataset_node = about.config["data"]["dataset"]
    if cfg.data.root is not None:
        dataset_node["root"] = cfg.data.root
    dataset = rebuild(dataset_node, list(cfg.allow))(split=split)
    if list(dataset.classes) != about.classes:
        raise ConfigError(
            f"{checkpoint.path} knows the classes {', '.join(about.classes)}; the data has "
            f"{', '.join(dataset.classes)}. To train on other classes, start train.py with "
            f"init_from={checkpoint.path}"
        )
    if cfg.data.check:
        for warning in check_splits({split: dataset}, ignore_index=about.ignore_index).warnings:
            log.warning("warning: %s", warning)
    fill = tuple(round(255 * value) for value in about.mean)
    image_batches = eval_loader(
        dataset,
        collate=Collate(fill, about.ignore_index),
        batch_size=cfg.loader.batch_size,
        num_workers=resolve_num_workers(cfg.loader.num_workers),
        device=device,
    )

    # Checkpoint -> model
    model = load_model(checkpoint, list(cfg.allow)).to(device)
    channels_last = bool(saved.trainer.channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=order)

    # Batches -> scores and files
    folder = make_folder(cfg.out_dir, checkpoint.path, split)
    palette = np.asarray(about.palette, np.uint8)
    rows: list[list[object]] = []

    def on_image(image: Prediction) -> None:
        name, pred = image.batch.ids[0], image.pred[0]
        one = ConfusionMatrix(len(about.classes), about.ignore_index)
        one.update(pred, image.batch.target[0])
        scores = one.compute()
        rows.append(
            [name, sum(scores["support"]), scores["miou"], scores["pixel_accuracy"], *scores["iou"]]
        )
        if cfg.save_predictions:
            path = folder / "predictions" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, pred.cpu().numpy().astype(np.uint8), palette)

    matrix, _ = evaluate(
        model,
        progress(batches(image_batches), split, len(image_batches)),
        num_classes=len(about.classes),
        ignore_index=about.ignore_index,
        normalize=Normalize(tuple(about.mean), tuple(about.std), channels_last),
        precision=precision,
        on_image=on_image,
    )
    scores = matrix.compute()
    result = {
        "checkpoint": str(checkpoint.path),
        "epoch": checkpoint.state["epoch"],
        "split": split,
        "images": len(dataset),
        "convention": "one confusion matrix over all pixels that are not ignored",
        "size": "original",
        "precision": precision.name,
        "classes": about.classes,
        **scores,
        "segkit": segkit.__version__,
        "torch": str(torch.__version__),
    }
    write_json(folder / "metrics.json", result)
    write_csv(
        folder / "confusion_matrix.csv",
        ["true \\ predicted", *about.classes],
        [[c, *row] for c, row in zip(about.classes, matrix.matrix.tolist(), strict=True)],
    )
    iou_columns = [f"iou/{name}" for name in about.classes]
    write_csv(
        folder / "per_image.csv", ["id", "pixels", "miou", "pixel_accuracy", *iou_columns], rows
    )
    picture = confusion_picture(matrix.matrix.tolist(), about.classes)
    write_picture(folder / "confusion_matrix.png", picture)
    log.info("%s", class_table(scores, about.classes))
    log.info("%d images of %s; written to %s", len(dataset), split, os.path.relpath(folder))
    return result


def load_model(checkpoint: Checkpoint, allow: list[str]) -> torch.nn.Module:
    """The network of a checkpoint with its weights; nothing is downloaded."""
    node = dict(checkpoint.about.config["model"])
    if isinstance(node.get("backbone"), dict) and "weights" in node["backbone"]:
        node["backbone"] = node["backbone"] | {"weights": None}
    model: torch.nn.Module = rebuild(node, allow)
    try:
        model.load_state_dict(checkpoint.state["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.path}: its weights do not fit the model that it describes "
            f"({' '.join(str(error).split())[:200]}); was it edited?"
        ) from error
    return model


def make_folder(out_dir: str | None, checkpoint: Path, split: str) -> Path:
    """Where the files go: by default ``eval/<split>-<checkpoint>`` in the run folder."""
    home = (
        checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    )
    folder = Path(out_dir) if out_dir else home / "eval" / f"{split}-{checkpoint.stem}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"out_dir={folder}: cannot be made ({error.strerror}); give out_dir=..."
        ) from None
    return folder.absolute()


if __name__ == "__main__":
    run("evaluate", score)
