# SPDX-License-Identifier: Apache-2.0
"""Draws cumulative distributions as SVG: a panel for each event, a line for each product, time on a logarithmic axis."""

import html
import math

from plot import COLORS, FONT, OTHER_COLOR, figure, line, text

WIDTH, LEFT, RIGHT, HEIGHT, TITLE, AXIS, GAP = 760, 60, 150, 180, 28, 34, 16
MORE_COLORS = {"haproxy": "#c4874a", "frr bfdd": "#8a5aa8"}
DASHES = ("", "6 3", "2 3")


def color(name):
    return next((c for known, c in {**COLORS, **MORE_COLORS}.items() if name.startswith(known)), OTHER_COLOR)


def panel(title, series, unit, top):
    """series: {name: values}; returns SVG elements of one panel."""
    positive = [v for values in series.values() for v in values if v > 0]
    low = 10 ** math.floor(math.log10(min(positive, default=0.1)))
    high = 10 ** math.ceil(math.log10(max(positive, default=1) * 1.001))
    bottom = top + TITLE + HEIGHT

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(max(value, low) / low) / math.log10(high / low)

    def y(share):
        return bottom - HEIGHT * share

    parts = [text(LEFT, top + 16, title, 14, weight="bold")]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts += [line(LEFT, y(share), WIDTH - RIGHT, y(share), "#ddd"),
                  text(LEFT - 6, y(share) + 4, f"{share:.0%}", 11, "end")]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        parts += [line(x(10 ** power), y(0), x(10 ** power), y(1), "#ddd"),
                  text(x(10 ** power), bottom + 16, f"{10 ** power:g}", 11, "middle")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 30, unit, 11, "middle"))
    used = {}
    for number, (name, values) in enumerate(series.items()):
        values = sorted(values)
        shade = color(name)
        dash = DASHES[used.get(shade, 0) % len(DASHES)]
        used[shade] = used.get(shade, 0) + 1
        points = [(x(values[0]), y(0))]
        for place, value in enumerate(values):
            points += [(x(value), points[-1][1]), (x(value), y((place + 1) / len(values)))]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        stroke = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{shade}" stroke-width="2"{stroke}/>')
        at = top + TITLE + 12 + 30 * number
        middle = values[len(values) // 2]
        parts += [f'<line x1="{WIDTH - RIGHT + 8}" y1="{at - 4}" x2="{WIDTH - RIGHT + 26}" y2="{at - 4}" stroke="{shade}" '
                  f'stroke-width="2"{stroke}/>',
                  text(WIDTH - RIGHT + 30, at, name, 11),
                  text(WIDTH - RIGHT + 30, at + 13, f"median {figure(middle)}", 10, color="#666")]
    return parts


def draw(title, panels, unit):
    """panels: {title: {name: values}}."""
    parts, top = [], 34
    for name, series in panels.items():
        parts += panel(name, series, unit, top)
        top += TITLE + HEIGHT + AXIS + GAP
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" {FONT}>'
            f"<title>{html.escape(title)}</title>" f'<rect width="100%" height="100%" fill="#fff"/>'
            + text(LEFT, 22, title, 15, weight="bold") + "".join(parts) + "</svg>\n")
