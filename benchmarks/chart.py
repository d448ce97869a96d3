"""Draws the drain as bars: an SVG that reads on light and on dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from benchmarks import machine
from benchmarks.drain import JOIN, NAIVE, PLATFORM, RAW, TUNED_RAW, VERSIONED
from benchmarks.figures import Figures

_ORDER = (TUNED_RAW, RAW, PLATFORM, JOIN, VERSIONED, NAIVE)
_WIDTH, _LABELS, _BARS = 880, 310, 390
_ROW, _BAR, _HEAD, _FOOT, _TITLE = 30, 18, 46, 90, 64
_STYLE = """
    text { font: 14px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-size: 18px; font-weight: 600 }
    .head { font-weight: 600 }
    .small { font-size: 12px; fill: #59636e }
    .wrong { fill: #b3261e }
    .page { fill: #ffffff; stroke: #d1d9e0 }
    .bar { fill: #8c959f }
    .ours { fill: #0969da }
    .cut { stroke: #ffffff; stroke-width: 3 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .small { fill: #9198a1 }
      .wrong { fill: #ff8b82 }
      .page { fill: #0d1117; stroke: #3d444d }
      .bar { fill: #6e7781 }
      .ours { fill: #4493f8 }
      .cut { stroke: #0d1117 }
    }"""


def draw(part: Figures) -> str:
    """Return the SVG of a drain as it is kept in the JSON file."""
    contenders = {n: part["figures"]["contenders"][n] for n in _ORDER if n in part["figures"]["contenders"]}
    panel = _HEAD + _ROW * len(contenders)
    height = _TITLE + 2 * panel + _FOOT
    events = contenders[PLATFORM]["events"]
    title = f"{events:,} change events drained from {part['figures']['broker']}"
    body = [
        f'<rect class="page" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="8"/>',
        _text(24, 36, title, "title"),
        _text(
            24,
            56,
            "Each order joined to the discount its patient had then, averaged by discount. "
            f"{part['figures']['bytes_per_event']} bytes per event.",
            "small",
        ),
        *_panel(_TITLE, "Events per second: more is better", contenders, "events_per_second", ",.0f"),
        *_panel(
            _TITLE + panel,
            "CPU seconds per million events: less is better",
            contenders,
            "cpu_seconds_per_million",
            ",.1f",
        ),
        *(_text(24, height - 64 + 17 * row, line, "small") for row, line in enumerate(_notes(part))),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}">\n  <title>{escape(title)}</title>\n  <style>{_STYLE}\n  </style>\n'
        + "".join(f"  {element}\n" for element in body)
        + "</svg>\n"
    )


def _panel(top: int, head: str, contenders: Figures, key: str, shown: str) -> Iterator[str]:
    yield _text(24, top + 34, head, "head")
    # The loop's CPU would leave the others no room: its bar is cut.
    longest = max(found[key] for name, found in contenders.items() if name != NAIVE)
    for row, (name, found) in enumerate(contenders.items()):
        y = top + _HEAD + row * _ROW
        value = found[key]
        length = min(value / longest, 1) * _BARS
        label = (
            name
            if found["events"] == contenders[PLATFORM]["events"]
            else f"{name} ({found['events']:,} events)"
        )
        yield _text(24, y + 14, label, "head" if name == PLATFORM else "")
        yield (
            f'<rect class="{"ours" if name == PLATFORM else "bar"}" x="{_LABELS}" y="{y}" '
            f'width="{max(length, 1):.1f}" height="{_BAR}" rx="2"/>'
        )
        if value > longest:
            x = _LABELS + _BARS - 24
            yield f'<path class="cut" d="M{x} {y + _BAR + 2} l8 -{_BAR + 4}"/>'
        yield _text(_LABELS + max(length, 1) + 8, y + 14, format(value, shown), "")
        if found["right"] is False:
            yield _text(_LABELS + length + 8 + 9 * len(format(value, shown)), y + 14, "wrong answer", "wrong")


def _notes(part: Figures) -> list[str]:
    repetitions = len(part["figures"]["contenders"][PLATFORM]["repetitions"])
    return [
        "Time: from a process's start to its exit; consume only: from asking for messages to the last.",
        f"Median of {repetitions}, taken {part['taken_at'][:10]}; the broker's CPU is not counted.",
        machine.hardware(part["machine"]),
        machine.versions(part["machine"]),
    ]


def _text(x: float, y: float, text: str, name: str) -> str:
    kind = f' class="{name}"' if name else ""
    return f'<text{kind} x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'
