"""Results in files, Benchmarks/results/DATE-COMMIT.json, and in README.md.

    {"commit": …, "machine": {…}, "sections": {SECTION: {"date": …, "options": {…},
     "tables": [{"title": …, "cases": [every figure of every round], "rows": [as printed]}],
     "problems": [what could not be measured, and why]}}, "summary": …}

A file says what was measured, not where: it contains no path of the machine.
"""

import datetime
import json
import re
import subprocess
from pathlib import Path

from tables import markdown

FOLDER = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- performance: begin -->", "<!-- performance: end -->"


def commit() -> str:
    """The short hash of the commit checked out here, with -dirty if files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(FOLDER.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # The results of one commit do not make a new one.
        others = f":(exclude,top){FOLDER.parent.name}/{FOLDER.name}"
        changes = git("status", "--porcelain", "--", ":/", others)
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def goals(sections: dict[str, dict]) -> str:
    """One line on all goals."""
    tables = [table for section in sections.values() for table in section["tables"]]
    met = [goal["met"] for table in tables for case in table["cases"] for goal in case["goals"]]
    missing = f", {met.count(None)} not measured" if None in met else ""
    return f"{met.count(True)} of {len(met)} goals met{missing}"


def newest() -> Path | None:
    """By the date in the name; of one day, the one that was written last."""
    files = FOLDER.glob("*.json")
    return max(files, key=lambda file: (file.name[:10], file.stat().st_mtime), default=None)


def write(
    file: str | None, machine: dict[str, str], sections: dict[str, dict], order: list[str]
) -> Path:
    """Writes sections to `file`, or to the file of this commit, whose other sections stay."""
    name = commit()
    kept = {}
    if file:
        path = Path(file)
    else:
        FOLDER.mkdir(exist_ok=True)
        found = sorted(FOLDER.glob(f"????-??-??-{name}.json"))
        path = found[-1] if found else FOLDER / f"{datetime.date.today()}-{name}.json"
        kept = json.loads(path.read_text())["sections"] if found else {}
    sections = kept | sections
    sections = {name: sections[name] for name in order if name in sections}
    document = {"commit": name, "machine": machine, "sections": sections}
    document["summary"] = goals(sections)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return path


# What README.md shows of it, by section: the cases as the tables have them, or the beginning of one.
SHOWN = {
    "cpu": [
        "GET P=1, 100,000 keys", "GET P=16, 100,000 keys", "GET P=64, 2,000,000 keys",
        "SET P=64, 2,000,000 keys", "SET P=64, 20,000,000 keys", "MGET of 10 P=16, 100,000 keys",
        "SET P=16, 100,000 keys of 1 KiB", "GET P=1, 1,000 keys of 64 KiB", "EVAL P=16, 100,000 keys",
    ],
    "instructions": ["GET P=64", "SET P=64"],
    "memory": ["fresh server, MB", "idle connection"],
    "keys": ["all values", "all values with expiry"],
    "giveback": ["after deleting 90%"],
    "start": ["exec to first PONG"],
    "growth": ["p99.9 while growing"],
    "freeing": ["DEL of a value", "FLUSHALL SYNC"],
    "expiry": ["past due but kept, mean", "server CPU per expired key"],
    "publish": ["PUBLISH to 1", "PUBLISH to 100"],
    "hits": ["Zipf 1.0", "scan", "shift"],
    "saving": ["SAVE, MB/s", "p99.9 while saving", "further memory"],
    "loading": ["one core, keys/s"],
    "appending": ["appendfsync always, 50", "appendfsync everysec, 50"],
}  # fmt: skip


def shown_rows(sections: dict[str, dict]) -> list[dict[str, str]]:
    """The rows for README.md: what, Valiant, redis-server, ratio."""
    rows = []
    for section, wanted in SHOWN.items():
        tables = sections.get(section, {}).get("tables", [])
        printed = [row for table in tables[:1] for row in table["rows"]]
        for case in wanted:
            found = [row for row in printed if list(row.values())[0] == case]
            found = found or [row for row in printed if list(row.values())[0].startswith(case)]
            for row in found[:1]:
                unit, name = next(iter(row.items()))
                columns = {name: row.get(name, "") for name in ("valiant", "redis", "ratio")}
                rows.append({"": f"{unit}: {name}", **columns})
    return rows


def write_readme() -> str:
    """Replaces what README.md says between the marks by the newest results; returns what it did."""
    text = README.read_text()
    if not (path := newest()):
        raise ValueError(f"there are no results in {FOLDER.parent.name}/{FOLDER.name}")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md needs one {BEGIN} and one {END}")
    document = json.loads(path.read_text())
    sections = document["sections"]
    dates = sorted({section["date"] for section in sections.values()})
    machine = document["machine"]
    redis = re.search(r"v=(\S+)", machine.get("redis-server", ""))
    about = f"Measured on {machine['cpu']}" + (f", redis-server {redis[1]}" if redis else "")
    about += f", commit {document['commit']}, {' and '.join(dict.fromkeys((dates[0], dates[-1])))}:"
    about += f" {document['summary']}.\n"
    about += f"All rows, with every round: `{FOLDER.parent.name}/{FOLDER.name}/{path.name}`."
    parts = [BEGIN, about, markdown(shown_rows(sections)), END]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + "\n\n".join(parts) + after)
    return f"README.md has the results of {path.name}"
