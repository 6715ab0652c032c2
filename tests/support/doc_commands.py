"""The commands that README.md and docs/ show, and what is put into each before it is run."""

import re
from pathlib import Path
from typing import NamedTuple

from scripts import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# A block for the shell, any other block, an indented line, code within a sentence.
CODE = re.compile(
    r"^```(?:bash|sh)?\n(?P<block>.*?)^```|^```.*?^```|^ {4}(?P<line>[^\n]+)|`(?P<span>[^`]+)`",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(
    r"(?:srun (?:--\S+ )*)?(?:[A-Z_]+=\S+ )*"  # as Slurm starts it, with its environment
    r"(?P<command>(?:python|pip|torchrun|tensorboard|segkit|curl) .+?)(?: &)?"
)

RUN = "RUN"  # the newest run in runs/, whatever it is called
# What a document writes, and what a reader has there or, to be quick, a smaller number.
FILLED = {
    "runs/...": RUN,
    "data.root=data/camvid": "data.root=mine",
    "data/camvid/JPEGImages": "photos",
    "split data.root=PATH": "split data.root=unsplit",
    "predictions=FOLDER": f"predictions={RUN}/eval/val-best/predictions",
    "source=PATH": "source=photos",
    "=DIR/images": "=two/images",
    "=DIR/masks": "=two/masks",
    "FOLDER": "photos",
    "PATH": "mine",
    "OTHER": "runs/other",
    "--max-restarts=3 ... ": "--max-restarts=3 train.py data=voc data.root=mine ",
    "train.py ...": "train.py data=voc data.root=mine",
    "/shared/runs": "runs/shared",
    "--nnodes=4": "--nnodes=1",
    "FIRST:29500": "localhost:0",
    '"$SLURM_JOB_NUM_NODES"': "1",
    "$SLURM_JOB_ID": "7",
    '"$first:29500"': "localhost:0",
    "--nproc-per-node=4": "--nproc-per-node=1",
    "--nproc-per-node=8": "--nproc-per-node=1",
    "trainer.max_epochs=200": "trainer.max_epochs=2",
    "-m hydra/launcher=slurm hydra.launcher.partition=gpu seed=0,1,2": (
        "--cfg hydra hydra/launcher=slurm hydra.launcher.partition=gpu seed=0"
    ),
    "'loss=ce,focal,[ce,dice]' optimizer.lr=0.002,0.004 seed=0,1,2": (
        "'loss=ce,[ce,dice]' optimizer.lr=0.002,0.004 seed=0"
    ),
    "seed=0,1,2": "seed=0,1",
    "--kills 30": "--kills 0",
    "--repeats 1000": "--repeats 1",
}
# Nothing else that stands for something may be left after that.
STAND_IN = re.compile(rf"\.\.\.|<\w|\$(?!{{hydra:)|\b(?!{RUN}\b)[A-Z]{{2,}}\b")

NOT_RUN = {
    r"(python -m )?pip ": "changes the environment that the tests run in",
    r"python -m pytest": "starts the tests, which this is one of",
    r"torchrun --max-restarts$": "names an option, and no script",
}


class Rule(NamedTuple):
    """How the commands are run in which a pattern is found.

    Attributes:
        pattern: A regular expression for the filled-in command.
        more: Words that are added.
        needs: Packages without which it cannot be run.
        alone: In a process of its own: it forks, or the packages give warnings.
        serves: It answers requests, and goes on until it is stopped.
    """

    pattern: str
    more: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    alone: bool = False
    serves: bool = False


SHORT = (
    "trainer.max_epochs=1",
    "trainer.device=cpu",
    "loader.batch_size=2",
    "loader.num_workers=0",
    "model.aspp_channels=8",
    "model.decoder_channels=8",
)
FOUR_SHAPES = (
    "model.backbone.width=8",
    "data.dataset.num_train=4",
    "data.dataset.num_val=2",
    "data.dataset.height=48",
    "data.dataset.width=64",
)
SHAPES = (*SHORT, *FOUR_SHAPES)
CROP = "augment.crop_size=[48,48]"
TINY = ("model/backbone=tiny", "model.backbone.width=8")
ONNX = ("onnx", "onnxruntime", "onnxscript")
SERVE = ("fastapi", "uvicorn", "python_multipart")
# The first that fits counts.
RULES = [
    Rule(r"train\.py --cfg job$"),
    Rule(r"train\.py resume="),  # the run brings its settings
    # A cluster is not at hand: the configuration is composed.
    Rule(r"--cfg hydra hydra/launcher=slurm", needs=("hydra_plugins.hydra_submitit_launcher",)),
    Rule(
        r"hydra/launcher=local",
        (*SHAPES, "hydra.launcher.n_jobs=1"),
        ("hydra_plugins.hydra_joblib_launcher",),
        alone=True,
    ),
    Rule(
        r"hydra/sweeper=search",
        (*SHAPES, "hydra.sweeper.n_trials=2"),
        ("hydra_plugins.hydra_optuna_sweeper",),
        alone=True,
    ),
    Rule(r"trainer\.loggers=", SHAPES, ("wandb", "mlflow", "trackio"), alone=True),
    Rule(r"train\.py --config-dir my_configs", SHORT),
    Rule(
        r"train\.py experiment=camvid",
        (*SHORT, CROP, "model.backbone.weights=mobilenet_v2.pth"),
    ),
    Rule(r"train\.py model/backbone=timm", (*SHORT, *FOUR_SHAPES[1:]), ("timm",)),
    Rule(r"train\.py .*model/backbone=tiny .*out_dir=runs/mine", (*SHORT, TINY[1])),
    Rule(
        r"train\.py (--cfg job )?(data=(voc|folders)|experiment=(voc2012|cityscapes))",
        (*SHORT, *TINY, CROP),
    ),
    Rule(r"train\.py", SHAPES),
    Rule(r"evaluate\.py .*\.onnx", ("device=cpu", "loader.num_workers=0"), ONNX),
    Rule(r"evaluate\.py", ("device=cpu", "loader.num_workers=0")),
    Rule(r"predict\.py .*\.onnx", ("device=cpu",), ONNX),
    Rule(r"predict\.py", ("device=cpu",)),
    Rule(r"export\.py .*\bsize=", ("latency.runs=1",), ONNX),
    Rule(r"export\.py", ("latency.runs=1", "latency.size=[32,32]"), ONNX),
    Rule(r"-m segkit\.tools\.\w+$", ("--help",)),
    Rule(r"-m segkit\.data\.check$", ("data.root=mine",)),
    # There may be no network; tests/tools/test_tool_download.py downloads from a server of its own.
    Rule(r"-m segkit\.tools\.download", ("dry_run=true",)),
    Rule(r"-m segkit\.(tools|data|config)\."),
    Rule(r"tensorboard ", ("--inspect",)),  # reads what it would show, and ends
    Rule(r"examples/draw_labels\.py", ("--images=8",)),
    Rule(r"examples/serve\.py", needs=SERVE, serves=True),
    Rule(r"examples/demo\.py", needs=("gradio",), serves=True),
    Rule(r"^curl .*127\.0\.0\.1:8000/", needs=SERVE),
    Rule(r"benchmarks/backbones\.py", ("tiny", "--size", "32", "32"), alone=True),
    Rule(r"benchmarks/(intervals|kills|loss_slopes|result_image)\.py", alone=True),
]


class Shown(NamedTuple):
    """A command as a document shows it, and as it is run but for the run's name and ``more``."""

    document: Path
    written: str
    filled: str
    within_text: bool

    @property
    def rule(self) -> Rule | None:
        return next((rule for rule in RULES if re.search(rule.pattern, self.filled)), None)


def commands(document: Path) -> list[Shown]:
    """All commands of a document, in their order."""
    text = re.sub(r" *\\\n *", " ", document.read_text(encoding="utf-8"))
    found = []
    for match in CODE.finditer(text):
        span = " ".join((match["span"] or "").split())
        for line in (match["block"] or match["line"] or span).splitlines():
            for part in line.partition("  #")[0].split(" && "):
                if command := COMMAND.fullmatch(part.strip()):
                    written = command["command"]
                    found.append(Shown(document, written, fill(written), bool(span)))
    return found


def fill(command: str) -> str:
    for written, here in FILLED.items():
        command = command.replace(written, here)
    # The same, in a clone; tests/scripts/test_wheel.py calls it so.
    command = re.sub(r"^segkit (train|evaluate|predict|export)\b", r"python \1.py", command)
    return re.sub(r"^segkit (?=[a-z])", "python -m segkit.tools.", command)


def cases() -> list[Shown]:
    """All commands that are run; one within a text only if no document shows it otherwise."""
    kept: dict[tuple[Path | None, str], Shown] = {}
    lines = {shown.filled for shown in SHOWN if not shown.within_text}
    for shown in SHOWN:
        is_run = not any(re.match(pattern, shown.written) for pattern in NOT_RUN)
        if is_run and not (shown.within_text and shown.filled in lines):
            once = shown.within_text or shown.written.startswith("torchrun")  # slow to start
            kept.setdefault((None if once else shown.document, shown.filled), shown)
    return list(kept.values())


SHOWN = [shown for document in DOCUMENTS for shown in commands(document)]
CASES = cases()
