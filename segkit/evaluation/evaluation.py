"""One split, scored: batches to predictions, predictions to measures, measures to files."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import segkit
from segkit.config.schema import EvaluateConfig
from segkit.data.loader import Collate, EvalBatches
from segkit.data.workers import resolve_num_workers
from segkit.evaluation.comparison import compare
from segkit.evaluation.measures import Measures
from segkit.evaluation.outputs import EvaluationOutputs, image_result
from segkit.evaluation.sources import TargetSource
from segkit.evaluation.split import EvaluationSplit
from segkit.evaluation.target import EvaluationTarget
from segkit.report.html.findings import Findings
from segkit.runtime.context import Runtime
from segkit.runtime.log import log, progress
from segkit.text import display_path, throughput


class Evaluation:
    """Scores of one target after the other on the same images; the first one's are written.

    Args:
        settings: The configuration.
        split: What it is scored on.
        outputs: Where masks and scores go.
        runtime: The processes and the device.
    """

    def __init__(
        self,
        settings: EvaluateConfig,
        split: EvaluationSplit,
        outputs: EvaluationOutputs,
        runtime: Runtime,
    ) -> None:
        self.settings, self.split, self.outputs = settings, split, outputs
        self.world = runtime.world
        batches = EvalBatches(
            split.dataset,
            collate=Collate(  # pads nothing: equal sizes only
                (0,) * getattr(split.dataset, "channels", 3), split.ignore_index
            ),
            batch_size=settings.loader.batch_size,
            num_workers=resolve_num_workers(settings.loader.num_workers, runtime.device),
            device=runtime.device,
            rank=runtime.world.rank,
            world_size=runtime.world.size,
        )
        self.batches = runtime.open(batches)
        self.findings = Findings(
            len(split.classes), split.ignore_index, split.colors, settings.report.max_images
        )
        self.measured: list[Measures] = []
        self.provenances: list[dict[str, Any]] = []  # how each was computed
        self.seconds = 0.0

    def measure(self, target: EvaluationTarget) -> Measures:
        """Predict and measure every image; all processes get the measures of all images."""
        started, is_first = time.perf_counter(), not self.measured
        measures = Measures(
            len(self.split.classes),
            self.split.ignore_index,
            dilation_ratio=self.settings.boundary.dilation_ratio,
            trimap_widths=self.settings.boundary.trimap_widths,
        )
        predicted = target.predict(iter(self.batches))
        for image in progress(predicted, self.split.name, len(self.batches.indices), "images"):
            measures.update(image)
            if is_first:
                self.outputs.add(image)
                if self.settings.report.write:
                    self.findings.update(image_result(image))
        measures.gather(self.world)
        self.measured.append(measures)
        self.provenances.append(target.provenance(self.world))
        self.seconds += time.perf_counter() - started
        return measures

    def result(self, target: EvaluationTarget) -> dict[str, Any]:
        """What ``metrics.json`` says of the first target."""
        measures, bootstrap = self.measured[0], self.settings.bootstrap
        result = {
            **target.facts,
            **self.provenances[0],
            "split": self.split.name,
            "images": len(self.split.dataset),
            "convention": "one confusion matrix over all pixels that are not ignored",
            "size": "original",
            "classes": self.split.classes,
            **measures.scores(),
            "segkit": segkit.__version__,
            "torch": str(torch.__version__),
        }
        if bootstrap.resamples and self.world.is_main:
            result["bootstrap"] = measures.intervals(bootstrap.level)
        return result

    def _comparison(self, targets: Sequence[EvaluationTarget]) -> dict[str, Any] | None:
        """What ``compare.json`` says of two targets; None of one."""
        if len(targets) == 1:
            return None
        first, second = self.measured
        bootstrap = self.settings.bootstrap
        difference = compare(
            first.scores(),
            second.scores(),
            (first.counts, second.counts),
            (first.image_mious, second.image_mious),
            self.split.classes,
            resamples=bootstrap.resamples,
            level=bootstrap.level,
            seed=bootstrap.seed,
        )
        if self.provenances[1] and (unlike := unlike_entries(*self.provenances)):
            log.warning(
                "warning: the two were computed differently, and their scores may differ by that: "
                "%s. For one way give precision=, window.size= and window.stride=",
                ", ".join(unlike),
            )
        facts = zip(targets, self.provenances, strict=True)
        return {"files": [{**target.facts, **how} for target, how in facts], **difference}

    def write(
        self, source: TargetSource, targets: Sequence[EvaluationTarget], result: dict[str, Any]
    ) -> None:
        """Every file but the masks, by the first process; all call it together.

        Args:
            source: What the first target was made of.
            targets: All that were measured, one or two.
            result: Scores of the first one.
        """
        others = self.world.gather(self.findings)[1:]
        if not self.world.is_main:
            return
        measures = self.measured[0]
        self.outputs.scores(result, measures)
        comparison = self._comparison(targets)
        if comparison is not None:
            self.outputs.comparison(comparison)
        if self.settings.report.write:
            for other in others:
                self.findings.merge(other)
            self.outputs.report(source, result, measures, self.findings, comparison)
        num_images = len(self.split.dataset)
        log.info(
            "%d images of %s, %s; written to %s",
            num_images,
            self.split.name,
            throughput(len(self.measured) * num_images / self.seconds),
            display_path(self.outputs.folder),
        )


def unlike_entries(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """``window null and [256, 256]``: what two mappings have in common but for the value."""
    return [
        f"{name} {json.dumps(first[name])} and {json.dumps(second[name])}"
        for name in first
        if name in second and first[name] != second[name]
    ]
