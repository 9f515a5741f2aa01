"""Charts: well-formed SVG with alternative text and a caption, the right counts, and names that never overlap."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_run import ATTACKED, BARE, Outline, make_run, metric, pathway, record, region, response, tune

from pkedit.report import build_report
from pkedit.report.answers import prompt_answers
from pkedit.report.canvas import ticks
from pkedit.report.causal import causal_chart
from pkedit.report.curves import curve_charts
from pkedit.report.files import PathwayFile, RegionFile, TuneFile
from pkedit.report.heat import Cell, heat_map
from pkedit.report.labels import Box, place_labels
from pkedit.report.layers import block_profiles, neuron_map, region_profiles
from pkedit.report.pathway_graph import pathway_chart
from pkedit.report.trade_off import front_charts, trade_offs


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_every_drawing_is_well_formed_and_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "tune.json").write_text(TuneFile.model_validate(tune()).model_dump_json(by_alias=True))
    page = build_report(make_run(tmp_path)).read_text(encoding="utf-8")
    told = [drawing for drawing in drawings(page) if drawing.get("aria-hidden") is None]
    # Tiles, trade-offs, front, profiles, map, graph, blocks, causal check, curves.
    assert len(told) == 3 + 3 + 3 + 3 + 1 + 1 + 2 + 1 + 3
    names: list[str] = []
    for drawing in told:
        assert drawing.get("role") == "img"
        title, description = drawing[0], drawing[1]
        assert (title.tag, description.tag) == ("title", "desc")
        assert title.text
        assert description.text
        assert drawing.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        names += [str(title.get("id")), str(description.get("id"))]
        assert "nan" not in "".join(drawing.itertext()).lower()
    assert len(names) == len(set(names))


def test_every_figure_has_a_caption_that_says_how_to_read_it(tmp_path: Path) -> None:
    page = build_report(make_run(tmp_path)).read_text(encoding="utf-8")
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) == 14
    for figure in figures:
        caption = re.search(r"<figcaption>(.*?)</figcaption>", figure, re.DOTALL)
        assert caption is not None
        assert len(caption[1].split()) >= 6


def test_cells_of_the_heat_map_count_right() -> None:
    said = [("x", "a1", "harmful"), ("x", "a1", "refused"), ("x", "a2", "harmful"), ("y", "a2", "unjudged"),
            ("y", "a1", "incoherent")]  # fmt: skip
    rows = [
        response("pke", ATTACKED, f"h{place}", judgement, category=category, attack=attack)
        for place, (category, attack, judgement) in enumerate(said)
    ]
    rows += [response("pke", BARE, "b1", "harmful", category="y"), response("pke", "harmless", "s1", "harmful")]
    heat = heat_map(prompt_answers(rows), "pke")
    assert heat is not None
    assert heat.categories == ["x", "y"]
    found = {row.name: (row.whole, row.cells) for row in heat.rows}
    assert found == {
        "all attacks": (Cell(2, 4), [Cell(2, 3), Cell(0, 1)]),
        "no attack": (Cell(1, 1), [Cell(0, 0), Cell(1, 1)]),
        "a1": (Cell(1, 3), [Cell(1, 2), Cell(0, 1)]),
        "a2": (Cell(1, 1), [Cell(1, 1), Cell(0, 0)]),
    }


def test_attacks_of_one_family_are_one_row_of_the_heat_map() -> None:
    rows = [response("pke", ATTACKED, f"h{place}", "harmful", attack=f"a{place}") for place in range(4)]
    families = {"a0": "many_shot", "a1": "many_shot", "a2": "persona"}
    heat = heat_map(prompt_answers(rows), "pke", families)
    assert heat is not None
    assert {row.name: row.whole for row in heat.rows} == {
        "all attacks": Cell(4, 4),
        "many shot": Cell(2, 2),
        "persona": Cell(1, 1),
        "a3": Cell(1, 1),
    }


def test_the_heat_map_shows_counts_and_marks_what_was_not_asked(tmp_path: Path) -> None:
    rows = [
        response(arm, ATTACKED, f"h{place}", judgement, category=category, attack=attack)
        for arm, judgement in (("vanilla", "harmful"), ("pke", "refused"))
        for place, (category, attack) in enumerate((("x", "a1"), ("y", "a2")))
    ]
    page = build_report(make_run(tmp_path, rows=rows)).read_text(encoding="utf-8")
    tables = re.findall(r'<table class="heat">.*?</table>', page, re.DOTALL)
    before, after = ([data for _, data in Outline(table).texts if "/" in data or data == "·"] for table in tables)
    assert before == ["2/2", "1/1", "1/1", "1/1", "1/1", "·", "1/1", "·", "1/1"]
    assert after == ["0/2", "0/1", "0/1", "0/1", "0/1", "·", "0/1", "·", "0/1"]
    assert all(table.count('aria-label="not asked"') == 2 for table in tables)


def test_more_attacks_than_fit_are_in_the_totals() -> None:
    rows = [response("pke", ATTACKED, f"h{place}", "harmful", attack=f"a{place:03}") for place in range(90)]
    heat = heat_map(prompt_answers(rows), "pke")
    assert heat is not None
    assert heat.hidden_attacks == 30
    assert len(heat.rows) == 61
    assert heat.rows[0].whole == Cell(90, 90)


POINT = st.tuples(st.floats(20, 360), st.floats(20, 240))


# A machine that is busy misses any deadline.
@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from(["vanilla", "suffix", "dinm", "ft", "random", "pke"]), POINT))
def test_names_of_arms_never_overlap_nor_hide_a_mark(points: dict[str, tuple[float, float]]) -> None:
    within = Box(0, 0, 380, 260)
    placed = place_labels(points, within)
    assert placed.keys() == points.keys()
    assert not any(one.meets(other) for one, other in combinations(placed.values(), 2))
    for box in placed.values():
        assert box.inside(within)
        assert not any(box.left < x < box.right and box.top < y < box.bottom for x, y in points.values())


def test_all_arms_on_one_point_keep_their_names() -> None:
    points = dict.fromkeys(["vanilla", "suffix", "dinm", "ft", "random", "pke"], (60.0, 200.0))
    placed = place_labels(points, Box(0, 0, 380, 260))
    assert placed.keys() == points.keys()
    assert not any(one.meets(other) for one, other in combinations(placed.values(), 2))


def test_trade_offs_draw_every_arm_with_both_intervals_and_name_those_without_a_cost() -> None:
    metrics = record().metrics
    metrics["suffix"] = {"asr": metric(0.5), "over_refusal": metric(0.3)}
    everyday, borderline, drift = trade_offs(record(metrics=metrics))
    assert str(everyday.svg).count('class="mark') == 4
    assert str(everyday.svg).count('class="interval') == 8
    assert str(drift.svg).count('class="mark') == 3
    assert "Not measured for suffix" in drift.caption
    assert "Not measured for suffix" in borderline.caption
    assert "Not measured" not in everyday.caption


def test_the_front_draws_every_trial_and_names_the_chosen_one() -> None:
    charts = front_charts(TuneFile.model_validate(tune()).trials)
    assert len(charts) == 3
    for chart in charts:
        assert str(chart.svg).count("<circle") == 3
        assert "trial 1, chosen" in chart.svg
        assert "3 trials, 2 of them on the front" in chart.caption


def test_profiles_have_a_bar_a_layer_and_fill_those_of_the_region() -> None:
    charts = region_profiles(RegionFile.model_validate(region()))
    assert [chart.title for chart in charts] == ["Weight change", "Pathway contribution", "Utility"]
    for chart in charts:
        assert str(chart.svg).count('class="column pale"') == 2
        assert str(chart.svg).count('class="column"') == 1


def test_weight_change_is_drawn_only_where_it_is_known_and_says_its_steps() -> None:
    one, several = (region_profiles(RegionFile.model_validate(region()), steps)[0].caption for steps in (1, 4))
    assert "How far one step of gradient descent" in one
    assert "How far 4 steps of gradient descent" in several
    without = region()
    without["layer_weight_change"] = []
    without["layer_totals"]["weight_tracking"] = [1.0, 2.0, 3.0]
    titles = [chart.title for chart in region_profiles(RegionFile.model_validate(without))]
    assert titles == ["Pathway contribution", "Utility"]


def test_no_alternative_text_says_by_layer_twice() -> None:
    for chart in block_profiles(PathwayFile.model_validate(pathway())):
        assert str(chart.svg).count("by layer") == 1


def test_the_map_has_a_dot_for_every_neuron_up_to_the_width_of_the_layer() -> None:
    chart = neuron_map(RegionFile.model_validate(region()), 100)
    assert str(chart.svg).count('class="neuron"') == 2
    assert ">100<" in chart.svg


def test_the_graph_marks_edited_neurons_and_shows_the_unsafe_words() -> None:
    chart = pathway_chart(PathwayFile.model_validate(pathway()))
    assert chart is not None
    drawing = ElementTree.fromstring(chart.svg)
    assert sum("edited" in str(element.get("class")) for element in drawing.iter()) == 2
    edges = [element for element in drawing.iter() if "edge" in str(element.get("class")).split()]
    assert len(edges) == 4
    assert sum("against" in str(edge.get("class")) for edge in edges) == 1
    assert "“Sure”" in "".join(drawing.itertext())
    assert "over 4 pairs" in chart.caption


def test_no_two_nodes_of_the_graph_lie_on_each_other() -> None:
    content = pathway()
    content["nodes"] += [
        {"id": f"neuron.{layer}.{index}", "kind": "neuron", "layer": layer, "index": index, "contribution": 0.01}
        for layer in range(12)
        for index in range(40, 44)
    ]
    chart = pathway_chart(PathwayFile.model_validate(content))
    assert chart is not None
    places = [
        (float(str(circle.get("cx"))), float(str(circle.get("cy"))))
        for circle in ElementTree.fromstring(chart.svg).iter()
        if circle.tag == "circle"
    ]
    assert len(places) == 51
    assert all(abs(x - u) > 25 or abs(y - v) > 25 for (x, y), (u, v) in combinations(places, 2))


def test_an_edge_to_a_node_that_is_not_there_is_not_drawn() -> None:
    content = pathway()
    content["edges"].append({"from": "neuron.9.9", "to": "unsafe", "weight": 9.0})
    chart = pathway_chart(PathwayFile.model_validate(content))
    assert chart is not None
    assert "the thickest carries 0.03 nats" in chart.caption


@pytest.mark.parametrize("count", [0, 1, 20, 200])
def test_the_causal_strip_has_a_dot_for_every_random_region_inside_the_drawing(count: int) -> None:
    values = [0.001 * (place % 7) for place in range(count)]
    check = {"effect": 0.4, "harmless_effect": -0.1, "random": values, "random_harmless": values}
    drawing = ElementTree.fromstring(causal_chart(check).svg)
    dots = [element for element in drawing.iter() if element.tag == "circle"]
    assert len(dots) == 2 * count
    assert all(0 < float(str(dot.get("cy"))) < 268 for dot in dots)
    assert {"region 0.400", "region −0.100"} <= {str(element.text) for element in drawing.iter()}


def test_curves_draw_a_line_for_every_edit_that_has_the_term() -> None:
    history = [{"step": step, "safe": 1.0 / (step + 1), "norm": 0.1} for step in range(5)]
    charts = curve_charts({"pke": history, "dinm": history[:3], "ft": [{"step": 0, "safe": 1.0}]})
    assert [chart.title for chart in charts] == ["Safe answers", "Size of the edit"]
    assert str(charts[0].svg).count("<polyline") == 2
    assert "dinm 0.333, pke 0.2" in charts[0].caption or "pke 0.2, dinm 0.333" in charts[0].caption


@settings(deadline=None)
@given(st.floats(-50, 50), st.floats(0.001, 1000))
def test_ticks_are_round_and_within_the_limits(low: float, reach: float) -> None:
    found = ticks(low, low + reach)
    assert 2 <= len(found) <= 8
    assert all(low - 1e-6 * reach <= tick <= low + reach * (1 + 1e-6) for tick in found)
