"""No number that is far too large gets past the schema, to overflow somewhere behind it."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from segkit.config.problems import option_problems
from segkit.config.schema import LARGEST, SCHEMAS, DataConfig

HUGE = 99999999999999999999


def integer_keys(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    kinds = get_type_hints(schema)
    for f in fields(schema):
        if is_dataclass(f.default_factory):
            yield from integer_keys(f.default_factory, f"{prefix}{f.name}.")
        elif "int" in str(kinds[f.name]) or "int" in str(f.metadata["kind"]):
            yield f"{prefix}{f.name}", kinds[f.name], f.metadata


@pytest.mark.parametrize("script", SCHEMAS)
def test_every_integer_has_an_upper_limit(script: str) -> None:
    keys = list(integer_keys(SCHEMAS[script]))
    assert keys
    for name, kind, limits in keys:
        value = [HUGE] * (limits["length"] or 1) if "list" in str(kind) else HUGE
        (problem,) = option_problems(name, value, limits)
        assert problem.startswith(f"{name}={value}: expected at most "), name
        high = LARGEST if limits["high"] is None else limits["high"]
        assert high <= 2**63 - 1


def test_floats_have_none_unless_it_is_said() -> None:
    limits = next(f for f in fields(SCHEMAS["predict"]) if f.name == "opacity").metadata
    assert list(option_problems("opacity", 1e30, limits)) == []


def test_a_list_where_a_number_belongs_is_refused() -> None:
    """As edited checkpoints have it, which no grammar of overrides has seen."""
    (std,) = (f for f in fields(DataConfig) if f.name == "std")
    found = list(option_problems("data.std", [0.2, 0.2, [[]]], std.metadata))
    assert found == ["data.std[2]=[[]]: expected a number"]
    assert not list(option_problems("data.std", [0.2, 0.2, 0.1], std.metadata))
