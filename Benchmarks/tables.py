"""Figures as tables for people and as data for the results."""

import statistics
from collections.abc import Callable

SERVERS = ("valiant", "redis")


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


class Table:
    """Figures of one section.

    `summary` makes the one figure that is shown and judged out of a case's figures: by default the
    median of the rounds. Then the ratio is the median of the rounds' ratios, because what disturbs
    a round disturbs both servers. Other summaries, and medians of different numbers of rounds, are
    divided by one another.
    """

    def __init__(
        self, title: str, unit: str, names: tuple[str, str] = SERVERS,
        summary: Callable[[list[float]], float] = statistics.median,
    ) -> None:  # fmt: skip
        self.title, self.unit, self.names, self.summary = title, unit, names, summary
        self.figures: list[dict] = []
        self.rows: list[dict[str, str]] = []
        self.missing: list[str] = []  # what could not be measured, and why

    def add(self, case: str, first: list[float], second: list[float], digits: int) -> None:
        """Adds a case with its figures, one for each round; an empty list: not measured."""
        ratio = None
        if first and second and 0 not in (*second, self.summary(second)):
            if self.summary is statistics.median and len(first) == len(second):
                ratio = statistics.median(a / b for a, b in zip(first, second))
            else:
                ratio = self.summary(first) / self.summary(second)
        both = dict(zip(self.names, (first, second)))
        self.figures.append({"case": case, **both, "ratio": ratio, "goals": []})
        cells = {name: number(self.shown(name), digits) for name in self.names}
        self.rows.append({self.unit: case, **cells, "ratio": number(ratio, 2)})

    def shown(self, of: str) -> float | None:
        """The figure of the last case in the column `of`; None: not measured."""
        value = self.figures[-1][of]
        if isinstance(value, list):
            return self.summary(value) if value else None
        return value

    def note(self, column: str, text: str, figures: object = None) -> None:
        """Adds a further column to the last case, and its figures if the text does not say all."""
        self.figures[-1][column] = text if figures is None else figures
        self.rows[-1][column] = text

    def goal(
        self, of: str, most: float | None = None, form: str = "g", least: float | None = None
    ) -> None:
        """Adds the goal of the last case: `of`, a name of a column, is in that range."""
        if most is None and least is None:
            self.rows[-1][f"goal for {of}"] = ""
            return
        if least is None:
            text = f"≤ {most:{form}}"
        else:
            text = f"≥ {least:{form}}" if most is None else f"{least:{form}} to {most:{form}}"
        value = self.shown(of)
        met = value is not None and (least is None or least <= value)
        met = met and (most is None or value <= most)
        self.judge(of, text, None if value is None else met)

    def judge(self, of: str, goal: str, met: bool | None) -> None:
        self.figures[-1]["goals"].append({"of": of, "goal": goal, "met": met})
        verdict = {True: "ok", False: "MISSED", None: "not measured"}[met]
        self.rows[-1][f"goal for {of}"] = f"{goal} {verdict}"

    def data(self) -> dict:
        return {"title": self.title, "cases": self.figures, "rows": self.rows}

    def __str__(self) -> str:
        lines = [f"## {self.title}", "", markdown(self.rows)]
        lines += [f"\nNot measured: {reason}" for reason in self.missing]
        return "\n".join(lines)


def markdown(rows: list[dict[str, str]]) -> str:
    """Aligned Markdown; the first column is text, the others are aligned right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names] + [[row.get(name, "") for name in names] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    cells = [[cell.rjust(width) for cell, width in zip(line, widths)] for line in lines]
    for line in cells:
        line[0] = line[0].strip().ljust(widths[0])
    cells.insert(1, ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]])
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
