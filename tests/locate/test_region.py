"""A region holds the best neurons by weighted ranks within its limits, and comes back from a file as it was."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pkedit.errors import RegionError
from pkedit.locate.region import NeuronId, Region, RegionNeuron, choose_region, percentile_ranks, random_region
from tiny import make_region

# Three layers of four neurons. By "a" the order is (2,3), (2,2), …, (0,0); by "b" it is the reverse.
RISING = [torch.arange(4.0) + 4 * layer for layer in range(3)]
SIGNALS = {"a": RISING, "b": [-layer for layer in RISING]}


def choose(
    weights: dict[str, float] | None = None,
    *,
    count: int = 3,
    layers: tuple[int, int] = (0, 2),
    per_layer: int | None = None,
) -> list[tuple[int, int]]:
    region = choose_region(SIGNALS, weights or {"a": 1.0}, count=count, layers=layers, per_layer=per_layer)
    return [(neuron.layer, neuron.index) for neuron in region.neurons]


def test_percentile_ranks_go_from_zero_to_one_and_ties_share_theirs() -> None:
    assert percentile_ranks(torch.tensor([30.0, 10.0, 20.0])).tolist() == [1.0, 0.0, 0.5]
    assert percentile_ranks(torch.tensor([1.0, 2.0, 2.0, 2.0, 9.0])).tolist() == [0.0, 0.5, 0.5, 0.5, 1.0]
    assert percentile_ranks(torch.tensor([5.0, 5.0])).tolist() == [0.5, 0.5]
    square = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    torch.testing.assert_close(percentile_ranks(square), torch.tensor([[0.0, 3.0], [2.0, 1.0]]) / 3)


@given(values=st.lists(st.integers(-5, 5), min_size=2, max_size=30))
def test_percentile_ranks_equal_the_mean_rank_counted_by_hand(values: list[int]) -> None:
    ranks = percentile_ranks(torch.tensor(values, dtype=torch.float32))
    for value, rank in zip(values, ranks.tolist(), strict=True):
        below, equal = sum(other < value for other in values), sum(other == value for other in values)
        assert rank == pytest.approx((below + (equal - 1) / 2) / (len(values) - 1), abs=1e-6)


def test_the_best_neurons_come_first() -> None:
    assert choose(count=5) == [(2, 3), (2, 2), (2, 1), (2, 0), (1, 3)]


def test_a_negative_weight_ranks_low_values_first() -> None:
    assert choose({"a": -1.0}) == [(0, 0), (0, 1), (0, 2)]
    assert choose({"b": -1.0}) == choose({"a": 1.0})


def test_a_weight_of_zero_leaves_the_signal_out() -> None:
    assert choose({"a": 1.0, "b": 0.0}) == choose({"a": 1.0})
    region = choose_region(SIGNALS, {"a": 1.0, "b": 0.0}, count=2, layers=(0, 2))
    assert set(region.signals) == set(region.neurons[0].ranks) == {"a"}


def test_weights_decide_between_signals_that_disagree() -> None:
    assert choose({"a": 2.0, "b": 1.0}) == choose({"a": 1.0})
    assert choose({"a": 1.0, "b": 2.0}) == choose({"b": 1.0})


def test_scores_lie_between_zero_and_one_and_fall() -> None:
    region = choose_region(SIGNALS, {"a": 3.0, "b": -0.5}, count=12, layers=(0, 2))
    scores = [neuron.score for neuron in region.neurons]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1.0)
    assert scores[-1] == pytest.approx(0.0)


def test_every_neuron_keeps_its_ranks_and_values() -> None:
    best = choose_region(SIGNALS, {"a": 1.0, "b": -1.0}, count=1, layers=(0, 2)).neurons[0]
    assert best.values == {"a": 11.0, "b": -11.0}
    assert best.ranks == {"a": 1.0, "b": 1.0}


def test_totals_describe_every_layer_and_every_signal() -> None:
    region = choose_region(SIGNALS, {"a": 1.0}, count=1, layers=(1, 1))
    assert region.layer_totals == {"a": [6.0, 22.0, 38.0], "b": [-6.0, -22.0, -38.0]}


def test_only_layers_of_the_range_are_chosen_and_ranked() -> None:
    assert {layer for layer, _ in choose(count=8, layers=(0, 1))} == {0, 1}
    region = choose_region(SIGNALS, {"a": 1.0}, count=1, layers=(1, 1))
    assert (region.neurons[0].layer, region.neurons[0].index) == (1, 3)
    assert region.neurons[0].ranks == {"a": 1.0}


def test_experts_are_chosen_by_name_and_count_in_their_layer() -> None:
    sites = [(0, None), (1, None), (1, 0), (1, 1)]
    signals = {"a": [torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([5.0, 8.0]), torch.tensor([7.0, 6.0])]}
    region = choose_region(signals, {"a": 1.0}, count=5, layers=(0, 1), sites=sites)
    found = [(neuron.layer, neuron.expert, neuron.index) for neuron in region.neurons]
    assert found == [(1, 0, 1), (1, 1, 0), (1, 1, 1), (1, 0, 0), (1, None, 0)]
    assert [neuron.values["a"] for neuron in region.neurons] == [8.0, 7.0, 6.0, 5.0, 3.0]
    assert region.layer_totals == {"a": [3.0, 29.0]}
    few = choose_region(signals, {"a": 1.0}, count=5, layers=(0, 1), sites=sites, per_layer=2)
    assert few.by_site() == {(0, None): [0, 1], (1, 0): [1], (1, 1): [0]}


def test_a_range_beyond_the_model_is_cut() -> None:
    assert choose(count=12, layers=(-3, 99)) == choose(count=12)


def test_no_layer_gets_more_than_its_share() -> None:
    assert choose(count=5, per_layer=2) == [(2, 3), (2, 2), (1, 3), (1, 2), (0, 3)]


def test_no_neuron_is_chosen_twice() -> None:
    chosen = choose(count=100)
    assert len(chosen) == len(set(chosen)) == 12


@pytest.mark.parametrize(
    "wrong",
    [{"layers": (3, 5)}, {"layers": (2, 1)}, {"count": 0}, {"weights": {"a": 0.0}}],
    ids=["beyond the model", "empty range", "no count", "no weight"],
)
def test_when_nothing_matches_the_error_says_what_to_change(wrong: dict[str, object]) -> None:
    with pytest.raises(RegionError, match=r"no neuron matches.*layers 0 to 2"):
        choose(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_signal_that_is_not_finite_is_refused(value: float) -> None:
    broken = [layer.clone() for layer in RISING]
    broken[1][2] = value
    with pytest.raises(RegionError, match="'a'"):
        choose_region({"a": broken}, {"a": 1.0}, count=2, layers=(0, 2))


def test_neurons_are_ordered_by_layer_then_expert_then_index() -> None:
    # The MLP that all tokens pass comes before the experts of its layer.
    rising = [NeuronId(0, 9), NeuronId(1, 3), NeuronId(1, 7, 0), NeuronId(1, 8, 0), NeuronId(1, 0, 2), NeuronId(2, 0)]
    shuffled = [rising[place] for place in (4, 0, 5, 2, 1, 3)]
    assert sorted(shuffled) == rising
    assert all(one < other for one, other in itertools.pairwise(rising))
    assert not any(neuron < neuron for neuron in rising)
    chosen = Region(tuple(RegionNeuron(one.layer, one.index, 0.0, expert=one.expert) for one in rising[::-1]), {})
    assert chosen.by_site() == {(0, None): [9], (1, None): [3], (1, 0): [7, 8], (1, 2): [0], (2, None): [0]}
    assert chosen.by_layer() == {0: [9], 1: [0, 3, 7, 8], 2: [0]}
    assert chosen.lowest_layer == 0


def test_by_layer_is_sorted() -> None:
    assert make_region({2: [9, 1], 0: [5]}).by_layer() == {0: [5], 2: [1, 9]}


def test_a_random_region_has_the_same_counts_and_shares_no_neuron() -> None:
    region = make_region({0: [1, 2, 3], 2: [0]})
    for seed in range(20):
        other = random_region(region, [8, 8, 4], seed=seed)
        layers = other.by_layer()
        assert {layer: len(own) for layer, own in layers.items()} == {0: 3, 2: 1}
        assert all(not set(layers[layer]) & set(own) for layer, own in region.by_layer().items())
        assert all(len(set(own)) == len(own) for own in layers.values())
        assert max(layers[0]) < 8
        assert max(layers[2]) < 4


def test_random_regions_differ_by_seed_and_only_by_seed() -> None:
    region = make_region({0: [1, 2, 3]})
    first, again, other = (random_region(region, [60], seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_random_region_says_what_it_is_and_scores_nothing() -> None:
    drawn = random_region(make_region({0: [1, 2]}), [8], seed=0)
    assert drawn.signals == {"random": 1.0}
    assert {neuron.score for neuron in drawn.neurons} == {0.0}


def test_every_free_neuron_can_be_drawn() -> None:
    region = make_region({0: [0]})
    drawn = {random_region(region, [6], seed=seed).by_layer()[0][0] for seed in range(60)}
    assert drawn == {1, 2, 3, 4, 5}


def test_a_layer_without_room_for_a_random_region_is_an_error() -> None:
    with pytest.raises(RegionError, match="layer 1"):
        random_region(make_region({1: [0, 1, 2]}), [5, 5], seed=0)


def test_a_region_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    region = choose_region(SIGNALS, {"a": 1.0, "b": -0.5}, count=4, layers=(0, 2))
    path = tmp_path / "region.json"
    region.save(path, layer_weight_change=[0.5, 0.25])
    assert Region.load(path) == region
    assert json.loads(path.read_text())["layer_weight_change"] == [0.5, 0.25]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"neurons": [{"layer": 1}], "signals": {}, "layer_totals": {}}'])
def test_a_file_that_is_no_region_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "region.json"
    path.write_text(content)
    with pytest.raises(RegionError, match=r"region\.json: not a region file"):
        Region.load(path)


def test_a_missing_and_an_empty_region_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "region.json"
    with pytest.raises(RegionError, match=r"region\.json"):
        Region.load(path)
    make_region({}).save(path)
    with pytest.raises(RegionError, match="empty"):
        Region.load(path)
