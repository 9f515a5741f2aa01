"""The activation pathway drawn: from the prompt at the top through the layers down to the unsafe words."""

import math
from collections.abc import Collection, Mapping, Sequence

from pkedit.report.canvas import Canvas, Chart, Frame
from pkedit.report.files import Edge, Node, PathwayFile
from pkedit.report.text import shortened

ROW, SLOT, BAR = 52.0, 64.0, 30.0
LEFT, RIGHT, ATTENTION = 64.0, 16.0, 110.0
# So far apart are two nodes of different layers across, so that the lines from and to the ends do not coincide.
APART = 9.0
FEWEST_SLOTS, MOST_EDGES = 5, 80
LETTER = 7.0
Place = tuple[float, float]


def drawn_edges(pathway: PathwayFile) -> list[Edge]:
    """The strongest edges between nodes that exist, strongest first."""
    known = {node.id for node in pathway.nodes}
    edges = [edge for edge in pathway.edges if edge.start in known and edge.end in known]
    return sorted(edges, key=lambda edge: -abs(edge.weight))[:MOST_EDGES]


def pathway_chart(pathway: PathwayFile) -> Chart | None:
    """The graph in layers, or nothing where there is no node between prompt and answer."""
    inner = [node for node in pathway.nodes if node.kind in ("attention", "neuron")]
    if not inner:
        return None
    edges = drawn_edges(pathway)
    layers = sorted({node.layer for node in inner})
    rows = {layer: [node for node in inner if node.layer == layer and node.kind == "neuron"] for layer in layers}
    slots = max(FEWEST_SLOTS, *(len(row) for row in rows.values()))
    attends = any(node.kind == "attention" for node in inner)
    start = LEFT + (ATTENTION if attends else 0.0)
    width = start + slots * SLOT + RIGHT
    word_lines = _lines([word for node in pathway.nodes for word in node.words], width - LEFT - RIGHT - 20)
    foot = BAR + 16.0 * len(word_lines)
    height = BAR + ROW * (len(layers) + 1) + foot + 10
    canvas = Canvas((0, 1), (0, 1), Frame(width=round(width), height=round(height)))
    places = _places(inner, rows, layers, edges, start, slots)
    ends = (6 + BAR, height - 4 - foot)
    for layer in layers:
        y = _height(layers, layer)
        canvas.add('<line x1="{}" y1="{}" x2="{}" y2="{}" class="grid"/>', LEFT - 8, y, width - RIGHT, y)
        canvas.text((LEFT - 14, y + 4), f"layer {layer}", anchor="end")
    strongest = max((abs(edge.weight) for edge in edges), default=0.0) or 1.0
    # The weak ones first, so that the strong ones lie on top.
    for edge in reversed(edges):
        _draw_edge(canvas, edge, places, ends, strongest, pathway.nodes)
    middle = (LEFT + width - RIGHT) / 2
    for top, tall, lines in ((6.0, BAR, ["prompt"]), (ends[1], foot, ["unsafe answer", *word_lines])):
        canvas.add('<rect x="{}" y="{}" width="{}" height="{}" rx="6" class="end"/>', LEFT, top,
                   width - LEFT - RIGHT, tall)  # fmt: skip
        for line, words in enumerate(lines):
            canvas.text((middle, top + 20 + 16 * line), words, style="label" if line == 0 else "name")
    largest = max(abs(node.contribution) for node in inner) or 1.0
    for node in inner:
        _draw_node(canvas, node, places[node.id], largest)
    return Chart(
        "From the prompt to the unsafe words",
        canvas.svg("Activation pathway graph", _told(inner, edges)),
        "Read from the top down. Circles are neurons with their index, squares the attention of a layer; the larger, "
        f"the more it contributes to M = log p(unsafe) − log p(safe), in nats, over {pathway.pairs} pairs. The thicker "
        f"a line, the more of M goes along it; the thickest carries {strongest:.3g} nats. Point at a node, or tap it, "
        "to see its own lines. Lines weaker than those drawn are left out, so a node may stand without any.",
        wide=True,
    )


def name_of(node: Node) -> str:
    """A node in words."""
    if node.kind == "attention":
        return f"attention, layer {node.layer}"
    if node.kind == "neuron":
        expert = "" if node.expert is None else f" of expert {node.expert}"
        return f"neuron {node.index}{expert}, layer {node.layer}"
    return "prompt" if node.kind == "prompt" else "unsafe answer"


def _height(layers: Sequence[int], layer: int) -> float:
    return 6 + BAR + ROW * (layers.index(layer) + 0.9)


def _places(
    inner: Sequence[Node],
    rows: Mapping[int, Sequence[Node]],
    layers: Sequence[int],
    edges: Sequence[Edge],
    start: float,
    slots: int,
) -> dict[str, Place]:
    """Where each node lies: attention in a lane of its own, neurons in the order of what they are joined with.

    Rows begin at different places, so that few lines pass behind a node that they do not touch.
    """
    attention = [node for node in inner if node.kind == "attention"]
    places = {
        node.id: (LEFT + 14 + 18 * (2 * at % 5), _height(layers, node.layer)) for at, node in enumerate(attention)
    }
    spread: dict[int, list[float]] = {}
    for at, (layer, row) in enumerate(rows.items()):
        room = slots * SLOT / max(len(row), 1)
        phase = 0.5 if len(row) == slots else (0.3, 0.7, 0.5)[at % 3]
        spread[layer] = [start + room * (place + phase) for place in range(len(row))]
        for node, x in zip(row, spread[layer], strict=True):
            places[node.id] = (x, _height(layers, layer))
    for _ in range(4):
        for layer, row in rows.items():
            ordered = sorted(row, key=lambda node: _pull(node, edges, places))
            for node, x in zip(ordered, spread[layer], strict=True):
                places[node.id] = (x, _height(layers, layer))
    return _apart(places, [node.id for row in rows.values() for node in row])


