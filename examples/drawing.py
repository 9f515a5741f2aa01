"""What the notebooks show their figures with: tables, bars and dots as HTML and SVG, without a plotting library."""

from collections.abc import Mapping, Sequence
from html import escape

from IPython.display import HTML

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 60, 34
INK, BLUE, ORANGE = "currentColor", "#0072b2", "#d55e00"  # blue and orange are told apart without red and green


def table(rows: Sequence[Mapping[str, object]]) -> HTML:
    """One row each, with the names of the first one above; numbers with three digits."""
    names = [*rows[0]]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{_text(row[name])}</td>' for name in names)}</tr>" for row in rows)
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def bars(values: Sequence[float], *, title: str, across: str, marked: Sequence[int] = ()) -> HTML:
    """A bar for each value; those at the places in `marked` stand out."""
    low, high = min(0.0, *values), max(0.0, *values)
    step = (WIDTH - LEFT) / len(values)
    parts = []
    for place, value in enumerate(values):
        top, base = _up(max(value, 0.0), low, high), _up(min(value, 0.0), low, high)
        shape = (
            f'<rect x="{LEFT + step * (place + 0.1):.1f}" y="{top:.1f}" width="{0.8 * step:.1f}" '
            f'height="{max(base - top, 0.5):.1f}" fill="{ORANGE if place in marked else BLUE}">'
        )
        parts.append(f"{shape}<title>{place}: {value:.4g}</title></rect>")
        if place % max(1, len(values) // 10) == 0:
            parts.append(_label(LEFT + step * (place + 0.5), HEIGHT - BOTTOM + 14, str(place)))
    return _sheet(parts, title, across, low, high)


def dots(groups: Mapping[str, Sequence[float]], *, title: str, across: str) -> HTML:
    """A row of dots for each group, on one scale; the last group stands out."""
    values = [value for group in groups.values() for value in group]
    low, high = min(values), max(values)
    left, row = 170, 34
    parts = []
    for number, (name, group) in enumerate(groups.items()):
        y = 30 + row * number
        parts.append(_label(left - 12, y + 4, name, anchor="end"))
        colour = ORANGE if number == len(groups) - 1 else BLUE
        for value in group:
            x = left + (WIDTH - left - 20) * (value - low) / ((high - low) or 1)
            shape = f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{colour}" fill-opacity=".6">'
            parts.append(f"{shape}<title>{value:.3g}</title></circle>")
    height = 30 + row * len(groups) + 30
    parts += [_label(left, height - 24, f"{low:.2g}"), _label(WIDTH - 20, height - 24, f"{high:.2g}")]
    parts.append(_label((left + WIDTH) / 2, height - 6, across))
    return _figure(parts, title, height)


def _up(value: float, low: float, high: float) -> float:
    return 10 + (HEIGHT - BOTTOM - 10) * (1 - (value - low) / ((high - low) or 1))


def _sheet(parts: list[str], title: str, across: str, low: float, high: float) -> HTML:
    for value in {low, high, 0.0}:
        parts.append(_label(LEFT - 6, _up(value, low, high) + 4, f"{value:.2g}", anchor="end"))
    parts.append(_label((LEFT + WIDTH) / 2, HEIGHT - 4, across))
    return _figure(parts, title, HEIGHT)


def _figure(parts: Sequence[str], title: str, height: int) -> HTML:
    return HTML(
        f'<figure style="margin:0"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _label(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" font-family="sans-serif" fill="{INK}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))
