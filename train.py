"""Train a segmentation model: ``python train.py [key=value ...]``.

Read from top to bottom: files -> data sets -> batches -> model -> loss -> scores -> checkpoint.
"""

import segkit  # isort: skip  (first: sets what other libraries read from the environment)

import os
import time
from pathlib import Path
from typing import Any

from segkit.config import (
    build,
    build_augment,
    check_class_values,
    check_command_line,
    did_you_mean,
    fill_class_weights,
    needs_class_counts,
    plain_config,
    run,
)

if __name__ == "__main__":
    check_command_line("train")  # before the imports that take seconds: a wrong key ends at once

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from segkit.data.check import check_splits
from segkit.data.loader import Collate, batches, eval_loader, resolve_num_workers, train_loader
from segkit.data.masks import voc_palette
from segkit.engine.checkpoint import Best, Description, TrainState, init_from, save_checkpoint
from segkit.engine.gradient_check import check_precision
from segkit.engine.log import (
    RunLog,
    log,
    log_to_console,
    log_to_file,
    progress,
)
from segkit.engine.loop import Prediction, StepSettings, evaluate, param_groups, train_one_epoch
from segkit.engine.memory import keep_freed_memory, peak_memory_mib
from segkit.engine.precision import Normalize, Precision, allow_tf32, pick_device
from segkit.engine.run_folder import new_run_folder, refuse_used
from segkit.errors import ConfigError
from segkit.metrics import ConfusionMatrix
from segkit.report.pictures import confusion_picture, panel, with_legend
from segkit.report.tables import class_table, scalar_scores, write_json


