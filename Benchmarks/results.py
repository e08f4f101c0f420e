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


def write_readme() -> str:
    """Replaces what README.md says between the marks by the newest results; returns what it did."""
    text = README.read_text()
    if not (path := newest()):
        raise ValueError(f"there are no results in {FOLDER.parent.name}/{FOLDER.name}")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md needs one {BEGIN} and one {END}")
    document = json.loads(path.read_text())
    sections = document["sections"].values()
    dates = sorted({section["date"] for section in sections})
    machine = document["machine"]
    redis = re.search(r"v=(\S+)", machine.get("redis-server", ""))
    about = f"Measured on {machine['cpu']}" + (f", redis-server {redis[1]}" if redis else "")
    about += f", commit {document['commit']}, {' and '.join(dict.fromkeys((dates[0], dates[-1])))}:"
    about += f"\n{document['summary']}."
    parts = [BEGIN, about]
    for table in (table for section in sections for table in section["tables"]):
        parts += [f"### {table['title']}", markdown(table["rows"])]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + "\n\n".join([*parts, END]) + after)
    return f"README.md has the results of {path.name}"
