"""Score a checkpoint: ``python evaluate.py checkpoint=RUN_OR_FILE [key=value ...]``.

Or saved masks: ``python evaluate.py predictions=FOLDER data.root=PATH split=val``.

Model, classes and preprocessing come out of the checkpoint. Every pixel is compared at the size
that its mask has on disk, in one confusion matrix over the whole split.
"""

from segkit.ending import ending  # isort: skip

if __name__ == "__main__":
    ending.begin()  # Ctrl-C while the libraries are imported ends in a line, too

from typing import Any

from segkit.cli import check_command_line, run

if __name__ == "__main__":
    check_command_line("evaluate")  # before the imports that take seconds: a wrong key ends at once

from omegaconf import DictConfig

from segkit.config.schema import EvaluateConfig, to_settings
from segkit.evaluation.evaluation import Evaluation
from segkit.evaluation.outputs import EvaluationOutputs
from segkit.evaluation.sources import open_sources, paths_of
from segkit.evaluation.split import check_split, open_split
from segkit.evaluation.target import make_target
from segkit.report.html.page import check_libraries
from segkit.runtime.context import Runtime, open_runtime


def score(cfg: DictConfig) -> dict[str, Any]:
    """Do what ``cfg`` says; returns the content of ``metrics.json``."""
    with open_runtime(patient=False) as runtime:
        return score_in(runtime, to_settings(EvaluateConfig, cfg))


def score_in(runtime: Runtime, settings: EvaluateConfig) -> dict[str, Any]:
    """:func:`score` in one of its processes."""
    if settings.report.write:
        check_libraries()
    runtime.compute_on(settings.device)

    # Checkpoint or folder -> data set -> what predicts, and what it is compared with
    sources = open_sources(settings)
    split = open_split(settings, sources[0])
    targets = [make_target(source, settings, split, runtime.device) for source in sources]
    check_split(settings, split, sources, runtime)

    # Data set -> batches -> predictions -> measures, and masks as files
    outputs = runtime.open(EvaluationOutputs(settings, split, paths_of(sources[0]), runtime))
    evaluation = Evaluation(settings, split, outputs, runtime)
    for target in targets:
        evaluation.measure(target)

    # Measures -> scores -> files
    result = evaluation.result(targets[0])
    evaluation.write(sources[0], targets, result)
    return result


if __name__ == "__main__":
    run("evaluate", score)
