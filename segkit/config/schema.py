"""Every key that is not an argument of a component: its type, default, meaning and limits.

A configuration is composed as a tree of OmegaConf's, which may still change; :func:`to_settings`
makes it one of these frozen objects, which does not.
"""

from dataclasses import dataclass, field
from functools import cache
from types import UnionType
from typing import Any, Optional, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

Settings = TypeVar("Settings")

REQUIRED = MISSING
"""The default of a key that must be given."""

FOLDER_KEYS = (
    *("images", "masks", "image_suffix", "mask_suffix"),
    *("splits", "val", "split_seed", "group"),
)
PARTS = ("backbone", "aspp", "decoder", "classifier")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LARGEST = 2**31 - 1  # integer of a key that says no other: what counts files, pixels and steps
LARGEST_SIDE = 2**13  # of an image that is computed whole, in pixels
LOGGERS = ("mlflow", "trackio", "wandb")
OUTPUTS = ("index", "overlay", "color", "cutout", "probs")


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    length: int | None = None,
    kind: type | UnionType = object,
    whole: bool = False,
    rising: bool = False,
    path: bool = False,
    exists: bool = False,
    name: str | None = None,
) -> Any:
    """A field of the schema.

    Args:
        default: Its value unless another is given; REQUIRED: it must be given.
        text: What it is for.
        low: Least number that makes sense, here or for each in a list.
        above: Number that it must exceed.
        high: Largest number that makes sense, here or for each in a list; of integers LARGEST if
            nothing else is said.
        below: Number that it must not reach.
        choices: All texts that make sense.
        length: Number of values in a list.
        rising: Each number in a list exceeds the one before it.
        kind: Type of a value that OmegaConf does not check; ``text`` says what is expected then.
        whole: If that value is a list, it is one of whole numbers.
        path: It names a file or folder; a relative one starts where the user does.
        exists: What it names must be there already.
        name: What the user of a tool writes, where that is no Python name, such as ``data.root``.
    """
    metadata = {
        "text": text,
        "low": low,
        "above": above,
        "high": high,
        "below": below,
        "choices": choices,
        "length": length,
        "rising": rising,
        "kind": kind,
        "whole": whole,
        "path": path or exists,
        "exists": exists,
        "name": name,
    }
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def less_is_better(monitor: str) -> bool:
    """Whether a logged value is a loss, as ``train/loss/dice`` is; so may a class be called."""
    return monitor.split("/")[1:2] == ["loss"]


# What several scripts have.


def weights_option() -> Any:
    text = "auto: those that the run validated; else raw, or the average (ema)"
    return option("auto", text, choices=("auto", "raw", "ema"))


def device_option() -> Any:
    return option("auto", "auto, cpu, cuda, cuda:N or mps")


def precision_option() -> Any:
    return option(
        None, "null: what the run used, or auto on another kind of device", choices=PRECISIONS
    )


def scales_option() -> Any:
    text = "scales of the image, as [0.5,1,1.5]; their mean"
    return option([1.0], text, above=0, high=16)


def flip_option() -> Any:
    return option(False, "predict the mirror image too; the mean")


def window_option() -> Any:
    return option(
        None,
        "height and width of windows that slide over the image, or whole; null: as in the run's "
        "validation",
        low=1,
        length=2,
        choices=("whole",),
        kind=list | str,
        whole=True,
    )


def stride_option() -> Any:
    return option(
        None,
        "from one window to the next; null: as in the run, or two thirds of size",
        low=1,
        length=2,
    )


def range_option(text: str) -> Any:
    return option(None, f"{text}; null: all of each file's type", length=2, rising=True)


def folder_option(key: str, name: str | None = None) -> Any:
    """A key that says where the files of ``data=folders`` are; ``name`` is as for option."""
    if key == "split_seed":
        return option(None, "with val: another one holds out others; null: 0", low=0, name=name)
    if key == "val":
        text = "part of the images that is the split val, as 0.2; train is the rest"
        return option(None, text, above=0, below=1, name=name)
    text = {
        "images": "data=folders: folder of the images; {split} in it stands for a split's name",
        "masks": "data=folders: folder of the masks, likewise",
        "image_suffix": "end of image names that masks lack, as _leftImg8bit; others are no images",
        "mask_suffix": "end of mask names that images lack, as _mask; other files are no masks",
        "splits": "folder of lists, as train.txt, or a CSV file with columns image, mask, split",
        "group": "with val: pattern in the ids; images with the same match stay together",
    }[key]
    return option(None, text, path=key in ("images", "masks", "splits"), name=name)


