"""What an evaluation leaves behind, all in one folder."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from segkit.config.schema import EvaluateConfig
from segkit.data.masks import write_mask
from segkit.data.named_files import files_below
from segkit.errors import ConfigError, DataError
from segkit.evaluation.comparison import comparison_table
from segkit.evaluation.measures import Measures
from segkit.evaluation.sources import TargetSource, paths_of
from segkit.evaluation.split import EvaluationSplit
from segkit.files import make_folder, remove_empty, write_csv, write_json
from segkit.inference.predictions import PredictedMask
from segkit.report.html.findings import Findings
from segkit.report.html.page import ReportData, write_report
from segkit.report.image_result import ImageResult
from segkit.report.images import confusion_image, picture, write_image
from segkit.report.label_errors import write_suspicious
from segkit.report.tables import class_table, more_scores
from segkit.runs.folder import run_of
from segkit.runs.metrics_csv import read_epochs
from segkit.runtime.context import Runtime
from segkit.runtime.log import log
from segkit.text import display_path


class EvaluationOutputs:
    """Writes the masks of one image after the other, then the scores.

    The folder is there as long as the context; if nothing was written into it, it goes with it. All
    processes write masks, the first one everything else.

    Args:
        settings: The configuration.
        split: The split.
        paths: What is scored: checkpoints, or one folder of masks.
        runtime: The processes.

    Raises:
        ConfigError: The folder cannot be made, or masks cannot hold so many classes.
    """

    def __init__(
        self,
        settings: EvaluateConfig,
        split: EvaluationSplit,
        paths: Sequence[Path],
        runtime: Runtime,
    ) -> None:
        wanted = {
            "predictions": settings.save_predictions,
            # comp6: trained on any data
            f"results/VOC2012/Segmentation/comp6_{split.name}_cls": settings.voc_results,
        }
        if any(wanted.values()) and len(split.classes) > 256:
            key = "save_predictions" if settings.save_predictions else "voc_results"
            raise ConfigError(
                f"{key}=true: a palette PNG holds 256 classes, the data has {len(split.classes)}; "
                f"leave {key} out"
            )
        self.split, self.world = split, runtime.world
        self.folder, self._made = runtime.only_main(
            lambda: evaluation_folder(settings.out_dir, paths, split.name)
        )
        self.mask_folders = {self.folder / name: write for name, write in wanted.items()}
        names = [] if settings.compare else ["compare.json"]
        names += [] if settings.report.write else ["report.html", "suspicious_labels.csv"]
        self.others = [self.folder / name for name in names]

    def __enter__(self) -> "EvaluationOutputs":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.world.is_main:  # the others end before it writes
            remove_empty(self._made)

    def add(self, image: PredictedMask) -> None:
        """Write the mask that was predicted for an image, if that was asked for."""
        for folder in (folder for folder, write in self.mask_folders.items() if write):
            path = folder / f"{image.batch.ids[0]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_mask(path, image.pred[0].cpu().numpy(), self.split.colors)
            except ValueError as error:  # a saved mask, which may hold anything where ignored
                raise DataError(f"{path}: {error}") from error

    def scores(self, result: dict[str, Any], measures: Measures) -> None:
        """Write and show what was measured.

        Scores of an earlier evaluation in files that this one does not write are deleted: they
        would say something else than those beside them. Masks stay, and are told of.
        """
        if (self.folder / "metrics.json").exists():
            for path in self.others:
                path.unlink(missing_ok=True)
        rows = (image.row() for image in measures.images)
        matrix = measures.matrix.matrix.tolist()
        write_scores(self.folder, result, matrix, rows, self.split.classes)
        log.info("%s\n%s", class_table(result, self.split.classes), more_scores(result))
        shown = [name for name, n in zip(self.split.classes, result["support"], strict=True) if n]
        if len(shown) == 1 < len(self.split.classes):
            log.warning(
                "warning: %r is the only class in these masks: the scores say nothing of the "
                "others, and a model that answers %r everywhere gets 100 %%",
                *(shown * 2),
            )

        for folder, write in self.mask_folders.items():
            written = set(self.split.dataset.ids) if write else set()
            found = (file.relative_to(folder) for file in files_below(folder, (".png",)))
            left = [file for file in found if file.with_suffix("").as_posix() not in written]
            if left:
                log.info(
                    "note: %s holds %d masks of an earlier evaluation, such as %s",
                    *(display_path(folder), len(left), left[0]),
                )

    def comparison(self, comparison: dict[str, Any]) -> None:
        """Write and show how two models differ."""
        write_json(self.folder / "compare.json", comparison)
        log.info("\n%s", comparison_table(comparison))

    def report(
        self,
        source: TargetSource,
        result: dict[str, Any],
        measures: Measures,
        findings: Findings,
        comparison: dict[str, Any] | None,
    ) -> None:
        """Write the page, and the list of suspicious labels."""
        classes, regions = self.split.classes, findings.suspicious.regions()
        write_suspicious(self.folder / "suspicious_labels.csv", regions, classes)
        config, lines = origin(source)
        page = ReportData(
            result,
            measures.matrix.matrix.tolist(),
            self.split.colors,
            findings,
            lines,
            config,
            comparison,
            dataset=self.split.dataset_name,
            run=" + ".join(map(run_name, paths_of(source))),
        )
        write_report(self.folder / "report.html", page)


def evaluation_folder(
    out_dir: str | None, paths: Sequence[Path], split: str
) -> tuple[Path, Sequence[Path]]:
    """Where the files go: by default ``eval/<split>-<checkpoint>`` in the run folder.

    Returns:
        The folder, and what did not exist of it and its parents, the innermost first.
    """
    name = f"ensemble-of-{len(paths)}"
    if len(paths) == 1:  # a folder of masks may be called v1.2
        name = paths[0].name if paths[0].is_dir() else paths[0].stem
    kind = "-onnx" if len(paths) == 1 and paths[0].suffix == ".onnx" else ""
    folder = Path(out_dir) if out_dir else run_of(paths[0]) / "eval" / f"{split}-{name}{kind}"
    folder = folder.absolute()
    try:
        return folder, make_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"out_dir={folder}: cannot be made ({error.strerror}); give out_dir=FOLDER, one that "
            "can"
        ) from None


def run_name(path: Path) -> str:
    """What people call the run of a checkpoint: its folder; else the file, or the masks' folder."""
    folder = run_of(path).absolute()
    return path.absolute().name if folder == path.absolute().parent else folder.name


