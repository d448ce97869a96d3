"""Keeps the figures: a JSON file with every part's newest, and the chart of the README."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine
from benchmarks.chart import draw
from benchmarks.figures import Figures

LATEST = Path(__file__).parent / "results" / "latest.json"
CHART = Path(__file__).parent.parent / "docs" / "images" / "benchmarks.svg"


def save(part: str, figures: Figures) -> None:
    """Put a part's figures in the place of its last ones; draw the chart anew from the drain's."""
    kept = json.loads(LATEST.read_text()) if LATEST.exists() else {}
    kept[part] = {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "figures": figures,
    }
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(kept, indent=1) + "\n")
    if part == "drain":
        CHART.write_text(draw(kept[part]))