def palette_option(text: str) -> Any:
    return option(
        None,
        f"own colours, of some classes or all: {{car: red, sky: [0,0,255]}}, or a file; {text}",
        kind=str | dict,
        exists=True,
    )


def allow_option() -> Any:
    return option([], "your own modules that the checkpoint may name")


# OmegaConf reads these annotations; it knows Optional[...] in every version, `X | None` in some.
# ruff: noqa: UP045
@dataclass(frozen=True)
class DataConfig:
    dataset: Any = option(REQUIRED, "partial _target_ node, called with split=...")
    root: Optional[str] = option(REQUIRED, "folder of the data; null if there is none", path=True)
    train_split: str = option("train", "split to train on: a list, or what divides the data")
    val_split: str = option("val", "split to validate on after every epoch")
    images: Optional[str] = folder_option("images")
    masks: Optional[str] = folder_option("masks")
    image_suffix: Optional[str] = folder_option("image_suffix")
    mask_suffix: Optional[str] = folder_option("mask_suffix")
    splits: Optional[str] = folder_option("splits")
    val: Optional[float] = folder_option("val")
    split_seed: Optional[int] = folder_option("split_seed")
    group: Optional[str] = folder_option("group")
    classes: Optional[list[Any]] = option(None, "names in index order; null: from labels.txt")
    num_classes: Optional[int] = option(
        None, "number of classes where there are no names", low=2, high=256
    )
    ignore_index: int = option(255, "mask value of pixels without a label", low=0)
    label_map: Any = option(
        None, "a mapping of ids in the masks to classes or ignore, as {255: 1}", kind=dict
    )
    colormap: Any = option(
        None, "colours of RGB and palette masks in class order, or voc; indices: never the colours"
    )
    range: Optional[list[float]] = range_option("numbers in images that become 0 and 255")
    bits: int = option(8, "of each channel as a network sees it: 8, or 16 of deeper images")
    check: bool = option(True, "read every file before the first step")
    mean: list[float] = option(
        [0.485, 0.456, 0.406],
        "per channel, of values in 0 to 1; as many as the images have channels",
        low=0,
        high=1,
    )
    std: list[float] = option(
        [0.229, 0.224, 0.225], "per channel, of values in 0 to 1", above=0, high=1
    )


@dataclass(frozen=True)
class AugmentConfig:
    crop_size: Optional[list[int]] = option(
        None, "height and width, for the lists that crop", low=1, high=LARGEST_SIDE, length=2
    )
    rare_crop: float = option(
        0.0,
        "share of the crops that show a class drawn by its rarity; augment=standard",
        low=0,
        high=1,
    )
    copy_paste: float = option(
        0.0,
        "share of the images that get 1 to 4 whole objects of others, of rare classes mostly",
        low=0,
        high=1,
    )
    train: list[Any] = option([], "transforms; validation sees whole images as they are")
    late_epochs: int = option(
        0,
        "last epochs of the run that `late` is for, in place of `train` (Touvron et al. 2019); not "
        "reached where trainer.patience ends it before",
        low=0,
    )
    late_crop_size: Optional[list[int]] = option(
        None,
        "height and width of crops in the late epochs; best as large as whole images",
        low=1,
        high=LARGEST_SIDE,
        length=2,
    )
    late: list[Any] = option([], "transforms of the late epochs")


@dataclass(frozen=True)
class LoaderConfig:
    batch_size: int = option(
        1, "images read at a time; each is scored alone, so more only takes memory", low=1
    )
    num_workers: Any = option(
        "auto",
        "a number of processes that load, or auto: one per core but the first, at most 4; on CUDA "
        "one per core and device but the first, at most 16",
        low=0,
        high=1024,
        choices=("auto",),
        kind=int | str,
    )


@dataclass(frozen=True)
class TrainLoaderConfig(LoaderConfig):
    batch_size: Any = option(
        8,
        "images per step and process, or auto: as many as fit into the CUDA device's memory",
        low=1,
        choices=("auto",),
        kind=int | str,
    )
    freeze_batch_size: Optional[int] = option(
        None, "the same for the epochs with a frozen backbone; null: batch_size", low=1
    )
    balance: Optional[str] = option(
        None,
        "how often an image comes: repeat_factor: by the rarest class in it; class: so that each "
        "class is drawn equally often; null: once in an epoch",
        choices=("repeat_factor", "class"),
    )
    cache: Optional[str] = option(
        None,
        "decode each image once and keep it in memory (ram) or on disk; null: decode in each epoch",
        choices=("ram", "disk"),
    )
    cache_dir: Optional[str] = option(
        None, "folder for cache=disk; null: segkit's in the user's cache folder", path=True
    )