def image_result(image: PredictedMask) -> ImageResult:
    """What the report looks at."""

    def array(plane: Tensor | None) -> Any:
        return None if plane is None else plane[0].cpu().numpy()

    return ImageResult(
        image.batch.ids[0],
        picture(array(image.batch.image).transpose(1, 2, 0)),
        array(image.batch.target),
        array(image.pred),
        array(image.confidence),
        array(image.label_confidence),
    )


def origin(source: TargetSource) -> tuple[str, list[dict[str, Any]]]:
    """Configuration and log of the run that a checkpoint comes from; nothing for saved masks."""
    if isinstance(source, Path):
        return "", []
    config = OmegaConf.to_yaml(OmegaConf.create(source[0].metadata.config))
    return config, read_epochs(run_of(source[0].path) / "metrics.jsonl")


def write_scores(
    folder: Path,
    result: Mapping[str, Any],
    matrix: Sequence[Sequence[int]],
    images: Iterable[Sequence[object]],
    classes: Sequence[str],
) -> None:
    """``metrics.json``, the confusion matrix as table and image, ``per_image.csv``.

    Args:
        folder: Where they go.
        result: Content of ``metrics.json``.
        matrix: Counts; rows are true classes, columns predicted ones.
        images: Id, pixels, mean IoU, pixel accuracy and IoU of each class, of each image.
        classes: Names in index order.
    """
    write_json(folder / "metrics.json", result)
    write_csv(
        folder / "confusion_matrix.csv",
        ["true \\ predicted", *classes],
        [[c, *row] for c, row in zip(classes, matrix, strict=True)],
    )
    write_image(folder / "confusion_matrix.png", confusion_image(matrix, classes))
    columns = ["id", "pixels", "miou", "pixel_accuracy", *(f"iou/{name}" for name in classes)]
    write_csv(folder / "per_image.csv", columns, images)
