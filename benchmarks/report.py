"""Readings to a table. Ratios are made within a repetition; every figure is the median over the repetitions."""
# ruff: noqa: RUF001 - signs for a table

from collections.abc import Sequence
from statistics import median
from typing import Final

from benchmarks.targets import LINES, TARGETS, Line, Target, Unit

__all__ = ["Readings", "markdown", "table", "text"]

Readings = dict[str, Sequence[dict[str, float]]]
"""By contender, jobq first: what each repetition measured, by metric."""

_NAMES: Final = {"one": "one by one"}
_TITLES: Final = {"raw": "raw loop"}


def table(broker: str, readings: Readings) -> list[tuple[str, ...]]:
    """The rows of `broker`'s table, the head first: a column for each contender, and a ratio to each of jobq's."""
    titles = [_TITLES.get(name, name) for name in readings]
    ratios = [f"jobq : {name}" for name in _others(readings)]
    head = (broker, "unit", *titles, *ratios, "target: reached", "")
    rows = [_row(broker, line, readings) for line in LINES if _values(readings, "jobq", line.metric)]
    return [head, *rows]


def text(rows: Sequence[tuple[str, ...]]) -> str:
    """For a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = {0, 1, len(widths) - 2}
    lines = [
        "  ".join(cell.ljust(width) if i in words else cell.rjust(width) for i, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """For a file."""
    head, *body = rows
    rule = tuple("---" if i < 2 else "---:" for i in range(len(head)))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _others(readings: Readings) -> list[str]:
    return [name for name in readings if name != "jobq"]


def _row(broker: str, line: Line, readings: Readings) -> tuple[str, ...]:
    cells = [_cell(_values(readings, name, line.metric), line.unit) for name in readings]
    ratios = [_factor(_ratios(readings, line.metric, name, line.metric)) for name in _others(readings)]
    verdicts = [_verdict(target, line, readings) for target in TARGETS.get(broker, {}).get(line.metric, ())]
    reached = "; ".join(words for words, _ in verdicts)
    met = "" if not verdicts else "pass" if all(met for _, met in verdicts) else "FAIL"
    return (line.title, line.unit, *cells, *ratios, reached, met)


def _verdict(target: Target, line: Line, readings: Readings) -> tuple[str, bool]:
    if target.against is None:
        value = median(_values(readings, "jobq", line.metric))
        return f"≤ {target.bound:g}: {_number(value, line.unit)}", value <= target.bound
    if target.against == "one":
        ratios = _ratios(readings, line.metric, "jobq", "one")
    else:
        ratios = _ratios(readings, line.metric, target.against, line.metric)
    name = _NAMES.get(target.against, target.against)
    if not ratios:
        return f"≥ {target.bound:g} × {name}: not measured", True
    return f"≥ {target.bound:g} × {name}: {_factor(ratios)}", median(ratios) >= target.bound


def _values(readings: Readings, name: str, metric: str) -> list[float]:
    return [values[metric] for values in readings[name] if metric in values]


def _ratios(readings: Readings, metric: str, name: str, base: str) -> list[float]:
    pairs = zip(readings["jobq"], readings.get(name, ()), strict=False)
    return [mine[metric] / other[base] for mine, other in pairs if metric in mine and other.get(base)]


def _factor(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    ratio = median(ratios)
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def _cell(values: Sequence[float], unit: Unit) -> str:
    if not values:
        return ""
    middle = _number(median(values), unit)
    if len(values) == 1:
        return middle
    return f"{middle} ({_number(min(values), unit)}–{_number(max(values), unit)})"


def _number(value: float, unit: Unit) -> str:
    match unit:
        case "/s":
            return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:,.0f}"
        case "MB":
            return f"{value:.0f}"
        case "ms" | "rows" | "x":
            return f"{value:.2f}"
        case "s":
            return f"{value:.3f}"
