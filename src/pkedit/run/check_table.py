"""A check in the terminal: the model, the machine, every stage with its time and memory, and what does not fit."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pkedit.run.check import Check, MlpCount, ModelFacts, gigabytes


def print_check(found: Check, console: Console) -> None:
    """Prints everything; the last lines say whether it fits and what would help."""
    _print_rows(console, "Model", _model_rows(found.model))
    _print_rows(console, "Machine", _machine_rows(found))
    console.print(_stages(found))
    console.print("Estimates, fitted to a run of the embedded model on a CPU: expect a factor of two, elsewhere more.")
    for note in found.notes:
        console.print(f"Note: {note}.", markup=False, highlight=False)
    for problem in found.problems:
        console.print(f"Problem: {problem}", markup=False, highlight=False)
    for advised in found.advice:
        console.print(advised, markup=False, highlight=False)
    if found.fits:
        console.print(f"Everything fits. Next: pkedit run {found.model.name}", markup=False, highlight=False)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _model_rows(model: ModelFacts) -> list[tuple[str, str]]:
    shape = model.shape
    family = f"{model.model_type}, {model.family or 'not supported'}"
    rows = [("name", model.name), ("family", family), ("decoder layers", f"{shape.layers}")]
    if model.neurons is not None:
        each = "; ".join(_mlp(one) for one in model.mlps)
        rows.append(("MLP neurons", f"{model.neurons:,} ({each})"))
    if shape.experts:
        rows.append(("experts", f"{shape.experts} in a layer, {shape.active_experts} for each token"))
    rows.append(("hidden size", f"{shape.hidden:,}"))
    rows.append(("parameters", _parameters(model)))
    rows.append(("embeddings", "tied to the output matrix" if shape.tied else "not tied"))
    template = {True: "present", False: "absent", None: "unknown (it is seen when the tokenizer is loaded)"}
    rows.append(("chat template", template[model.chat_template]))
    rows.append(("quantisation", model.quantisation or "none"))
    return rows


def _machine_rows(found: Check) -> list[tuple[str, str]]:
    rows = [("device and dtype", found.place.reason)]
    if found.place.mixed != found.place.dtype:
        mixed, exact = list(found.rates)[-1], next(iter(found.rates))
        rows.append(("arithmetic", f"{mixed} in sampling, locating and editing; {exact} in measuring"))
    rows += [
        (f"rates, {dtype}", f"{peaks.matmul_flops / 1e9:,.0f} GFLOP/s, {peaks.bandwidth_bytes / 1e9:,.0f} GB/s")
        for dtype, peaks in found.rates.items()
    ]
    rows += [
        (memory.place, f"{memory.name}: {gigabytes(memory.free)} free of {gigabytes(memory.total)}")
        for memory in found.memories
    ]
    rows += [
        (f"disk for {disk.purpose}", f"{gigabytes(disk.needed)} needed, {gigabytes(disk.free)} free at {disk.path}")
        for disk in found.disks
    ]
    return rows


def _stages(found: Check) -> Table:
    pools = list(found.place.pools)
    table = Table("Stage", title="Estimated for a run", title_justify="left")
    table.add_column("Time", justify="right")
    for pool in pools:
        table.add_column(f"Peak of {pool}", justify="right")
    table.add_column("Fits")
    for stage in found.stages:
        needs = [stage.needs.get(pool, 0) for pool in pools]
        fits = all(need <= found.place.pools[pool] for pool, need in zip(pools, needs, strict=True))
        cells = [gigabytes(need) if need else "" for need in needs]
        table.add_row(stage.stage, duration(stage.seconds), *cells, "yes" if fits else "NO")
    table.add_section()
    table.add_row("all", duration(sum(stage.seconds for stage in found.stages)))
    table.add_row("free", "", *(gigabytes(found.place.pools[pool]) for pool in pools))
    return table


def _print_rows(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(name, escape(value))
    console.print(table)


def _mlp(one: MlpCount) -> str:
    experts = "" if one.experts is None else f"{one.experts} experts of "
    layers = "1 layer" if one.layers == 1 else f"each of {one.layers} layers"
    return f"{experts}{one.neurons:,} in {layers}"


def _parameters(model: ModelFacts) -> str:
    shape = model.shape
    text = _count(shape.parameters)
    if not shape.experts:
        return text
    unused = shape.expert_weights * (1 - shape.active_experts / shape.experts)
    return f"{text}, {_count(shape.parameters - unused)} of them for each token"


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"
