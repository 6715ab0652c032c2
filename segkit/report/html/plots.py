"""Curves as SVG that takes its colours from the page around it, in light and in dark."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from segkit.report.html.history import number
from segkit.report.html.object_sizes import SizeBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Stand-ins that the style sheet replaces, so that ink follows the page; the lines' colours are
# those of Okabe and Ito, which the colour-blind can tell apart on white and on black.
INK, FAINT, ACCENT = "#010203", "#040506", "#070809"
COLORS = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":")
MOST_MARKERS = 60  # points of a curve that are told apart

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found and copied
    "svg.hashsalt": "segkit",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@contextmanager
def _axes() -> Iterator["Axes"]:
    """Axes to draw on in our style; :func:`_svg` is called before it ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The browser has the letters of all the world even if matplotlib's own font has not.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield axes


def _svg(axes: "Axes", name: str, text: str, points: Mapping[str, Sequence[str]]) -> str:
    """The image as a part of a page: no prologue, ids of its own, the page's colours.

    Args:
        axes: What was drawn on.
        name: Word that makes the ids in it differ from those of other images on the page.
        text: What it shows, for those who do not see it.
        points: For the ``gid`` of a line with markers, in the order they were drawn in, what each
            of its points is.
    """
    file = io.StringIO()
    _figure(axes).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", svg)
    svg = _with_names(svg, {f"{name}-{line}": names for line, names in points.items()})
    for color, variable in ((INK, "ink"), (FAINT, "line"), (ACCENT, "accent")):
        svg = svg.replace(color, f"var(--{variable})")
    label = escape(text)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)  # the style sheet sets them
    role = "group" if any(points.values()) else "img"  # the parts of an img are not read aloud
    return f'{opening} role="{role}" aria-label="{label}">{rest}'


def _with_names(svg: str, points: Mapping[str, Sequence[str]]) -> str:
    """The image with the markers of each line (by its id) as points that have a name."""
    done = []
    for line, names in points.items():
        before, start, svg = svg.partition(f'id="{line}"')
        done += [before, start]
        for text in names:
            before, start, rest = svg.partition("<use ")
            marker, end, svg = rest.partition("/>")
            title = f"<title>{escape(text)}</title>"
            done += [before, f'<g class="point" role="img">{title}', start, marker, end, "</g>"]
    return "".join([*done, svg])


def _figure(axes: "Axes") -> "Figure":
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def frequency(classes: Sequence[str], support: Sequence[int], iou: Sequence[float | None]) -> str:
    """IoU of each class against its share of the target's pixels."""
    from matplotlib.ticker import LogLocator

    total = max(sum(support), 1)
    points = [
        (name, 100 * n / total, 100 * score)
        for name, n, score in zip(classes, support, iou, strict=True)
        if n and score is not None
    ]
    with _axes() as axes:
        axes.set(xscale="log", ylim=(-3, 103), ylabel="IoU, %", xlabel="share of the pixels, %")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.plot(
            [p[1] for p in points], [p[2] for p in points], "o", color=COLORS[0], gid="points"
        )
        axes.margins(x=0.12)
        _name_points(axes, points)
        names = [f"{name}: IoU {y:.1f} %, {x:.2g} % of the pixels" for name, x, y in points]
        text = "IoU of each class against how frequent it is"
        return _svg(axes, "frequency", text, {"points": names})


