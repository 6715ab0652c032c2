"""docs/config.md says what the schema says."""

from pathlib import Path

from segkit.config.reference import reference, rows
from segkit.config.schema import EvaluateConfig

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m segkit.config.reference docs/config.md"
    )


def test_a_row_shows_type_default_and_limits() -> None:
    lines = list(rows(EvaluateConfig))
    assert "| `checkpoint` |" in "\n".join(lines)
    level = next(line for line in lines if line.startswith("| `bootstrap.level`"))
    text = "how often an interval holds the true value; above 0; below 1"
    assert level == f"| `bootstrap.level` | float | `0.95` | {text} |"
