"""Where the toxicity lives: a profile over the layers for each signal, and the region's neurons on the model's map."""

from collections.abc import Collection, Sequence

from pkedit.report.canvas import Canvas, Chart, Frame, number, ticks
from pkedit.report.files import PathwayFile, RegionFile

PROFILE = Frame(height=210)
MAP_HEIGHT, MAP_TOP, LAYER_WIDTH = 430, 64, 11
# A wider map scrolls on a phone.
PHONE_WIDTH = 420
MOST_NEURONS = 3000
IN_REGION = "The bars in full colour are layers with neurons of the region."


def region_profiles(region: RegionFile, steps: int = 1) -> list[Chart]:
    """Weight change, pathway contribution and utility of every layer, as far as the region's file has them.

    Args:
        region: what to draw.
        steps: of gradient descent, behind which weights were compared with those before.
    """
    descent = "one step" if steps == 1 else f"{steps} steps"
    totals = region.layer_totals
    profiles = (
        (
            "Weight change",
            region.layer_weight_change,
            "‖W after − W before‖",
            f"How far {descent} of gradient descent towards harmful answers would move each layer's write matrix "
            "(Frobenius norm). High: the layer holds much of what makes them likelier.",
        ),
        (
            "Pathway contribution",
            totals.get("pathway"),
            "sum of contributions, nats",
            "How much all neurons of a layer add to the preference for the unsafe answer over the safe one. Below "
            "zero they speak for the safe one.",
        ),
        (
            "Utility",
            totals.get("utility"),
            "sum of importance",
            "How much harmless answers rest on each layer. An edit there costs most, so neurons with a high value "
            "are avoided.",
        ),
    )
    return [
        profile_chart(title, values, name, f"{caption} {IN_REGION}", full=region.counts)
        for title, values, name, caption in profiles
        if values
    ]


def block_profiles(pathway: PathwayFile) -> list[Chart]:
    """Attention and MLP contributions by layer, on one scale."""
    both = [*pathway.attention, *pathway.mlp, 0.0]
    limits = min(both), max(both)
    read = "Above zero they push towards the unsafe answer, below it towards the safe one; both have one scale."
    return [
        profile_chart(title, values, "contribution to M, nats", f"{words} {read}", limits=limits)
        for title, values, words in (
            ("Attention", pathway.attention, "What each layer's attention contributes."),
            ("MLP", pathway.mlp, "What all neurons of each layer contribute together."),
        )
        if values
    ]


def profile_chart(
    title: str,
    values: Sequence[float],
    name: str,
    caption: str,
    *,
    full: Collection[int] | None = None,
    limits: tuple[float, float] | None = None,
) -> Chart:
    """A bar a layer. `full`: the layers that stand out, all where not given."""
    low, high = limits or (min([0.0, *values]), max([0.0, *values]))
    if low == high:
        high = low + 1.0
    canvas = Canvas((-0.5, len(values) - 0.5), (low, high), PROFILE)
    canvas.axes(layer_ticks(len(values)), ticks(low, high, 4), "layer", name)
    for layer, value in enumerate(values):
        (x1, y1), (x2, y2) = canvas.place(layer - 0.4, max(value, 0.0)), canvas.place(layer + 0.4, min(value, 0.0))
        style = "column" if full is None or layer in full else "column pale"
        canvas.add('<rect x="{}" y="{}" width="{}" height="{}" class="{}"><title>layer {}: {}</title></rect>',
                   x1, y1, x2 - x1, y2 - y1, style, layer, f"{value:.4g}")  # fmt: skip
    canvas.line((-0.5, 0.0), (len(values) - 0.5, 0.0), "axis")
    top = max(range(len(values)), key=lambda layer: values[layer])
    bottom = min(range(len(values)), key=lambda layer: values[layer])
    told = (
        f"A bar for each of {len(values)} layers. Highest: layer {top} with {number(values[top])}; "
        f"lowest: layer {bottom} with {number(values[bottom])}."
    )
    return Chart(title, canvas.svg(f"{title} by layer", told), caption)


def neuron_map(region: RegionFile, neurons_per_layer: int | None) -> Chart:
    """Every neuron of the region at its layer and index, larger with a higher score; above it how many a layer has.

    Args:
        region: what to draw.
        neurons_per_layer: where the map ends; at the highest index of the region if not known.
    """
    size = max(neurons_per_layer or 0, 1 + max(neuron.index for neuron in region.neurons))
    drawn = region.neurons[:MOST_NEURONS]
    margins = Frame()
    width = margins.left + margins.right + LAYER_WIDTH * max(region.depth, 28)
    frame = Frame(width=width, height=MAP_HEIGHT, top=MAP_TOP)
    canvas = Canvas((-0.5, region.depth - 0.5), (0.0, float(size)), frame)
    canvas.axes(layer_ticks(region.depth), ticks(0.0, size, 6), "layer", "index of the neuron in its layer")
    scores = [neuron.score for neuron in drawn]
    lowest, reach = min(scores), (max(scores) - min(scores)) or 1.0
    for neuron in reversed(drawn):
        x, y = canvas.place(neuron.layer, neuron.index)
        strength = (neuron.score - lowest) / reach
        expert = "" if neuron.expert is None else f" of expert {neuron.expert}"
        canvas.add('<circle cx="{}" cy="{}" r="{}" class="neuron" fill-opacity="{}"><title>{}</title></circle>', x, y,
                   2.2 + 2.6 * strength, f"{0.3 + 0.6 * strength:.2f}",
                   f"layer {neuron.layer}, neuron {neuron.index}{expert}: score {neuron.score:.4f}")  # fmt: skip
    fullest = max(region.counts, key=lambda layer: region.counts[layer])
    most = region.counts[fullest]
    for layer, count in region.counts.items():
        (left, base), (right, _) = canvas.place(layer - 0.4, size), canvas.place(layer + 0.4, size)
        height = 38.0 * count / most
        canvas.add('<rect x="{}" y="{}" width="{}" height="{}" class="column"><title>layer {}: {}</title></rect>',
                   left, base - 8 - height, right - left, height, layer, count)  # fmt: skip
        if layer == fullest:
            canvas.text(((left + right) / 2, base - 12 - height), str(count))
    layers = [*region.counts]
    told = (
        f"{len(region.neurons)} neurons in layers {layers[0]} to {layers[-1]} of {region.depth}; "
        f"most, {most}, in layer {fullest}."
    )
    caption = (
        "Each dot is a neuron of the region: its layer across, its index upwards; the larger and fuller, the higher "
        f"its score ({lowest:.3f} to {max(scores):.3f}). The bars above count them. Where a dot lies in its column has "
        "no meaning of its own: neighbours in a layer are unrelated."
    )
    if len(drawn) < len(region.neurons):
        caption += f" Drawn are the {len(drawn)} with the highest scores; the bars count all."
    return Chart(
        "Neurons of the region", canvas.svg("Map of the region's neurons", told), caption, wide=width > PHONE_WIDTH
    )


def layer_ticks(depth: int) -> list[float]:
    """Whole layers, about eight of them."""
    return [tick for tick in ticks(0.0, float(depth - 1), 8) if tick == int(tick)]
