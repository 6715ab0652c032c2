"""What an evaluation leaves behind, all in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from segkit.data.masks import write_mask
from segkit.errors import ConfigError, DataError
from segkit.evaluation.comparison import comparison_table
from segkit.evaluation.files import write_scores
from segkit.evaluation.measures import Measures
from segkit.evaluation.split import Data
from segkit.evaluation.target import Source
from segkit.files import make_folder, remove_empty, write_json
from segkit.inference.predictions import PredictedMask
from segkit.report.html.findings import Findings
from segkit.report.html.page import ReportData, read_history, write_report
from segkit.report.image_result import ImageResult
from segkit.report.label_errors import write_suspicious
from segkit.report.tables import class_table, more_scores
from segkit.runs.folder import run_of
from segkit.runtime.log import log


class Output:
    """Writes the masks of one image after the other, then the scores.

    Args:
        cfg: Of evaluate.py.
        data: The split.
        paths: What is scored: checkpoints, or one folder of masks.

    Raises:
        ConfigError: The folder cannot be made, or masks cannot hold so many classes.
    """

    def __init__(self, cfg: DictConfig, data: Data, paths: Sequence[Path]) -> None:
        wanted = {
            "predictions": cfg.save_predictions,
            # comp6: trained on any data
            f"results/VOC2012/Segmentation/comp6_{data.split}_cls": cfg.voc_results,
        }
        if any(wanted.values()) and len(data.classes) > 256:
            key = "save_predictions" if cfg.save_predictions else "voc_results"
            raise ConfigError(
                f"{key}=true: a palette PNG holds 256 classes, the data has {len(data.classes)}; "
                f"leave {key} out"
            )
        self.data = data
        self.folder, self._made = evaluation_folder(cfg.out_dir, paths, data.split)
        self.mask_folders = [self.folder / name for name, write in wanted.items() if write]
        names = [] if cfg.compare else ["compare.json"]
        names += [] if cfg.report.write else ["report.html", "suspicious_labels.csv"]
        self.others = [self.folder / name for name in names]

    def close(self) -> None:
        """Remove the folders that were made for it, where nothing was written."""
        remove_empty(self._made)

    def add(self, image: PredictedMask) -> None:
        """Write the mask that was predicted for an image, if that was asked for."""
        for folder in self.mask_folders:
            path = folder / f"{image.batch.ids[0]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_mask(path, image.pred[0].cpu().numpy(), self.data.palette)
            except ValueError as error:  # a saved mask, which may hold anything where ignored
                raise DataError(f"{path}: {error}") from error

    def scores(self, result: dict[str, Any], measures: Measures) -> None:
        """Write and show what was measured.

        Scores of an earlier evaluation in files that this one does not write are deleted: they
        would say something else than those beside them. Masks stay.
        """
        if (self.folder / "metrics.json").exists():
            for path in self.others:
                path.unlink(missing_ok=True)
        rows = (image.row() for image in measures.images)
        matrix = measures.matrix.matrix.tolist()
        write_scores(self.folder, result, matrix, rows, self.data.classes)
        log.info("%s\n%s", class_table(result, self.data.classes), more_scores(result))
        shown = [name for name, n in zip(self.data.classes, result["support"], strict=True) if n]
        if len(shown) == 1 < len(self.data.classes):
            log.warning(
                "warning: %r is the only class in these masks: the scores say nothing of the "
                "others, and a model that answers %r everywhere gets 100 %%",
                *(shown * 2),
            )

    def comparison(self, comparison: dict[str, Any]) -> None:
        """Write and show how two models differ."""
        write_json(self.folder / "compare.json", comparison)
        log.info("\n%s", comparison_table(comparison))

    def report(
        self,
        source: Source,
        result: dict[str, Any],
        measures: Measures,
        findings: Findings,
        comparison: dict[str, Any] | None,
    ) -> None:
        """Write the page, and the list of suspicious labels."""
        classes, regions = self.data.classes, findings.suspicious.regions()
        write_suspicious(self.folder / "suspicious_labels.csv", regions, classes)
        config, lines = origin(source)
        matrix = measures.matrix.matrix.tolist()
        page = ReportData(result, matrix, self.data.palette, findings, lines, config, comparison)
        write_report(self.folder / "report.html", page)


def evaluation_folder(
    out_dir: str | None, paths: Sequence[Path], split: str
) -> tuple[Path, Sequence[Path]]:
    """Where the files go: by default ``eval/<split>-<checkpoint>`` in the run folder.

    Returns:
        The folder, and what did not exist of it and its parents, the innermost first.
    """
    name = paths[0].stem if len(paths) == 1 else f"ensemble-of-{len(paths)}"
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


def image_result(image: PredictedMask) -> ImageResult:
    """What the report looks at."""

    def array(plane: Tensor | None) -> Any:
        return None if plane is None else plane[0].cpu().numpy()

    return ImageResult(
        image.batch.ids[0],
        array(image.batch.image).transpose(1, 2, 0),
        array(image.batch.target),
        array(image.pred),
        array(image.confidence),
        array(image.label_confidence),
    )


def origin(source: Source) -> tuple[str, list[dict[str, Any]]]:
    """Configuration and log of the run that a checkpoint comes from; nothing for saved masks."""
    if isinstance(source, Path):
        return "", []
    config = OmegaConf.to_yaml(OmegaConf.create(source[0].about.config))
    return config, read_history(run_of(source[0].path) / "metrics.jsonl")
