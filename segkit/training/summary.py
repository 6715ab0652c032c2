"""What a run says at its end: ``summary.json``, its best scores, and what comes next."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.commands import argument, command
from segkit.config.schema import TrainConfig
from segkit.files import write_json
from segkit.report.tables import class_table
from segkit.runs.finished import FinishedRun
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.log import log
from segkit.text import display_path
from segkit.training.monitor import Best


def loss_text(settings: TrainConfig) -> str:
    """The terms of the loss with their weights."""
    loss = settings.loss
    terms = [f"{term['weight']:g} {name}" for name, term in (loss.get("terms") or {}).items()]
    told = " + ".join(terms) or str(loss["_target_"])
    weight = settings.model.get("aux_weight")
    return f"{told} + {weight:g} of the same at the auxiliary head" if weight else told


def hyperparameters(settings: TrainConfig, batch_size: int) -> dict[str, Any]:
    """What runs are compared by, in TensorBoard's table of them."""
    optimizer = settings.optimizer
    return {
        "loss": loss_text(settings),
        "backbone": _backbone(settings.model),
        "optimizer": optimizer["_target_"].rpartition(".")[2],
        "lr": optimizer["lr"],
        "weight_decay": optimizer.get("weight_decay", 0.0),
        "scheduler": settings.scheduler["_target_"].rpartition(".")[2],
        "batch_size": batch_size,
        "max_epochs": settings.trainer.max_epochs,
        "ema_decay": settings.trainer.ema_decay or 0.0,
        "seed": settings.seed,
    }


def _backbone(model: Mapping[str, Any]) -> str:
    backbone = model.get("backbone")
    if not isinstance(backbone, dict):  # your own model may have a name there, or nothing
        return str(backbone)
    if name := backbone.get("name"):  # of timm it may have a tag, behind a dot
        return str(name)
    return str(backbone.get("_target_")).rpartition(".")[2]


def results_of(best: Best) -> dict[str, float | None]:
    """What runs are compared by beside their settings: scores of their best epochs."""
    names = ("miou", "mean_accuracy", "pixel_accuracy", "fw_iou")
    return {best.monitor: best.score} | {f"val/{name}": best.scores.get(name) for name in names}


def write_summary(
    folder: Path, classes: list[str], state: Mapping[str, Any], world: DistributedContext
) -> FinishedRun:
    """Write ``summary.json``, tell the three commands that come next; returns what was reached.

    Args:
        folder: The run folder.
        classes: Names in index order.
        state: As :meth:`TrainState.state_dict` makes it.
        world: The processes, of which the first writes.
    """
    best = state["best"]
    score: float | None = best["score"]
    # A run that had finished before leaves nothing in a new folder that it was to go on in.
    if world.is_main and (folder / "checkpoints").is_dir():
        summary = {
            "best_epoch": best["epoch"] or None,
            "monitor": best["monitor"],
            "best_score": score,
            "classes": classes,
            "scores": best["scores"],
            "epochs": state["epoch"],
            "steps": state["step"],
            "skipped_steps": state["skipped_steps"],
            "seconds": state["seconds"],
        }
        write_json(folder / "summary.json", summary)
        if best["scores"]:
            log.info("\n%s", class_table(best["scores"], classes))
        place = display_path(folder)
        found = f"best epoch {best['epoch']} ({best['monitor']} {score_text(score)})"
        if not best["epoch"]:
            found = f"no epoch had a {best['monitor']}, so there is no best.pt, only last.pt"
        log.info(
            f"{found}; "
            f"{minutes(state['seconds'])} minutes; written to {place}, with pictures in plots/\n"
            f"next: {command('evaluate')} {argument('checkpoint', place)} "
            "save_predictions=true\n"
            f"      tensorboard --logdir {shlex.quote(place)}\n"
            f"      {command('train')} data=voc data.root=PATH_TO_YOUR_DATA"
        )
    return FinishedRun(
        folder=folder,
        monitor=best["monitor"],
        score=score,
        best_epoch=best["epoch"] or None,
        scores=best["scores"],
        seconds=state["seconds"],
    )


def score_text(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
