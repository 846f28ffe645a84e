# SPDX-License-Identifier: Apache-2.0
"""Draws a result as SVG: a panel for each figure, a bar for each product, from the smallest to the largest run a whisker."""

import html
import math

WIDTH, LEFT, RIGHT = 760, 190, 110
BAR, GAP, TITLE, AXIS, PANEL_GAP = 20, 8, 26, 34, 18
COLORS = {"fairlead": "#1b6e8f", "nginx": "#7d8a91", "docker-registry": "#c4874a"}
OTHER_COLOR = "#4d4d4d"
FONT = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif"'


def text(x, y, content, size=12, anchor="start", weight="normal", color="#222"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="{color}">{html.escape(content)}</text>')


def line(x1, y1, x2, y2, color="#222", width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"/>'


def figure(value):
    """Three significant digits."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ticks(largest):
    """Round steps from 0 to at least the largest value."""
    rough = largest / 5 or 1
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(largest / step) + 1)]


def panels(rows):
    """Rows of the same name are one panel: {(name, unit): [(product, value, min, max)]}, the subject first."""
    found = {}
    for r in rows:
        bars = found.setdefault((r["name"], r["unit"]), [])
        if not bars:
            bars.append((r["subject"], r["value"], r["min"], r["max"]))
        bars.append((r["peer"], r["peer_value"], r["peer_min"], r["peer_max"]))
    return found


def panel(top, name, unit, bars):
    """Returns the drawing and the height."""
    marks = ticks(max(high for _, _, _, high in bars))
    scale = (WIDTH - LEFT - RIGHT) / marks[-1]
    bottom = top + TITLE + len(bars) * (BAR + GAP)
    out = [text(12, top + 15, name, 13, weight="bold")]
    for mark in marks:
        x = LEFT + mark * scale
        out += [line(x, top + TITLE, x, bottom, "#ddd"), text(x, bottom + 14, figure(mark), 10, "middle", color="#555")]
    for number, (product, value, low, high) in enumerate(bars):
        y = top + TITLE + number * (BAR + GAP)
        middle = y + BAR / 2
        out.append(text(LEFT - 8, middle + 4, product, 12, "end"))
        out.append(f'<rect x="{LEFT}" y="{y}" width="{value * scale:.1f}" height="{BAR}" '
                   f'fill="{COLORS.get(product, OTHER_COLOR)}"/>')
        out += [line(LEFT + low * scale, middle, LEFT + high * scale, middle, "#111", 1.5)]
        out += [line(LEFT + end * scale, middle - 4, LEFT + end * scale, middle + 4, "#111", 1.5) for end in (low, high)]
        out.append(text(LEFT + high * scale + 8, middle + 4, figure(value), 12))
    out += [line(LEFT, top + TITLE, LEFT, bottom), line(LEFT, bottom, WIDTH - RIGHT, bottom)]
    out.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 28, unit, 11, "middle", color="#333"))
    return "\n".join(out), TITLE + len(bars) * (BAR + GAP) + AXIS + PANEL_GAP


def draw(result):
    """The whole picture as text."""
    top, parts = 62, []
    for (name, unit), bars in panels(result["rows"]).items():
        drawing, height = panel(top, name, unit, bars)
        parts.append(drawing)
        top += height
    about = f"{result['machine']}. Medians of {result['rows'][0]['runs']} runs, whiskers to the smallest and the largest."
    head = [text(12, 24, result["title"], 15, weight="bold"), text(12, 44, about, 11, color="#555")]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" {FONT}>\n'
            f'<rect width="{WIDTH}" height="{top}" fill="white"/>\n' + "\n".join(head + parts) + "\n</svg>\n")


CURVE_COLORS = ("#1b6e8f", "#c4874a", "#4d4d4d", "#7a9e3a")
CURVE_HEIGHT = 260


def with_curves(picture, title, unit, curves, scale=1):
    """A picture with a further panel below: {name: [(x, y)]} on logarithmic axes."""
    head, _, rest = picture.partition("\n")
    height = int(head.split('height="')[1].split('"')[0])
    points = [point for curve in curves.values() for point in curve if point[1] > 0]
    left, right, top = 70, WIDTH - RIGHT, height + TITLE
    bottom = top + CURVE_HEIGHT
    x_low, x_high = (math.log(f(x for x, _ in points)) for f in (min, max))
    y_low, y_high = (math.floor(math.log10(min(y for _, y in points))), math.ceil(math.log10(max(y for _, y in points))))
    at_x = lambda x: left + (math.log(x) - x_low) / ((x_high - x_low) or 1) * (right - left)
    at_y = lambda y: bottom - (math.log10(y) - y_low) / ((y_high - y_low) or 1) * CURVE_HEIGHT
    out = [text(12, height + 12, title, 13, weight="bold")]
    for x in sorted({x for x, _ in points}):
        out += [line(at_x(x), top, at_x(x), bottom, "#ddd"), text(at_x(x), bottom + 14, figure(x / scale), 10, "middle", color="#555")]
    for power in range(y_low, y_high + 1):
        out += [line(left, at_y(10 ** power), right, at_y(10 ** power), "#ddd"),
                text(left - 6, at_y(10 ** power) + 4, figure(10 ** power), 10, "end", color="#555")]
    for (name, curve), color in zip(curves.items(), CURVE_COLORS):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in curve if y > 0)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        if curve:
            out.append(text(right + 8, at_y(max(curve[-1][1], 1e-9)) + 4, name, 12, color=color))
    out.append(text((left + right) / 2, bottom + 30, unit, 11, "middle", color="#333"))
    total = bottom + AXIS + PANEL_GAP
    head = head.replace(f'height="{height}"', f'height="{total}"').replace(f"{WIDTH} {height}", f"{WIDTH} {total}")
    rest = rest.replace(f'<rect width="{WIDTH}" height="{height}"', f'<rect width="{WIDTH}" height="{total}"', 1)
    return head + "\n" + rest.replace("</svg>", "\n".join(out) + "\n</svg>")
