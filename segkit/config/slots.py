"""What a checkpoint may name: a list for each slot of a configuration, and nothing else.

A checkpoint is data. What it names is looked up here by its full name, before anything is
imported; besides, only what the user allows by module may stand in it.
"""

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object

from segkit.errors import ConfigError


@dataclass(frozen=True)
class Slot:
    """A place where a component stands.

    Attributes:
        names: What a checkpoint may name there.
        kind: Type of what is built there, by its full name: this package imports no torch.
        inner: Places below it where a component stands too (``*`` is any key), and their slots.
    """

    names: tuple[str, ...] = ()
    kind: str = "builtins.object"
    inner: Mapping[str, str] = field(default_factory=dict)


def _of(module: str, names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names.split())


LOSSES = (
    *_of(
        "segkit.losses",
        "CrossEntropyLoss FocalLoss DiceLoss TverskyLoss LovaszLoss TopKLoss BCELoss MSELoss",
    ),
    "torch.nn.CrossEntropyLoss",
)
# Those that work on whole parameters, without a closure or sparse gradients.
OPTIMIZERS = _of(
    "torch.optim",
    "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD",
)
# Of images and masks, and made of numbers and words alone. Left out are those that read files or
# take functions: FDA, HistogramMatching, Lambda, PixelDistributionAdaptation, TextImage.
TRANSFORMS = _of(
    "albumentations",
    "AdditiveNoise AdvancedBlur Affine AutoContrast Blur CLAHE CenterCrop ChannelDropout "
    "ChannelShuffle ChromaticAberration CoarseDropout ColorJitter Compose Crop CropAndPad "
    "CropNonEmptyMaskIfExists D4 Defocus Downscale ElasticTransform Emboss Equalize Erasing "
    "FancyPCA GaussNoise GaussianBlur GlassBlur GridDistortion GridDropout HEStain HorizontalFlip "
    "HueSaturationValue ISONoise Illumination ImageCompression InvertImg LongestMaxSize "
    "MaskDropout MedianBlur Morphological MotionBlur MultiplicativeNoise NoOp OneOf OneOrOther "
    "OpticalDistortion Pad PadIfNeeded Perspective PiecewiseAffine PixelDropout PlanckianJitter "
    "PlasmaBrightnessContrast PlasmaShadow Posterize RGBShift RandomBrightnessContrast RandomCrop "
    "RandomCropFromBorders RandomFog RandomGamma RandomGravel RandomGridShuffle RandomOrder "
    "RandomRain RandomResizedCrop RandomRotate90 RandomScale RandomShadow RandomSizedCrop "
    "RandomSnow RandomSunFlare RandomToneCurve Resize RingingOvershoot Rotate SafeRotate "
    "SaltAndPepper SelectiveChannelTransform Sequential Sharpen ShiftScaleRotate ShotNoise "
    "SmallestMaxSize Solarize SomeOf Spatter SquareSymmetry Superpixels ThinPlateSpline ToGray "
    "ToSepia Transpose UnsharpMask VerticalFlip XYMasking ZoomBlur",
)

SLOTS = {
    "run": Slot(  # the whole configuration
        inner={
            "model": "model",
            "data.dataset": "dataset",
            "loss": "loss",
            "optimizer": "optimizer",
            "scheduler": "scheduler",
            "augment.train.*": "transform",
            "augment.late.*": "transform",
        }
    ),
    "model": Slot(("segkit.models.DeepLabV3Plus",), "torch.nn.Module", {"backbone": "backbone"}),
    "backbone": Slot(
        _of("segkit.models.backbones", "MobileNet ResNet Timm Tiny Xception"), "torch.nn.Module"
    ),
    "dataset": Slot(
        _of("segkit.data", "VOCSegmentation FolderSegmentation Shapes"),
        "segkit.data.SegmentationDataset",
    ),
    "loss": Slot(
        ("segkit.losses.WeightedSum", *LOSSES), "torch.nn.Module", {"terms.*.loss": "term"}
    ),
    "term": Slot(LOSSES, "torch.nn.Module"),
    "optimizer": Slot(OPTIMIZERS, "torch.optim.Optimizer"),
    "scheduler": Slot(_of("segkit.schedules", "Cosine Poly Step"), "segkit.schedules.Schedule"),
    "transform": Slot(
        ("segkit.data.RandomScaleRotateCrop", *TRANSFORMS),
        "collections.abc.Callable",
        {"transforms.*": "transform", "first": "transform", "second": "transform"},
    ),
}
SLOT_OF = {name: slot for slot in reversed(SLOTS) for name in SLOTS[slot].names}

