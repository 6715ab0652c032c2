"""Every key that is not an argument of a component: its type, default, meaning and limits."""

from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    length: int | None = None,
    kind: type | UnionType = object,
    path: bool = False,
    exists: bool = False,
) -> Any:
    """A field of the schema.

    Args:
        default: Its value unless another is given.
        text: What it is for.
        low: Least number that makes sense, here or for each in a list.
        above: Number that it must exceed.
        choices: All texts that make sense.
        length: Of a list.
        kind: Of a value that OmegaConf does not check; ``text`` says what is expected then.
        path: It names a file or folder; a relative one starts where the user does.
        exists: What it names must be there already.
    """
    metadata = {
        "text": text,
        "low": low,
        "above": above,
        "choices": choices,
        "length": length,
        "kind": kind,
        "path": path or exists,
        "exists": exists,
    }
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


# OmegaConf reads these annotations; it knows Optional[...] in every version, `X | None` in some.
# ruff: noqa: UP045, RUF009
@dataclass
class DataConfig:
    dataset: Any = option(MISSING, "partial _target_ node, called with split=...")
    root: Optional[str] = option(MISSING, "folder of the data; null if there is none", path=True)
    train_split: str = option("train", "split to train on: a file in ImageSets/Segmentation")
    val_split: str = option("val", "split to validate on after every epoch")
    classes: Optional[list[Any]] = option(None, "names in index order; null: from labels.txt")
    num_classes: Optional[int] = option(None, "number of classes where there are no names", low=1)
    ignore_index: int = option(255, "mask value of pixels without a label", low=0)
    label_map: Any = option(
        None, "a mapping of ids in the masks to classes or ignore, as {255: 1}", kind=dict
    )
    colormap: Any = option(None, "colours of RGB masks in class order, or voc")
    check: bool = option(True, "read every file before the first step")
    mean: list[float] = option(
        [0.485, 0.456, 0.406], "per channel, of values in 0 to 1", low=0, length=3
    )
    std: list[float] = option(
        [0.229, 0.224, 0.225], "per channel, of values in 0 to 1", above=0, length=3
    )


@dataclass
class AugmentConfig:
    crop_size: Optional[list[int]] = option(
        None, "height and width, for the lists that crop", low=1, length=2
    )
    train: list[Any] = option([], "transforms; validation sees whole images as they are")


@dataclass
class LoaderConfig:
    batch_size: int = option(8, "images per step", low=1)
    num_workers: Any = option(
        "auto",
        "a number of processes that load, or auto: one per core but the first, at most 4",
        low=0,
        choices=("auto",),
        kind=int | str,
    )


@dataclass
class TrainerConfig:
    max_epochs: int = option(50, "passes over the training split", low=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = option("auto", "number format of the forward pass", choices=PRECISIONS)
    check_precision: bool = option(True, "try a reduced precision on one batch before step 1")
    channels_last: bool = option(True, "memory order of images and convolutions")
    compile: bool = option(False, "torch.compile the model")
    accumulate: int = option(1, "batches whose gradients make one step", low=1)
    clip_grad_norm: Optional[float] = option(None, "largest norm of all gradients", above=0)
    backbone_lr_factor: float = option(1.0, "learning rate of the backbone over the rest's", low=0)
    decay_norm_and_bias: bool = option(False, "weight decay for norms and biases too")
    val_every: int = option(1, "epochs from one validation to the next", low=1)
    monitor: str = option("val/miou", "logged value that decides which checkpoint is best.pt")
    monitor_mode: str = option(
        "auto", "auto: min for losses, else max", choices=("auto", "max", "min")
    )
    log_every: int = option(10, "steps from one TensorBoard point to the next", low=1)
    num_pictures: int = option(4, "validation images shown in TensorBoard", low=0)


@dataclass
class TrainConfig:
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: Any = option(MISSING, "_target_ node; its backbone is a group of its own")
    loss: Any = option(MISSING, "_target_ node: a WeightedSum of named terms")
    optimizer: Any = option(MISSING, "partial _target_ node, called with the parameters")
    scheduler: Any = option(MISSING, "_target_ node: a Schedule")
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    seed: int = option(0, "of weights, order and augmentation", low=0)
    out_dir: Optional[str] = option(None, "run folder; null: a new one under runs/", path=True)
    init_from: Optional[str] = option(
        None, "checkpoint or run folder whose matching tensors to start from", exists=True
    )


@dataclass
class EvaluateDataConfig:
    root: Optional[str] = option(None, "folder of the data; null: where it was", path=True)
    check: bool = option(True, "read every file first")


@dataclass
class EvaluateConfig:
    checkpoint: str = option(MISSING, "a .pt file or a run folder", exists=True)
    split: Optional[str] = option(None, "split to score; null: the run's validation split")
    data: EvaluateDataConfig = field(default_factory=EvaluateDataConfig)
    out_dir: Optional[str] = option(None, "for the files; null: eval/ in the run folder", path=True)
    save_predictions: bool = option(False, "write predictions/<id>.png as palette PNGs")
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: Optional[str] = option(None, "null: what the run used", choices=PRECISIONS)
    allow: list[str] = option([], "your own modules that the checkpoint may name")


COMPONENTS = ("model", "loss", "optimizer", "scheduler")
"""Nodes of :class:`TrainConfig`, besides ``data.dataset``, that must be ``_target_`` nodes."""

SCHEMAS: dict[str, type] = {"train": TrainConfig, "evaluate": EvaluateConfig}
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)