def train(cfg: DictConfig) -> dict[str, Any]:
    """Run the whole training that ``cfg`` describes; returns the content of ``summary.json``."""
    started = time.perf_counter()
    refuse_used(cfg.out_dir)
    log_to_console()
    device = pick_device(cfg.trainer.device)
    precision = Precision.pick(cfg.trainer.precision, device)
    torch.manual_seed(cfg.seed)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        allow_tf32()

    # Files -> data sets. Their classes complete the config; the check comes before anything else.
    make_dataset = build(cfg.data.dataset)
    train_set = make_dataset(split=cfg.data.train_split)
    val_set = make_dataset(split=cfg.data.val_split)
    classes = list(train_set.classes)
    cfg.data.classes, cfg.data.num_classes = classes, len(classes)
    monitor, mode = check_monitor(cfg, classes)
    check_class_values(cfg.loss, classes)
    pixels = None
    if cfg.data.check or needs_class_counts(cfg.loss):
        report = check_splits(
            {"train": train_set, "val": val_set}, ignore_index=cfg.data.ignore_index
        )
        pixels = report.counts["train"].pixels.tolist()
        log.info("%s", report.table())
        for warning in report.warnings:
            log.warning("warning: %s", warning)
    for line in fill_class_weights(cfg.loss, classes, pixels):
        log.info("%s", line)

    # Data sets -> batches
    augment = build_augment(cfg)
    fill = tuple(round(255 * value) for value in cfg.data.mean)
    collate = Collate(fill, cfg.data.ignore_index)
    num_workers = resolve_num_workers(cfg.loader.num_workers)
    train_batches = train_loader(
        train_set,
        augment,
        collate=collate,
        batch_size=cfg.loader.batch_size,
        num_workers=num_workers,
        seed=cfg.seed,
        device=device,
    )
    val_batches = eval_loader(
        val_set,
        collate=collate,
        batch_size=cfg.loader.batch_size,
        num_workers=num_workers,
        device=device,
    )

    # Batches -> model -> loss -> steps
    model = build(cfg.model)
    if cfg.init_from is not None:
        log.info("init_from=%s: %s", cfg.init_from, init_from(model, cfg.init_from))
    order = torch.channels_last if cfg.trainer.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=order)
    loss_fn = build(cfg.loss).to(device)
    groups = param_groups(
        model,
        cfg.trainer.backbone_lr_factor,
        cfg.trainer.decay_norm_and_bias,
        cfg.optimizer.lr,
    )
    optimizer = build(cfg.optimizer)(groups)
    steps_per_epoch = -(-len(train_batches) // cfg.trainer.accumulate)
    settings = StepSettings(
        schedule=build(cfg.scheduler),
        total_steps=cfg.trainer.max_epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        accumulate=cfg.trainer.accumulate,
        clip_grad_norm=cfg.trainer.clip_grad_norm,
    )
    normalize = Normalize(tuple(cfg.data.mean), tuple(cfg.data.std), cfg.trainer.channels_last)
    state = TrainState(model, optimizer, precision.grad_scaler(), Best(monitor, mode))
    if precision.reduced and cfg.trainer.check_precision:
        batch = next(batches(train_batches)).to(device)
        image, target = normalize(batch.image), batch.target.long()
        log.info("%s", check_precision(model, loss_fn, image, target, precision))
    if cfg.trainer.compile:
        state.model = torch.compile(model)  # type: ignore[assignment]

    # The run folder: from here on something is written
    folder = new_run_folder(cfg.out_dir, Path(cfg.data.root or "run").name)
    log_to_file(folder / "train.log")
    about = Description(
        config=plain_config(cfg),
        classes=classes,
        palette=getattr(train_set, "palette", voc_palette()).tolist(),
        ignore_index=cfg.data.ignore_index,
        mean=list(cfg.data.mean),
        std=list(cfg.data.std),
        precision=precision.name,
        device=str(device),
    )
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(about.config), encoding="utf-8")
    run_log = RunLog(folder)
    sizes = f"{len(train_set)} images to train on, {len(val_set)} to validate on"
    log.info("%s", headline(cfg, model, precision, sizes, num_workers))
    if cfg.loader.batch_size < 4 and learns_batch_norm(model):
        log.warning(
            "warning: loader.batch_size=%d is small for BatchNorm, which may make validation much "
            "worse than training; try model.norm=gn with model.freeze_bn=true, or a larger batch",
            cfg.loader.batch_size,
        )

    def on_step(values: dict[str, float]) -> None:
        if state.step % cfg.trainer.log_every == 0:
            run_log.scalars({f"step/{name}": value for name, value in values.items()}, state.step)

    pictures = Pictures(run_log, about, len(val_set), cfg.trainer.num_pictures)
    best_scores: dict[str, Any] = {}
    for epoch in range(state.epoch + 1, cfg.trainer.max_epochs + 1):
        train_batches.sampler.epoch = epoch  # type: ignore[attr-defined]
        values: dict[str, float | None] = dict(
            train_one_epoch(
                state,
                progress(batches(train_batches), f"epoch {epoch}", len(train_batches)),
                loss_fn,
                normalize=normalize,
                precision=precision,
                settings=settings,
                on_step=on_step,
            )
        )
        line = f"epoch {epoch}/{cfg.trainer.max_epochs}  loss {values['train/loss']:.4f}"
        scores: dict[str, Any] = {}
        if epoch % cfg.trainer.val_every == 0 or epoch == cfg.trainer.max_epochs:
            pictures.start(epoch)
            matrix, val_loss = evaluate(
                model,
                progress(batches(val_batches), "validation", len(val_batches)),
                num_classes=len(classes),
                ignore_index=cfg.data.ignore_index,
                normalize=normalize,
                precision=precision,
                loss_fn=loss_fn,
                on_image=pictures.add,
            )
            pictures.confusion(matrix)
            scores = dict(matrix.compute())
            values |= {"val/loss": val_loss} | scalar_scores(scores, classes, "val/")
            line += f"  val mIoU {scores['miou'] or 0:.4f}"
            if state.best.improves(values[monitor]):
                state.best.score, state.best.epoch = values[monitor], epoch
                best_scores = scores
        seconds = time.perf_counter() - started
        values |= {"memory_mib": peak_memory_mib(device), "seconds": seconds}
        run_log.epoch({"epoch": epoch, "step": state.step} | values)
        run_log.scalars(values, epoch)
        is_best = state.best.epoch == epoch
        for name in ["last.pt"] + ["best.pt"] * is_best:
            save_checkpoint(folder / "checkpoints" / name, state, about, scores)
        log.info(
            "%s  lr %.2e  %.1f images/s  %s%s",
            line,
            values["lr"],
            values["images_per_second"],
            minutes(seconds),
            "  best" if is_best else "",
        )
    run_log.close()

    seconds = time.perf_counter() - started
    summary = {
        "best_epoch": state.best.epoch,
        "monitor": monitor,
        "best_score": state.best.score,
        "scores": best_scores,
        "epochs": state.epoch,
        "steps": state.step,
        "skipped_steps": state.skipped_steps,
        "seconds": seconds,
    }
    write_json(folder / "summary.json", summary)
    log.info("\n%s", class_table(best_scores, classes))
    log.info("%s", farewell(folder, state.best, seconds))
    return summary


