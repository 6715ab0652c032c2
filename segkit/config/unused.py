"""Settings that would have no effect beside the others, which are refused."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segkit.config.schema import SCHEMAS, PredictConfig, schema_node

# Key, what it is of no use without, and whether that is there.
NEEDED = (
    ("trainer.min_delta", "trainer.patience"),
    ("trainer.patience_monitor", "trainer.patience"),
    ("loader.freeze_batch_size", "trainer.freeze_epochs"),
)
COMPUTED = ("weights", "precision", "tta.scales", "tta.flip", "window.size", "window.stride")
SAVED = ("predictions_colormap", "predictions_label_map")
DRAWN = ("opacity", "outlines", "legend")


def given(plain: Mapping[Any, Any], script: str, keys: Sequence[str]) -> list[str]:
    """``key=value`` of those keys that differ from their defaults in the schema."""
    usual, found = schema_node(SCHEMAS[script]), OmegaConf.create(dict(plain))
    pairs = ((key, OmegaConf.select(found, key)) for key in keys)
    changed = ((key, value) for key, value in pairs if value != OmegaConf.select(usual, key))
    return [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in changed]


def unused_in_training(cfg: DictConfig, plain: Mapping[Any, Any]) -> Iterator[str]:
    """One line for each.

    Args:
        cfg: As composed, with its interpolations.
        plain: The same as builtins, resolved.
    """
    for key, other in NEEDED:
        group, name = other.split(".")
        if not plain[group][name]:
            yield from (f"{setting}: needs {other}" for setting in given(plain, "train", [key]))
    yield from _freezing(plain)
    yield from _cache(plain["loader"])
    yield from _crops(cfg, plain["augment"])
    yield from _labels(cfg, plain["data"])


def _freezing(plain: Mapping[Any, Any]) -> Iterator[str]:
    model, trainer = plain["model"], plain["trainer"]
    if isinstance(model, dict) and model.get("freeze_backbone") is True:
        for setting in given(plain, "train", ["trainer.freeze_epochs"]):
            yield f"{setting}: model.freeze_backbone=true freezes it for the whole run; give one"
        if trainer["backbone_lr_factor"] not in (None, 1):
            factor = trainer["backbone_lr_factor"]
            yield (
                f"trainer.backbone_lr_factor={factor}: model.freeze_backbone=true lets the "
                "backbone learn nothing; give one"
            )


def _labels(cfg: DictConfig, data: Mapping[Any, Any]) -> Iterator[str]:
    """Keys about the numbers in files that a data set, as one of the user's own, does not read."""
    if not isinstance(data["dataset"], Mapping):  # which is told by itself
        return
    written = str(OmegaConf.to_container(cfg.data.dataset, resolve=False))
    for key in ("label_map", "colormap", "range"):
        if data[key] and f"data.{key}" not in written and key not in data["dataset"]:
            yield (
                f"data.{key}={data[key]}: this data set takes none; leave it out, and let the data "
                "set's read() give what training is to see"
            )


def _cache(loader: Mapping[Any, Any]) -> Iterator[str]:
    if loader["cache_dir"] is not None and loader["cache"] != "disk":
        yield (
            f"loader.cache_dir={loader['cache_dir']}: is for loader.cache=disk, and loader.cache "
            f"is {loader['cache'] or 'null'}; add the one or leave out the other"
        )


def _crops(cfg: DictConfig, augment: Mapping[Any, Any]) -> Iterator[str]:
    share = augment["rare_crop"]
    transforms = [node for node in augment["train"] if isinstance(node, Mapping)]
    if 0 < share <= 1 and not any(node.get("rare_p") for node in transforms):
        yield (
            f"augment.rare_crop={share}: no transform of augment.train crops so; use "
            "augment=standard, or a segkit.data.RandomScaleRotateCrop with "
            "rare_p=${augment.rare_crop}"
        )
    used = {"crop_size": "train"} | ({"late_crop_size": "late"} if augment["late_epochs"] else {})
    for key, name in used.items():
        size, written = augment[key], OmegaConf.to_container(cfg.augment[name], resolve=False)
        if size is not None and len(size) == 2 and f"augment.{key}" not in str(written):
            yield (
                f"augment.{key}={size}: no transform of augment.{name} crops to it; use "
                f"augment=standard, or augment.{key}=null"
            )


def unused_in_evaluation(plain: Mapping[Any, Any]) -> Iterator[str]:
    """What is for a network beside saved masks, or the other way round; to compare takes both."""
    if plain["compare"] is not None:
        return
    if plain["predictions"] is not None:
        for setting in given(plain, "evaluate", COMPUTED):
            yield f"{setting}: is for checkpoint=..., which computes; saved masks stay as they are"
    else:
        for setting in given(plain, "evaluate", SAVED):
            yield f"{setting}: is for predictions=FOLDER"


def unused_in_export(plain: Mapping[Any, Any]) -> Iterator[str]:
    """What is for another format or precision."""
    if plain["format"] != "onnx":
        yield from (f"{one}: is for format=onnx" for one in given(plain, "export", ["opset"]))
    keys = ["calibration.root", "calibration.split"]
    if not str(plain["precision"]).startswith("int8"):
        for setting in given(plain, "export", [*keys, "calibration.images"]):
            yield f"{setting}: is for precision=int8_static or int8_dynamic"
    elif plain["precision"] == "int8_dynamic":
        for setting in given(plain, "export", ["calibration.images"]):
            yield f"{setting}: is for precision=int8_static"


def unused_in_prediction(settings: PredictConfig, has_images: bool, has_videos: bool) -> list[str]:
    """What nothing of what is written shows.

    Args:
        settings: The configuration.
        has_images: Whether there are images among the sources.
        has_videos: Whether there are videos.
    """
    kinds = settings.write or [*["index"] * has_images, *["overlay"] * has_videos]
    plain = {key: getattr(settings, key) for key in (*DRAWN, "background", "max_frames")}
    problems = []
    if "overlay" not in kinds:
        problems += [f"{s}: is for write=[overlay]" for s in given(plain, "predict", DRAWN)]
    if not {"overlay", "cutout"} & {*kinds}:
        found = given(plain, "predict", ["background"])
        problems += [f"{setting}: is for write=[overlay] or [cutout]" for setting in found]
    if not has_videos:
        found = given(plain, "predict", ["max_frames"])
        problems += [f"{setting}: is for a video or camera" for setting in found]
    return problems
