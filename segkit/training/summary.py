"""What a run says at its start and at its end."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import segkit
from segkit.files import write_json
from segkit.inference.loading import setting
from segkit.report.tables import class_table
from segkit.runs.checkpoint import Checkpoint
from segkit.runtime.device import Precision
from segkit.runtime.distributed import DistributedContext
from segkit.runtime.log import log
from segkit.text import display_path
from segkit.training.field_of_view import atrous_rates, view_text
from segkit.training.loop import StepSettings
from segkit.training.monitor import Best, make_best
from segkit.training.state import TrainState


def run_header(
    cfg: DictConfig,
    model: torch.nn.Module,
    precision: Precision,
    world: DistributedContext,
    num_workers: int,
) -> str:
    """What runs, on what: the first lines of the log."""
    parameters = sum(p.numel() for p in model.parameters())
    device = str(precision.device)
    if precision.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(precision.device)}, TF32 allowed)"
    else:
        device += f" ({torch.get_num_threads()} threads)"
    processes = f"{world.size} processes x " if world.size > 1 else ""
    view = f"; {view_text(cfg.model)}" if atrous_rates(cfg.model) else ""
    return (
        f"segkit {segkit.__version__}, torch {torch.__version__}, {processes}{device}, "
        f"{precision.name}, {num_workers} loader processes\n{cfg.data.num_classes} classes; "
        f"{parameters / 1e6:.2f} M parameters{view}; loss: {loss_text(cfg)}; "
        f"batch size {processes}{cfg.loader.batch_size} x {cfg.trainer.accumulate}"
    )


def warnings_at_start(
    cfg: DictConfig, model: torch.nn.Module, saved: Checkpoint | None, world: DistributedContext
) -> Iterator[str]:
    """What may be other than the user thinks."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if cfg.loader.batch_size < 4 and any(norm.training for norm in norms):
        yield (
            f"loader.batch_size={cfg.loader.batch_size} is small for BatchNorm, which may make "
            "validation much worse than training; try model.norm=gn with model.freeze_bn=true, or "
            "a larger batch"
        )
    if saved is not None and saved.about.world_size != world.size:
        yield (
            f"{saved.about.world_size} processes -> {world.size}: the images come in the same "
            f"order, now {world.size * cfg.loader.batch_size} at once; loader.batch_size is that "
            "of one process"
        )
    best = make_best(cfg)
    if saved is not None and (best.monitor, best.mode) != tuple(
        saved.state["best"][name] for name in ("monitor", "mode")
    ):
        yield (
            f"trainer.monitor={best.monitor} ({best.mode}): the search for the best begins anew; "
            f"the next validation replaces best.pt and the epoch_*.pt of "
            f"{saved.state['best']['monitor']}"
        )


def log_schedule(saved: Checkpoint, state: TrainState, settings: StepSettings) -> None:
    """Say where the learning rate goes on if the length of the run has changed."""
    before = replace(settings, max_epochs=setting(saved, "trainer.max_epochs", int))
    if before != settings:
        was, now = (s.lr_factor(state.epoch, state.images) for s in (before, settings))
        log.info(
            "resume: the schedule ends after epoch %d now, not %d; the next step has %.4f of the "
            "learning rate, which would have been %.4f",
            settings.max_epochs,
            before.max_epochs,
            now,
            was,
        )


def loss_text(cfg: DictConfig) -> str:
    terms = [f"{term.weight:g} {name}" for name, term in cfg.loss.get("terms", {}).items()]
    return " + ".join(terms) or str(cfg.loss._target_)


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """What runs are compared by, in TensorBoard's table of them."""
    return {
        "loss": loss_text(cfg),
        "backbone": _backbone(cfg),
        "optimizer": cfg.optimizer._target_.rpartition(".")[2],
        "lr": cfg.optimizer.lr,
        "weight_decay": cfg.optimizer.get("weight_decay", 0.0),
        "scheduler": cfg.scheduler._target_.rpartition(".")[2],
        "batch_size": cfg.loader.batch_size,
        "max_epochs": cfg.trainer.max_epochs,
        "ema_decay": cfg.trainer.ema_decay or 0.0,
        "seed": cfg.seed,
    }


def _backbone(cfg: DictConfig) -> str:
    backbone = cfg.model.get("backbone")
    if not isinstance(backbone, DictConfig):  # your own model may have a name there, or nothing
        return str(backbone)
    return str(backbone.get("name") or backbone.get("_target_")).rpartition(".")[2]


def results_of(best: Best) -> dict[str, float | None]:
    """What runs are compared by likewise, of their best epochs."""
    names = ("miou", "mean_accuracy", "pixel_accuracy", "fw_iou")
    return {best.monitor: best.score} | {f"val/{name}": best.scores.get(name) for name in names}


def finish(cfg: DictConfig, state: dict[str, Any], world: DistributedContext) -> float | None:
    """Write ``summary.json``, tell the three commands that come next; returns the best value."""
    best = state["best"]
    score: float | None = best["score"]
    folder = Path(cfg.out_dir)
    # A run that had finished before leaves nothing in a new folder that it was to go on in.
    if world.is_main and (folder / "checkpoints").is_dir():
        summary = {
            "best_epoch": best["epoch"] or None,
            "monitor": best["monitor"],
            "best_score": score,
            "scores": best["scores"],
            "epochs": state["epoch"],
            "steps": state["step"],
            "skipped_steps": state["skipped_steps"],
            "seconds": state["seconds"],
        }
        write_json(folder / "summary.json", summary)
        if best["scores"]:
            log.info("\n%s", class_table(best["scores"], list(cfg.data.classes)))
        place = display_path(folder)
        found = f"best epoch {best['epoch']} ({best['monitor']} {score_text(score)})"
        if not best["epoch"]:
            found = f"no epoch had a {best['monitor']}, so there is no best.pt, only last.pt"
        log.info(
            f"{found}; "
            f"{minutes(state['seconds'])} minutes; written to {place}\n"
            f"next: python evaluate.py checkpoint={place} save_predictions=true\n"
            f"      tensorboard --logdir {place}\n"
            f"      python train.py data=voc data.root=PATH_TO_YOUR_DATA"
        )
    return score


def score_text(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
