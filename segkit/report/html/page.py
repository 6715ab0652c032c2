"""The page: everything that is known of an evaluation, in one file."""

import platform
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.data.arrays import Image
from segkit.errors import ConfigError
from segkit.files import atomic_write
from segkit.report.html import plots
from segkit.report.html.doubts import folded
from segkit.report.html.findings import Findings
from segkit.report.html.history import rising_val_loss
from segkit.report.html.thumbnails import ERROR_COLORS, LAYERS
from segkit.text import absent_classes

if TYPE_CHECKING:
    from markupsafe import Markup

HERE = Path(__file__).parent
LIBRARIES = ("segkit", "torch", "torchvision", "numpy", "albumentations", "pillow")
# What the head of the page tells.
ABOUT = ("checkpoint", "predictions", "epoch", "weights", "exported", "number_format", "split")
MANY_CLASSES = 40  # from here on the confusion matrix shows shades without numbers
MOST_CHANGED = 20  # images that a comparison names


@dataclass(frozen=True)
class ReportData:
    """What a page is made of.

    Attributes:
        result: What ``metrics.json`` holds. Needed are ``classes`` and a :class:`Scores`' entries;
            ``bootstrap``, ``boundary`` and ``calibration`` are shown where they are.
        matrix: Pixels by true class (rows) and predicted class.
        palette: RGB of each mask value, uint8 (256, 3).
        findings: What was found in all images.
        history: Lines of the run's ``metrics.jsonl``, if there is one.
        config: The run's configuration as YAML, or nothing.
        comparison: What ``compare.json`` holds, if two models were compared.
        dataset: What people call the data.
        run: What they call the run, or what else was scored.
    """

    result: Mapping[str, Any]
    matrix: Sequence[Sequence[int]]
    palette: Image
    findings: Findings
    history: Sequence[Mapping[str, Any]] = field(default_factory=list)
    config: str = ""
    comparison: Mapping[str, Any] | None = None
    dataset: str = ""
    run: str = ""


def check_libraries() -> None:
    """Raise a ConfigError if a library that a report needs is missing: better before the work."""
    missing = [name for name in ("matplotlib", "jinja2") if util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"report.write=true needs {' and '.join(missing)}, not installed here: "
            f"python -m pip install {' '.join(missing)}"
        )