@dataclass(frozen=True)
class TrainerConfig:
    max_epochs: int = option(50, "passes over the training split", low=1)
    device: str = device_option()
    precision: str = option("auto", "number format of the forward pass", choices=PRECISIONS)
    check_precision: bool = option(True, "try a reduced precision on one batch before step 1")
    channels_last: bool = option(True, "memory order of images and convolutions")
    compile: bool = option(False, "torch.compile normalisation, network and loss, as one graph")
    accumulate: int = option(1, "batches that make one step, as one large batch would", low=1)
    clip_grad_norm: Optional[float] = option(None, "largest norm of all gradients", above=0)
    freeze_epochs: int = option(0, "first epochs that leave the backbone as it is", low=0)
    backbone_lr_factor: Optional[float] = option(
        None,
        "learning rate of the backbone over the rest's; null: 0.1 if that has weights, else 1",
        low=0,
    )
    decay_norm_and_bias: bool = option(False, "weight decay for norms and biases too")
    val_every: int = option(1, "epochs from one validation to the next", low=1)
    monitor: str = option("val/miou", "logged value that decides which checkpoint is best.pt")
    monitor_mode: str = option(
        "auto", "auto: min for losses, else max", choices=("auto", "max", "min")
    )
    keep_best: int = option(1, "how many of the best epochs keep a checkpoint", low=1)
    patience: Optional[int] = option(
        None, "validations without a better value after which training stops; null: never", low=1
    )
    patience_monitor: Optional[str] = option(None, "that value; null: monitor")
    min_delta: float = option(0.0, "by how much it must be better to count", low=0)
    ema_decay: Optional[float] = option(
        None,
        "of an average of the weights, which is what is validated then, as 0.999",
        above=0,
        below=1,
    )
    save_every_steps: Optional[int] = option(
        None, "steps from one save to the next within an epoch", low=1
    )
    save_every_minutes: Optional[float] = option(
        None, "minutes from one save to the next within an epoch", above=0
    )
    on_save_error: str = option(
        "continue", "when a checkpoint cannot be written", choices=("continue", "stop")
    )
    deterministic: bool = option(False, "the same bits in every run on one machine, on CUDA too")
    sync_bn: bool = option(False, "BatchNorm over the batches of all processes; needs CUDA")
    log_every: int = option(10, "steps from one TensorBoard point to the next", low=1)
    num_images: int = option(4, "validation images shown in TensorBoard and plots/", low=0)
    num_pr_curves: int = option(3, "rarest classes with a precision-recall curve there", low=0)
    histograms: bool = option(False, "gradients and validation logits there; slow")
    loggers: list[str] = option(
        [], "other programs that follow the run: wandb, mlflow, trackio", choices=LOGGERS
    )


@dataclass(frozen=True)
class WindowConfig:
    size: Optional[list[int]] = option(
        None, "height and width of windows that slide over the image; null: whole", low=1, length=2
    )
    stride: Optional[list[int]] = option(
        None, "from one window to the next; null: two thirds of size", low=1, length=2
    )


@dataclass(frozen=True)
class ValConfig:
    window: WindowConfig = field(default_factory=WindowConfig)


@dataclass(frozen=True)
class TrainConfig:
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: Any = option(REQUIRED, "_target_ node; its backbone is a group of its own")
    loss: Any = option(REQUIRED, "_target_ node: a WeightedSum of named terms")
    optimizer: Any = option(REQUIRED, "partial _target_ node, called with the parameters")
    scheduler: Any = option(REQUIRED, "_target_ node: a Schedule")
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    val: ValConfig = field(default_factory=ValConfig)
    loader: TrainLoaderConfig = field(default_factory=TrainLoaderConfig)
    seed: int = option(0, "of weights, order and augmentation", low=0, high=2**63 - 1)
    palette: Any = palette_option("null: the masks'")
    out_dir: Optional[str] = option(None, "run folder; null: a new one under runs/", path=True)
    resume: Optional[str] = option(
        None, "auto: what out_dir holds, if anything; or the run folder or .pt file to go on with"
    )
    init_from: Optional[str] = option(
        None, "checkpoint or run folder whose matching tensors to start from", exists=True
    )
    init_parts: Optional[list[str]] = option(
        None, "parts of the model to take from it, as [aspp,decoder]; null: all", choices=PARTS
    )
    allow: list[str] = option([], "your own modules that a checkpoint to resume may name")