# What reaches out of the file stays off: downloads, files of weights, making a data set.
OFF: dict[str, dict[str, Any]] = {
    "segkit.models.backbones.MobileNet": {"weights": None},
    "segkit.models.backbones.ResNet": {"weights": None},
    "segkit.models.backbones.Timm": {"weights": None},
    "segkit.models.backbones.Xception": {"weights": None},
    "segkit.data.Shapes": {"make": False},
}

# Names of segkit 0.1, which checkpoints from then hold. Since then they are public ones.
RENAMED = {
    "segkit.data.voc.VOCSegmentation": "segkit.data.VOCSegmentation",
    "segkit.data.shapes.shapes": "segkit.data.Shapes",
    **{f"segkit.engine.schedule.{x}": f"segkit.schedules.{x}" for x in ("Cosine", "Poly", "Step")},
}

# Keys that had other names before, by their path in a configuration of train.py.
RENAMED_KEYS = {"trainer.num_pictures": "trainer.num_images"}

HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
# No module of these is the user's own.
LIBRARIES = {
    *("segkit", "torch", "torchvision", "albumentations", "numpy", "scipy", "cv2", "PIL", "hydra"),
    *("omegaconf", "yaml", "onnx", "onnxruntime", "onnxscript", "tensorboard", "matplotlib"),
    *("jinja2", "pydantic", "tqdm", "pip", "setuptools", "pkg_resources", "pytest", "_pytest"),
}


def with_new_names(node: Any) -> Any:
    """A tree of builtins in which components have the names of today."""
    if isinstance(node, dict):
        return {
            key: RENAMED.get(child, child)
            if key == "_target_" and isinstance(child, str)
            else with_new_names(child)
            for key, child in node.items()
        }
    return [with_new_names(child) for child in node] if isinstance(node, list) else node


def with_new_keys(config: Any) -> Any:
    """A configuration of train.py, as builtins, in which keys have the names of today."""
    for old, new in RENAMED_KEYS.items():
        (group, name), (_, new_name) = old.split("."), new.split(".")
        node = config.get(group) if isinstance(config, dict) else None
        if isinstance(node, dict) and name in node and new_name not in node:
            moved = {new_name if key == name else key: value for key, value in node.items()}
            config = {**config, group: moved}
    return config


def check_trusted(plain: Any, slot: str, allow: Sequence[str], source: object, key: str) -> None:
    """Raise a ConfigError unless a resolved tree names what is listed or allowed, and only there.

    Args:
        plain: Builtins, without interpolations.
        slot: Whose component it is; ``run`` for a whole configuration.
        allow: Modules of the user's own, or objects in them, that may be named too.
        source: The file that it comes from.
        key: Where the tree stands in that file's configuration; empty for the whole.
    """
    check = _Check(tuple(allow), str(source))
    if slot == "run":
        check.plain(plain, SLOTS[slot].inner, key)
    else:
        check.component(plain, slot, key)


