"""The parts of the web page that pkedit draws itself: the two panes and the bar list, as HTML.

All text of users and models goes through `_text`, so that it is read and never run.
"""

from collections.abc import Sequence
from math import ceil

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from pkedit.talk.conversation import Conversation, Side
from pkedit.talk.firing import Fired, Usual
from pkedit.visible import visible

# The bars of every prompt reach this far at least, in standard deviations, so that two prompts can be compared.
REACH = 8.0
BARS = 10


def _text(text: str) -> Markup:
    """Escaped, also for the page's own templates, which would read `{{…}}` and `${…}`."""
    escaped = str(escape(visible(text)))
    for character in "{$`":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return Markup(escaped)


_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["text"] = _text
_ENVIRONMENT.filters["signed"] = lambda value: f"{value:+.1f}".replace("-", "−")

_HEAD = _ENVIRONMENT.from_string("""\
<h1>Base and edited, side by side</h1>
<p>{{ title | text }}</p>""")

_PANE = _ENVIRONMENT.from_string("""\
<section class="pk-pane pk-{{ side }}" aria-label="{{ name }}">
<h2>{{ name }} <small>{{ note }}</small></h2>
<div class="pk-talk"><div>
{% if left_out %}
<p class="pk-note">The model cannot read so much: it no longer sees the first {{ left_out }} questions.</p>
{% endif %}
{% for exchange in exchanges %}
<p class="pk-question" dir="auto">{{ exchange.question | text }}</p>
<p class="pk-answer{{ ' pk-writing' if writing and loop.last }}" dir="auto">{{ exchange.answer | text }}
{%- if not exchange.answer and not (writing and loop.last) %}<i>no answer</i>{% endif %}</p>
{% else %}
<p class="pk-note">Ask something, or choose an example.</p>
{% endfor %}
</div></div>
</section>""")

_BARS = _ENVIRONMENT.from_string("""\
<figure class="pk-fired">
<h2>Neurons that fired <small>{{ heading }}</small></h2>
<div>
{% if bars %}
<ol>
{% for bar in bars %}
<li aria-label="{{ bar.label }}: {{ bar.edited | signed }} edited, {{ bar.base | signed }} base">
<span>{{ bar.label }}</span>
<span class="pk-track">
<i class="pk-usual" style="left:{{ bar.usual[0] }}%;width:{{ bar.usual[1] }}%"></i>
<i class="pk-zero"></i>
<i class="pk-bar" style="left:{{ bar.span[0] }}%;width:{{ bar.span[1] }}%"></i>
<i class="pk-dot" style="left:{{ bar.dot }}%"></i>
</span>
<b>{{ bar.edited | signed }}</b>
</li>
{% endfor %}
<li class="pk-axis" aria-hidden="true"><span></span>
<span class="pk-track"><span>−{{ reach }}</span><span>0</span><span>+{{ reach }}</span></span></li>
</ol>
{% else %}
<p class="pk-note">They show here once a question was asked.</p>
{% endif %}
</div>
<figcaption>
{% if bars %}
<p class="pk-keys"><span><i class="pk-bar"></i>edited</span><span><i class="pk-dot"></i>base</span>
<span><i class="pk-usual"></i>usual on harmless prompts (95 % of base)</span></p>
{% endif %}
<p>How to read it: of the {{ neurons }} neurons that the edit changed, the {{ count }} that fire most unusually where
the answer to the last question begins. A bar says how far the activation lies from the neuron's mean on {{ prompts }}
harmless prompts, in their standard deviations: left is below, right above.</p>
<p>The more bars leave the usual band, and the farther, the more the edit has found to refuse.</p>
</figcaption>
</figure>""")


def head(title: str) -> str:
    """The heading: `title` says which model and which edit."""
    return _HEAD.render(title=title)


def pane(conversation: Conversation, side: Side, *, writing: bool) -> str:
    """One side's conversation; `writing`: its last answer still grows, unless it is finished."""
    edited = side is Side.EDITED
    exchanges = conversation.exchanges(side)
    return _PANE.render(
        side=side.value,
        name="Edited" if edited else "Base",
        note=f"strength {conversation.strength:g}" if edited else "as it is",
        exchanges=exchanges,
        left_out=conversation.left_out(side),
        writing=writing and bool(exchanges) and not exchanges[-1].finished,
    )


def bars(conversation: Conversation, usual: Usual, *, count: int = BARS) -> str:
    """The neurons that fired on the last question; the caption alone before there is one."""
    base, edited = conversation.fired(Side.BASE), conversation.fired(Side.EDITED)
    rows: Sequence[Fired] = ()
    heading = ""
    if base is not None and edited is not None:
        rows = usual.farthest(base, edited, count=count)
        heading = (
            f"all {len(usual.ids)} together: {usual.spread(edited):.1f} standard deviations from harmless "
            f"(base {usual.spread(base):.1f})"
        )
    reach = ceil(max([REACH, *(abs(value) for row in rows for value in (row.base, row.edited))]))
    return _BARS.render(
        heading=heading,
        reach=reach,
        bars=[_bar(row, usual.band, reach) for row in rows],
        neurons=len(usual.ids),
        count=min(count, len(usual.ids)),
        prompts=usual.prompts,
    )


def _bar(row: Fired, band: float, reach: float) -> dict[str, object]:
    """Places in percent of the track's width, whose middle is the mean."""

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    neuron = row.neuron
    expert = "" if neuron.expert is None else f" · expert {neuron.expert}"
    start, end = sorted((50.0, place(row.edited)))
    return {
        "label": f"layer {neuron.layer}{expert} · {neuron.index}",
        "base": row.base,
        "edited": row.edited,
        "usual": (place(-band), round(place(band) - place(-band), 2)),
        "span": (start, round(end - start, 2)),
        "dot": place(row.base),
    }