def check_monitor(cfg: DictConfig, classes: list[str]) -> tuple[str, str]:
    """The monitored name and whether more of it is better; unknown names are refused here."""
    scores = ConfusionMatrix(len(classes)).compute()
    terms = [f"train/loss/{name}" for name in cfg.loss.get("terms", [])]
    names = ["train/loss", *terms, "val/loss", *scalar_scores(scores, classes, "val/")]
    monitor = cfg.trainer.monitor
    if monitor not in names:
        raise ConfigError(
            f"trainer.monitor={monitor}: no such logged value{did_you_mean(monitor, names)}"
        )
    mode = cfg.trainer.monitor_mode
    return monitor, ("min" if "loss" in monitor else "max") if mode == "auto" else mode


def headline(
    cfg: DictConfig, model: torch.nn.Module, precision: Precision, sizes: str, num_workers: int
) -> str:
    """What runs, on what: the first lines of the log."""
    parameters = sum(p.numel() for p in model.parameters())
    device = str(precision.device)
    if precision.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(precision.device)}, TF32 allowed)"
    else:
        device += f" ({torch.get_num_threads()} threads)"
    loss = " + ".join(f"{t.weight:g} {name}" for name, t in cfg.loss.get("terms", {}).items())
    return (
        f"segkit {segkit.__version__}, torch {torch.__version__}, {device}, {precision.name}, "
        f"{num_workers} loader processes\n{sizes}, {cfg.data.num_classes} classes; "
        f"{parameters / 1e6:.2f} M parameters; loss: {loss or cfg.loss._target_}; "
        f"batch size {cfg.loader.batch_size} x {cfg.trainer.accumulate}"
    )


class Pictures:
    """A fixed set of validation images, and the confusion matrix, for TensorBoard."""

    def __init__(self, run_log: RunLog, about: Description, size: int, count: int) -> None:
        self.run_log, self.about = run_log, about
        self.palette = np.asarray(about.palette, np.uint8)
        self.shown = {size * i // count for i in range(min(count, size))} if count else set()
        self.epoch = self.seen = 0

    def start(self, epoch: int) -> None:
        self.epoch, self.seen = epoch, 0

    def add(self, image: Prediction) -> None:
        if self.seen in self.shown:
            picture = panel(
                image.batch.image[0].permute(1, 2, 0).cpu().numpy(),
                image.batch.target[0].cpu().numpy(),
                image.pred[0].cpu().numpy(),
                self.palette,
                self.about.ignore_index,
            )
            name = f"val/image_target_prediction/{image.batch.ids[0]}"
            legend = with_legend(picture, self.about.classes, self.palette)
            self.run_log.picture(name, legend, self.epoch)
        self.seen += 1

    def confusion(self, matrix: ConfusionMatrix) -> None:
        picture = confusion_picture(matrix.matrix.tolist(), self.about.classes)
        self.run_log.picture("val/confusion_matrix", picture, self.epoch)


def learns_batch_norm(model: torch.nn.Module) -> bool:
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    return any(norm.training for norm in norms)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def farewell(folder: Path, best: Best, seconds: float) -> str:
    """Where everything is, and the next three commands."""
    place = os.path.relpath(folder)
    score = "none" if best.score is None else f"{best.score:.4f}"
    return (
        f"best epoch {best.epoch} ({best.monitor} {score}); {minutes(seconds)} minutes; "
        f"written to {place}\n"
        f"next: python evaluate.py checkpoint={place} save_predictions=true\n"
        f"      tensorboard --logdir {place}\n"
        f"      python train.py data=voc data.root=PATH_TO_YOUR_DATA"
    )


if __name__ == "__main__":
    run("train", train)