@dataclass(frozen=True)
class _Check:
    allow: tuple[str, ...]
    source: str

    def component(self, node: Any, slot: str, path: str) -> None:
        """What stands at a place of a component: one of these, or a plain value."""
        if not isinstance(node, dict) or "_target_" not in node:
            self.plain(node, {}, path)
            return
        target = node["_target_"]
        if not isinstance(target, str):
            raise ConfigError(f"{self.source}: {path}._target_={target!r}: expected a name")
        arguments = {key: child for key, child in node.items() if key not in HYDRA_KEYS}
        if target in SLOTS[slot].names:
            if "_args_" in node:
                raise ConfigError(f"{self.source}: {path} has _args_; expected named arguments")
            self.plain(arguments, SLOTS[slot].inner, path)
        elif is_allowed(target, self.allow):
            self.users_own(list(node.values()), path)
        else:
            raise ConfigError(f"{self.source}: {_refusal(target, slot, path)}")
        for name, kinds in (("_partial_", bool), ("_recursive_", bool), ("_convert_", str)):
            if not isinstance(node.get(name, kinds()), kinds):
                raise ConfigError(
                    f"{self.source}: {path}.{name}={node[name]!r}: expected a {kinds.__name__}"
                )

    def plain(self, node: Any, inner: Mapping[str, str], path: str) -> None:
        """Values, with components at the places ``inner`` and nowhere else."""
        if isinstance(node, dict) and (found := [key for key in HYDRA_KEYS if key in node]):
            raise ConfigError(
                f"{self.source}: the checkpoint names {node.get('_target_', found[0])} as "
                f"{path or 'the whole configuration'}, where no component is expected: refused"
            )
        for key, child, below in _children(node, path):
            places = {
                pattern.partition(".")[2]: slot
                for pattern, slot in inner.items()
                if pattern.partition(".")[0] in ("*", str(key))
            }
            if "" in places:
                self.component(child, places[""], below)
            else:
                self.plain(child, places, below)

    def users_own(self, node: Any, path: str) -> None:
        """The arguments of a component of the user's own: any that is listed or allowed."""
        if isinstance(node, dict) and "_target_" in node:
            self.component(node, SLOT_OF.get(str(node["_target_"]), "model"), path)
            return
        for _, child, below in _children(node, path):
            self.users_own(child, below)


def _children(node: Any, path: str) -> list[tuple[Any, Any, str]]:
    """(key, child, path of it) in a mapping or a list."""
    if isinstance(node, dict):
        return [(key, child, f"{path}.{key}" if path else str(key)) for key, child in node.items()]
    if isinstance(node, list):
        return [(i, child, f"{path}[{i}]") for i, child in enumerate(node)]
    return []


def is_within(name: str, others: Sequence[str]) -> bool:
    """Whether a dotted name is one of the others, or of something in it."""
    return any(name == other or name.startswith(f"{other}.") for other in others)


def is_allowed(target: str, allow: Sequence[str]) -> bool:
    """Whether the user allowed it; segkit's own is taken from the lists alone."""
    if is_within(target, ("segkit",)):
        return False
    # The name first, since looking further imports it. Then where it is defined:
    # `my_losses.os.system` begins with my_losses, too.
    return target in allow or (
        is_within(target, allow) and is_within(defining_module(target), allow)
    )


def defining_module(target: str) -> str:
    """The module in which the object with this dotted name is defined."""
    try:
        return str(getattr(get_object(target), "__module__", ""))
    except (ImportError, AttributeError, ValueError, InstantiationException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"_target_={target}: cannot be imported ({reason})") from error


def _refusal(target: str, slot: str, path: str) -> str:
    """Why a name is refused; how to allow it where it can be a component of the user's own."""
    names = SLOTS[slot].names
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    text = f"the checkpoint names {target}, which is no part of segkit"
    if is_within(target, ("segkit",)):
        return f"{text} that may stand as {path}: refused; expected {listed}"
    if defines_class(target):
        module = target.rpartition(".")[0]
        return f"{text} ({path}); if you know and trust that code, add 'allow=[{module}]'"
    return f"{text} ({path}): refused; expected {listed}, or a class in a module of your own"


def defines_class(target: str) -> bool:
    """Whether a module that is not Python's or a library of segkit's defines or offers this class.

    Read off its source: nothing is imported.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        return False
    module, _, name = target.rpartition(".")
    first, *rest = module.split(".")
    if first in sys.stdlib_module_names or first in LIBRARIES:
        return False
    try:
        spec = find_spec(first)
        file = Path(str(spec.origin)) if spec is not None else Path()
        for part in rest:
            folder = file.parent / part
            file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        body = ast.parse(file.read_bytes()).body
    except (ImportError, OSError, ValueError, SyntaxError):
        return False
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    offered = [
        alias.asname or alias.name
        for node in imports
        if node.level or is_within(str(node.module), (first,))
        for alias in node.names
    ]
    return name in (*classes, *offered)
