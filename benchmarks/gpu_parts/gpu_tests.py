"""The tests that need a CUDA device, file by file, a row for each test."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gpu_parts import Cases, Options, Row

TESTS = Path(__file__).resolve().parents[2] / "tests"


def cases(options: Options) -> Cases:
    marked = [path for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    return {str(path.relative_to(TESTS)): partial(tests, path) for path in marked}


class Reports:
    """A plugin that keeps what became of each test."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.rows.append(
                {
                    "test": report.nodeid.partition("::")[2],
                    "outcome": report.outcome,
                    "seconds": report.duration,
                }
            )
            if not report.passed:
                self.rows[-1]["note"] = last_line(str(report.longrepr))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            note = last_line(str(report.longrepr))
            self.rows.append({"test": "collection", "outcome": "failed", "note": note})


def tests(path: Path) -> Iterator[Row]:
    import pytest

    reports = Reports()
    # Not the options of the project: they ask for several processes, and leave these tests out.
    options = ["-o", "addopts=", "-v", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    pytest.main([*options, "--rootdir", str(TESTS.parent), str(path)], plugins=[reports])
    yield from reports.rows


def last_line(text: str) -> str:
    """Of an error: what pytest marks with E, or the end."""
    lines = text.strip().splitlines() or [""]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (marked or lines)[-1 if not marked else 0][:300]