@dataclass(frozen=True)
class EvaluateDataConfig:
    root: Optional[str] = option(None, "folder of the data; null: where it was", path=True)
    images: Optional[str] = folder_option("images")
    masks: Optional[str] = folder_option("masks")
    image_suffix: Optional[str] = folder_option("image_suffix")
    mask_suffix: Optional[str] = folder_option("mask_suffix")
    splits: Optional[str] = folder_option("splits")
    val: Optional[float] = folder_option("val")
    split_seed: Optional[int] = folder_option("split_seed")
    group: Optional[str] = folder_option("group")
    check: bool = option(True, "read every file first")
    classes: Optional[list[Any]] = option(
        None, "with predictions=...: names in index order; null: from labels.txt"
    )
    num_classes: Optional[int] = option(
        None, "with predictions=...: as for train.py", low=2, high=256
    )
    ignore_index: Optional[int] = option(
        None, "with predictions=...: mask value without a label; null: 255", low=0
    )
    label_map: Any = option(
        None, "with predictions=...: of the data set, a mapping as for train.py", kind=dict
    )
    colormap: Any = option(
        None, "with predictions=...: colours of RGB and palette masks, of the saved ones too"
    )
    range: Optional[list[float]] = range_option("with predictions=...: as for train.py")


@dataclass(frozen=True)
class TTAConfig:
    scales: list[float] = scales_option()
    flip: bool = flip_option()


@dataclass(frozen=True)
class RunWindowConfig:
    size: Any = window_option()
    stride: Optional[list[int]] = stride_option()


@dataclass(frozen=True)
class InferenceOptions:
    """How checkpoints compute: the parameters of :func:`segkit.load_model`, for scripts too."""

    device: str = device_option()
    precision: Optional[str] = precision_option()
    weights: str = weights_option()
    scales: list[float] = scales_option()
    flip: bool = flip_option()
    window: Any = window_option()
    stride: Optional[list[int]] = stride_option()
    allow: list[str] = allow_option()


@dataclass(frozen=True)
class BoundaryConfig:
    dilation_ratio: float = option(
        0.02, "border of the boundary IoU over the image's diagonal", above=0, high=1
    )
    trimap_widths: list[int] = option(
        [5], "bands around borders to score alone, in pixels", low=1, high=1000
    )


@dataclass(frozen=True)
class BootstrapConfig:
    resamples: int = option(
        1000, "swaps of two models for their p values; 0: no intervals either", low=0, high=10**6
    )
    level: float = option(0.95, "how often an interval holds the true value", above=0, below=1)
    seed: int = option(0, "of the swaps", low=0, high=2**63 - 1)


@dataclass(frozen=True)
class ReportConfig:
    write: bool = option(False, "write report.html, one page with all that is known of the split")
    max_images: int = option(24, "images, and suspicious regions, that it shows at most", low=0)


@dataclass(frozen=True)
class EvaluateConfig:
    checkpoint: Any = option(
        None,
        "a .pt file or a run folder; a list of them is an ensemble",
        kind=str | list,
        exists=True,
    )
    predictions: Optional[str] = option(
        None, "folder with masks <id>.png to score instead of a checkpoint", exists=True
    )
    predictions_colormap: Any = option(
        None, "colours of saved masks, as data.colormap of train.py; null: data.colormap"
    )
    predictions_label_map: Any = option(
        None, "ids in saved masks to classes or ignore, a mapping as {255: 1}", kind=dict
    )
    compare: Any = option(
        None, "another checkpoint or folder to compare with", kind=str | list, exists=True
    )
    weights: str = weights_option()
    split: Optional[str] = option(None, "split to score; null: the run's validation split")
    data: EvaluateDataConfig = field(default_factory=EvaluateDataConfig)
    tta: TTAConfig = field(default_factory=TTAConfig)
    window: RunWindowConfig = field(default_factory=RunWindowConfig)
    boundary: BoundaryConfig = field(default_factory=BoundaryConfig)
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    out_dir: Optional[str] = option(None, "for the files; null: eval/ in the run folder", path=True)
    save_predictions: bool = option(False, "write predictions/<id>.png as palette PNGs")
    palette: Any = palette_option("null: the run's")
    voc_results: bool = option(False, "write them in the layout of the VOC server too")
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    device: str = device_option()
    precision: Optional[str] = precision_option()
    allow: list[str] = allow_option()


@dataclass(frozen=True)
class CalibrationConfig:
    root: Optional[str] = option(None, "folder of the data; null: where it was", path=True)
    split: Optional[str] = option(None, "its split; null: the run's training split")
    images: int = option(
        64, "how many of its images int8_static takes ranges of; three are compared", low=1
    )