def _name_points(axes: "Axes", points: Sequence[tuple[str, float, float]]) -> None:
    """Write names beside points, lowest first, where they cover no other name and no point."""
    from matplotlib.transforms import Bbox

    figure = _figure(axes)
    figure.draw_without_rendering()
    spots = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in spots]
    for name, x, y in sorted(points, key=lambda point: point[2]):
        for dx, dy, across in ((6, -3, "left"), (-6, -3, "right"), (0, 7, "center")):
            text: Text = axes.annotate(
                name if len(name) <= 24 else f"{name[:21]}...",
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=across,
                fontsize=9,
                parse_math=False,
            )
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = figure.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def sizes(bins: Sequence[SizeBin]) -> str:
    """Share of the objects that are found, and of their pixels, by size."""
    told = {"found": "of them found (half of it)", "recall": "of their pixels right"}
    names: dict[str, list[str]] = {}
    with _axes() as axes:
        axes.set(ylim=(-3, 108), ylabel="%", xlabel="side of the object, pixels")
        for number, (key, text) in enumerate(
            (("found", "objects found (half of it)"), ("recall", "their pixels (recall)"))
        ):
            values = [
                (i, one, 100 * getattr(one, key)) for i, one in enumerate(bins) if one.objects
            ]
            names[key] = [
                f"{one.text} pixels, {one.objects:,} objects: {value:.1f} % {told[key]}"
                for _, one, value in values
            ]
            axes.plot(
                [i for i, _, _ in values],
                [value for _, _, value in values],
                "os"[number] + DASHES[number],
                color=COLORS[number],
                label=text,
                gid=key,
            )
        axes.set_xticks(range(len(bins)), [f"{b.text}\n({b.objects:,})" for b in bins], fontsize=8)
        axes.legend(loc="lower right")
        return _svg(axes, "sizes", "objects found and their recall against their size", names)


def calibration(bins: Sequence[Mapping[str, Any]]) -> str:
    """Share of right pixels against the mean confidence, and how many pixels are how sure."""
    used = [one for one in bins if one["pixels"]]
    total = sum(one["pixels"] for one in used)
    with _axes() as axes:
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="%")
        axes.bar(
            [100 * one["low"] for one in used],
            [100 * one["pixels"] / total for one in used],
            [100 * (one["high"] - one["low"]) for one in used],
            align="edge",
            color=FAINT,
            alpha=0.4,
            label="share of the pixels",
        )
        axes.plot([0, 100], [0, 100], ":", color=INK, label="as sure as right")
        x, y = ([100 * one[key] for one in used] for key in ("confidence", "accuracy"))
        axes.plot(x, y, "o-", color=COLORS[0], label="pixels that are right", gid="points")
        axes.legend(loc="upper left")
        names = [
            f"{100 * one['confidence']:.1f} % sure, {100 * one['accuracy']:.1f} % right: "
            f"{one['pixels']:,} pixels"
            for one in used
        ]
        return _svg(axes, "calibration", "accuracy against confidence", {"points": names})


def history(lines: Sequence[Mapping[str, Any]], keys: Sequence[str], name: str, unit: str) -> str:
    """Logged values against the epoch.

    Args:
        lines: Those of ``metrics.jsonl``, each with ``epoch``.
        keys: Which values; percent if ``unit`` is ``%``.
        name: Word that makes the ids in it differ from those of other plots on the page.
        unit: Beside the axis.
    """
    from matplotlib.ticker import MaxNLocator

    factor = 100 if unit == "%" else 1
    epochs = [line["epoch"] for line in lines]
    names: dict[str, list[str]] = {}
    with _axes() as axes:
        # The same epochs in every plot of a run, whichever values were logged when.
        axes.set(xlabel="epoch", ylabel=unit, xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        for place, key in enumerate(keys):
            values = ((line["epoch"], number(line, key)) for line in lines)
            points = [(epoch, factor * value) for epoch, value in values if value is not None]
            has_markers = len(points) <= MOST_MARKERS
            if has_markers:
                names[f"line{place}"] = [f"{key}, epoch {x}: {y:.4g} {unit}" for x, y in points]
            axes.plot(
                [epoch for epoch, _ in points],
                [value for _, value in points],
                DASHES[place // len(COLORS) % len(DASHES)],
                marker="o" if has_markers else "",
                markersize=4,
                color=COLORS[place % len(COLORS)],
                label=f"\u200b{key}",  # a name that starts with _ would be left out
                gid=f"line{place}",
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for text in axes.legend(fontsize=9).get_texts():
            text.set_parse_math(False)
        return _svg(axes, name, f"{', '.join(keys)} against the epoch", names)