def _apart(places: Mapping[str, Place], moved: Collection[str]) -> dict[str, Place]:
    """The same places, those of `moved` shifted a little where another node has the same place across."""
    apart = {name: place for name, place in places.items() if name not in moved}
    for name in moved:
        x, y = places[name]
        shifts = (sign * step * 3.0 for step in range(10) for sign in (1, -1))
        free = (shift for shift in shifts if all(abs(x + shift - taken) >= APART for taken, _ in apart.values()))
        apart[name] = (x + next(free, 0.0), y)
    return apart


def _pull(node: Node, edges: Sequence[Edge], places: Mapping[str, Place]) -> float:
    """The mean place across of the nodes that this one is joined with, by strength; its own where there is none."""
    joined = [
        (abs(edge.weight), places[other][0])
        for edge in edges
        for own, other in ((edge.start, edge.end), (edge.end, edge.start))
        if own == node.id and other in places
    ]
    whole = sum(weight for weight, _ in joined)
    return sum(weight * x for weight, x in joined) / whole if whole else places[node.id][0]


def _draw_edge(
    canvas: Canvas,
    edge: Edge,
    places: Mapping[str, Place],
    ends: tuple[float, float],
    strongest: float,
    nodes: Sequence[Node],
) -> None:
    kinds = {node.id: node for node in nodes}
    # What goes from the prompt to the answer by no node at all runs along the right.
    side = canvas.frame.width - RIGHT - 8
    x1, y1 = places.get(edge.start, (places[edge.end][0] if edge.end in places else side, ends[0]))
    x2, y2 = places.get(edge.end, (x1, ends[1]))
    share = abs(edge.weight) / strongest
    # Within a layer, from attention to a neuron, the line passes above the neurons between the two.
    bend = (y2 - y1) * 0.45 if y1 != y2 else 0.0
    rise = 0.0 if y1 != y2 else ROW * 0.5
    canvas.add(
        '<path d="{}" class="edge {}" stroke-width="{}" opacity="{}" data-from="{}" data-to="{}">'
        "<title>{}</title></path>",
        f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend - rise:.1f} {x2:.1f} {y2 - bend - rise:.1f} {x2:.1f} {y2:.1f}",
        "towards" if edge.weight >= 0 else "against",
        0.8 + 4.2 * math.sqrt(share),
        f"{0.22 + 0.6 * share:.2f}",
        edge.start,
        edge.end,
        f"{name_of(kinds[edge.start])} → {name_of(kinds[edge.end])}: {edge.weight:+.4g} nats",
    )


def _draw_node(canvas: Canvas, node: Node, place: Place, largest: float) -> None:
    x, y = place
    size = 4.5 + 7.5 * math.sqrt(abs(node.contribution) / largest)
    style = f"{'towards' if node.contribution >= 0 else 'against'}{' edited' if node.edited else ''}"
    told = f"{name_of(node)}: contributes {node.contribution:+.4g} nats{', edited' if node.edited else ''}"
    canvas.add('<g class="node" tabindex="0" data-id="{}"><title>{}</title>', node.id, told)
    if node.kind == "attention":
        canvas.add('<rect x="{}" y="{}" width="{}" height="{}" class="{}"/>', x - size, y - size, 2 * size, 2 * size,
                   style)  # fmt: skip
        canvas.text((x, y + size + 12), "attn", style="halo")
    else:
        expert = "" if node.expert is None else f"{node.expert}·"
        canvas.add('<circle cx="{}" cy="{}" r="{}" class="{}"/>', x, y, size, style)
        canvas.text((x, y + size + 12), f"{expert}{node.index}", style="halo")
    canvas.add("</g>")


def _lines(words: Sequence[str], width: float) -> list[str]:
    """The words in quotation marks, on as many lines as they need."""
    lines: list[str] = []
    for word in words:
        quoted = f"“{shortened(word, 18)}”"
        if lines and LETTER * (len(lines[-1]) + 2 + len(quoted)) <= width:
            lines[-1] += f"  {quoted}"
        else:
            lines.append(quoted)
    return lines


def _told(inner: Sequence[Node], edges: Sequence[Edge]) -> str:
    edited = sum(node.edited for node in inner)
    ordered = sorted(inner, key=lambda node: -abs(node.contribution))[:3]
    strongest = "; ".join(f"{name_of(node)} with {node.contribution:+.3g} nats" for node in ordered)
    return (
        f"{sum(node.kind == 'neuron' for node in inner)} neurons, {edited} of them edited, and "
        f"{sum(node.kind == 'attention' for node in inner)} attention blocks joined by {len(edges)} lines. "
        f"Strongest: {strongest}. The table below has the lines."
    )