def write_report(path: Path, data: ReportData) -> None:
    """Write the page.

    Raises:
        ConfigError: A library is missing.
    """
    check_libraries()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,  # names of classes and images are the user's, and may hold anything
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "signed": signed,
        "number": "{:,}".format,
        "counted": counted,
    }
    text = environment.get_template("page.html").render(content(data))
    with atomic_write(path) as temporary:  # names of files may be no text
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def content(data: ReportData) -> dict[str, Any]:
    """What the template needs, by name."""
    from markupsafe import Markup

    result, findings = data.result, data.findings
    classes, crops, regions = result["classes"], findings.doubted(), findings.suspicious.regions()
    present, absent = occurring(result)
    matrix = [[data.matrix[row][column] for column in present] for row in present]
    script = (HERE / "script.js").read_text(encoding="utf-8")
    total = max(sum(result["support"]), 1)
    return {
        "title": title(data),
        "result": result,
        "about": {key: joined(result[key]) for key in ABOUT if result.get(key) is not None},
        "classes": classes,
        "colors": [
            "#{:02x}{:02x}{:02x}".format(*data.palette[min(c, 253)]) for c in range(len(classes))
        ],
        "error_colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in ERROR_COLORS],
        "present": present,
        "present_names": [classes[c] for c in present],
        "absent": absent,
        "rows": [row for row in class_rows(result, total) if row["id"] in present],
        "matrix": matrix,
        "shares": [[n / max(sum(row), 1) for n in row] for row in matrix],
        "dense": len(present) > MANY_CLASSES,
        "cards": findings.cards(result["iou"]),
        "layers": LAYERS,
        "crops": crops,
        "doubts": folded(regions, crops),
        "doubted_images": findings.suspicious.images()[: findings.max_images],
        "num_doubted": len(regions),
        "sizes": findings.sizes.bins(),
        "size_rows": [
            (name, bins)
            for name, bins in ((n, findings.sizes.bins(c)) for c, n in enumerate(classes))
            if any(one.objects for one in bins)
        ],
        "comparison": data.comparison and comparison(data.comparison),
        "figures": figures(data),
        "warning": rising_val_loss(data.history),
        "config": data.config,
        "versions": versions(),
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        "style": Markup((HERE / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        # The one script that may run, whatever else should find its way into the page.
        "script_hash": b64encode(sha256(script.encode()).digest()).decode(),
    }


def title(data: ReportData) -> str:
    """The data, the split and the run, as far as they are known."""
    of_what = " ".join(filter(None, (data.dataset, data.result.get("split"))))
    return ": ".join(filter(None, (of_what, data.run))) or "segkit report"


def occurring(result: Mapping[str, Any]) -> tuple[list[int], str]:
    """Ids of the classes that masks or predictions show, and a line that names the others.

    Where there is none at all, all are shown.
    """
    found = [c for c, iou in enumerate(result["iou"]) if iou is not None]
    if len(found) in (0, len(result["iou"])):
        return list(range(len(result["iou"]))), ""
    return found, absent_classes([n for c, n in enumerate(result["classes"]) if c not in found])


def class_rows(result: Mapping[str, Any], total: int) -> list[dict[str, Any]]:
    """One row of the table for each class."""
    intervals = (result.get("bootstrap") or {}).get("iou")
    borders = (result.get("boundary") or {}).get("iou")
    return [
        {
            "id": c,
            "name": name,
            "iou": result["iou"][c],
            "interval": intervals[c] if intervals else None,
            "precision": result["precision"][c],
            "recall": result["recall"][c],
            "f1": result["f1"][c],
            "boundary": borders[c] if borders else None,
            "pixels": result["support"][c],
            "share": result["support"][c] / total,
        }
        for c, name in enumerate(result["classes"])
    ]


def comparison(found: Mapping[str, Any]) -> dict[str, Any]:
    """The two models, their scores side by side, and the images that differ most."""
    names = [facts.get("checkpoint") or facts["predictions"] for facts in found["files"]]
    rows = [
        row | {"id": c, "sure": is_sure(row, found["level"])} for c, row in enumerate(found["iou"])
    ]
    absent = [row for row in rows if row["first"] is None and row["second"] is None]
    return {
        "models": [joined(name) for name in names],
        "resamples": found["resamples"],
        "level": found["level"],
        "method": found["method"],
        "trust": found["trust"],
        "classes": [row for row in rows if row not in absent],
        "absent": absent_classes([row["class"] for row in absent]) if absent else "",
        "mean": found["miou"] | {"sure": is_sure(found["miou"], found["level"])},
        "images": [row for row in found["images"] if row["difference"]][:MOST_CHANGED],
    }


def joined(value: Any) -> str:
    """A fact about a model, or about each of an ensemble; a dash where it has none."""
    values = value if isinstance(value, list) else [value]
    return " + ".join("-" if one is None else str(one) for one in values)


def is_sure(row: Mapping[str, Any], level: float) -> bool:
    """Whether chance alone makes such a difference more rarely than ``level`` allows."""
    p = row.get("p_value")
    return p is not None and p < 1 - level


def figures(data: ReportData) -> dict[str, "Markup"]:
    """The plots for which there are numbers."""
    from markupsafe import Markup

    result, lines = data.result, data.history
    drawn = {
        "frequency": plots.frequency(result["classes"], result["support"], result["iou"]),
        "sizes": plots.sizes(data.findings.sizes.bins()),
    }
    if result.get("calibration"):
        drawn["calibration"] = plots.calibration(result["calibration"]["bins"])
    logged = {key for line in lines for key in line}
    for name, keys, unit in (
        ("losses", sorted(key for key in logged if key.partition("/")[2].startswith("loss")), ""),
        ("scores", sorted(logged & {"val/miou", "val/pixel_accuracy", "val/mean_f1"}), "%"),
        ("lr", sorted(logged & {"lr"}), ""),
    ):
        if keys:
            drawn[name] = plots.history(lines, keys, name, unit)
    return {name: Markup(svg) for name, svg in drawn.items()}


def versions() -> dict[str, str]:
    """Of what made the page."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def percent(value: float | None, digits: int = 1) -> str:
    """A share as text; a dash where it is not defined."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference of shares as text; a dash where it is not defined."""
    return "-" if value is None else f"{100 * value:+.1f}"


def counted(number: int, noun: str) -> str:
    """How many of something: ``1 region``, ``1,200 regions``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
