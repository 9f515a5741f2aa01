"""The stages by name, in the order in which they run. A new one is a file beside these and a line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pkedit.bench.edit_stage import edit_stage
from pkedit.bench.figures import StageFigures
from pkedit.bench.generate_stage import generate_stage
from pkedit.bench.growth_stage import growth_stage
from pkedit.bench.instance_stage import instance_stage
from pkedit.bench.locate_stage import locate_stage
from pkedit.bench.whole_stage import whole_stage
from pkedit.bench.workbench import Workbench

Stage = Callable[[Workbench], StageFigures]

STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "whole": whole_stage,
        "locate": locate_stage,
        "edit": edit_stage,
        "instance": instance_stage,
        "generate": generate_stage,
        "growth": growth_stage,
    }
)
# What is measured where no stages are named: of a loaded model, and of a random one of a known shape.
OF_A_MODEL = ("locate", "edit", "instance", "generate", "growth")
OF_A_SHAPE = ("whole", "locate", "edit", "generate")