@dataclass(frozen=True)
class LatencyConfig:
    runs: int = option(20, "how often to compute one image; 0: not at all", low=0)
    size: Optional[list[int]] = option(
        None,
        "its height and width; null: those of the file, or 256 x 256",
        low=1,
        high=LARGEST_SIDE,
        length=2,
    )


@dataclass(frozen=True)
class ExportConfig:
    checkpoint: str = option(REQUIRED, "a .pt file or a run folder", exists=True)
    weights: str = weights_option()
    format: str = option("onnx", "kind of the file", choices=("onnx", "torchscript", "pt2"))
    out: Optional[str] = option(None, "the file; null: in export/ in the run folder", path=True)
    include_preprocessing: bool = option(False, "take uint8 RGB images and normalise them inside")
    size: Optional[list[int]] = option(
        None,
        "height and width of the one image that the file takes at a time, for runtimes without "
        "dynamic shapes; null: any number of any size",
        low=1,
        high=LARGEST_SIDE,
        length=2,
    )
    opset: int = option(18, "version of ONNX's operators", low=18)
    precision: str = option(
        "fp32", "of the file, ONNX only", choices=("fp32", "fp16", "int8_dynamic", "int8_static")
    )
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    allow: list[str] = allow_option()


@dataclass(frozen=True)
class PredictConfig:
    checkpoint: Any = option(
        REQUIRED,
        "a .pt file or a run folder; a list of them is an ensemble",
        kind=str | list,
        exists=True,
    )
    source: str = option(REQUIRED, "an image, video, folder, quoted glob, or number of a camera")
    out_dir: str = option(
        "predictions", "folder for the files; those there are replaced", path=True
    )
    write: Optional[list[str]] = option(
        None, "what; null: index of images, overlay of videos", choices=OUTPUTS
    )
    opacity: float = option(0.5, "of the colours in an overlay, 0 to 1", low=0)
    background: str = option("background", "class that overlay leaves as it is, and cutout cuts")
    outlines: bool = option(False, "borders of the classes in an overlay; opacity=0: these alone")
    legend: bool = option(True, "names and colours of the classes below an overlay")
    palette: Any = palette_option("null: the run's")
    max_frames: Optional[int] = option(None, "of a video or camera; null: all", low=1)
    benchmark: bool = option(False, "measure and tell how long an image takes")
    weights: str = weights_option()
    tta: TTAConfig = field(default_factory=TTAConfig)
    window: RunWindowConfig = field(default_factory=RunWindowConfig)
    device: str = device_option()
    precision: Optional[str] = precision_option()
    allow: list[str] = allow_option()


def inference_options(settings: EvaluateConfig | PredictConfig) -> InferenceOptions:
    """How the checkpoints of a script compute."""
    return InferenceOptions(
        device=settings.device,
        precision=settings.precision,
        weights=settings.weights,
        scales=settings.tta.scales,
        flip=settings.tta.flip,
        window=settings.window.size,
        stride=settings.window.stride,
        allow=settings.allow,
    )


COMPONENTS = ("model", "loss", "optimizer", "scheduler")
"""Nodes of :class:`TrainConfig`, besides ``data.dataset``, that must be ``_target_`` nodes."""

SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "predict": PredictConfig,
}


@cache
def schema_node(schema: type) -> DictConfig:
    """The schema as a tree to merge into, which copies it: made once, and never changed.

    OmegaConf takes frozen classes for read-only ones; this one can be written to.
    """
    return _writable(OmegaConf.structured(schema))


def _writable(node: DictConfig) -> DictConfig:
    OmegaConf.set_readonly(node, None)
    for key in node:
        if isinstance(child := node._get_node(key), DictConfig):
            _writable(child)
    return node


def to_settings(schema: type[Settings], cfg: DictConfig) -> Settings:
    """A composed configuration as an object of its schema: frozen, interpolations resolved.

    Components are mappings with a ``_target_``, see :func:`segkit.config.build`.
    """
    kind: type = schema  # mypy: a type variable is not hashable
    settings = OmegaConf.to_object(OmegaConf.merge(schema_node(kind), cfg))
    assert isinstance(settings, schema)
    return settings


def first_late_epoch(cfg: "DictConfig | TrainConfig") -> int:
    """The first of the last epochs that ``augment.late`` is for, from 1; one too many for none."""
    return int(cfg.trainer.max_epochs - cfg.augment.late_epochs + 1)


# How many numbers a list has, in YAML: `${segkit.count:${data.mean}}` channels.
OmegaConf.register_new_resolver("segkit.count", len, replace=True)

for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=schema_node(_schema))


# Groups whose file can be exchanged on the way, and those that make it another run.
SWAPPED = ("loss", "augment", "optimizer", "scheduler")
