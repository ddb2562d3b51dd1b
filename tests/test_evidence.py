"""Figures in the pages are those of the runs: tables against results.jsonl, README's against the measurement."""

import json
import re
from pathlib import Path

import pytest

from msl_hf.studies.ablate import summary

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
PAGES = sorted(page.name for page in CARDS.glob("*.md"))


def runs() -> dict[str, list[list[dict]]]:
    """Row name -> the runs of each grid that has such a row."""
    groups: dict[tuple, list[dict]] = {}
    for line in map(json.loads, (CARDS / "evidence/ablations/results.jsonl").read_text().splitlines()):
        groups.setdefault((line["row"], line["grid"]), []).append(line)
    found: dict[str, list[list[dict]]] = {}
    for (row, _), lines in groups.items():
        found.setdefault(row, []).append(lines)
    return found


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """(head, rows) of every table."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
        found.append(([cell.strip("| ") for cell in head], [[cell.strip("| ") for cell in row] for row in rows]))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_ablations_are_what_the_runs_gave(page):
    known, checked = runs(), 0
    for head, rows in tables((CARDS / page).read_text()):
        if "image passes" not in head:
            continue
        metrics = [(place, *title.split()) for place, title in enumerate(head) if re.match("(clean|masked) ", title)]
        for row in rows:
            shown = [row[place] for place, *_ in metrics]
            given = [[summary([line[images][metric] for line in lines]) for _, images, metric in metrics]
                     for lines in known[row[0]] if len(lines) == int(row[2])]  # fmt: skip
            assert shown in given, f"{row[0]}: {shown} is not among {given}"
            checked += 1
    assert checked or page not in ("ablations.md", "plus.md")


def test_the_table_of_the_readme_is_what_was_measured():
    trainings = json.loads((CARDS / "evidence/voc20_small_and_hidden.json").read_text())["trainings"]
    ((head, rows),) = (found for found in tables((ROOT / "README.md").read_text()) if found[0][0] == "training")
    assert head[3:5] == ["mAP", "AP of small objects"] and len(rows) == 3

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    for row, (name, view) in zip(rows, (("plain", "whole"), ("mixed", "whole"), ("mixed", "whole@256")), strict=True):
        training = trainings[name]
        measured, cells = training["views"][view], [cell.replace("*", "") for cell in row]
        assert cells[2] == f"{measured['cost']:.2g}"
        assert cells[3:5] == [percent(measured["mAP"]), percent(measured["breakdown"]["size"]["small"]["AP"])]
        if view == "whole":
            half = [next(one["AP"] for one in training["occluders"][kind] if one["covered"] == pytest.approx(0.5))
                    for kind in ("black", "noise", "image")]  # fmt: skip
            assert cells[5] == " / ".join(map(percent, half))
