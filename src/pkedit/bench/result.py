"""Everything that one benchmark found and where, as a value that is printed and written as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from pkedit.bench.figures import StageFigures

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class BenchResult:
    """`reason` says how device and dtype were chosen, `precision` what locating and editing multiply in.

    `matmul_flops` and `bandwidth_bytes`: what was measured of the device, per second, in that format.
    """

    model: str
    reason: str
    parameters: int
    layers: int
    precision: str
    matmul_flops: float
    bandwidth_bytes: float
    repeats: int
    sizes: dict[str, Any]
    hardware: dict[str, str | int]
    versions: dict[str, str]
    created: str
    command: str
    stages: tuple[StageFigures, ...]

    def sentences(self) -> tuple[str, str]:
        """The model and the machine, in words."""
        hardware = self.hardware
        device = hardware.get("gpu", hardware["processor"])
        model = (
            f"{self.model}: {self.parameters / 1e6:,.0f} million weights in {self.layers} layers on {self.reason}; "
            f"locating and editing in {self.precision}."
        )
        machine = (
            f"{device}, {hardware['threads']} threads, {int(hardware['memory']) / 2**30:.0f} GiB: "
            f"{self.matmul_flops / 1e12:,.2f} TFLOP/s in {self.precision}, {self.bandwidth_bytes / 1e9:,.0f} GB/s; "
            + ", ".join(f"{name} {self.versions[name]}" for name in ("pkedit", "torch", "transformers", "python"))
            + "."
        )
        return model, machine

    def as_json(self) -> dict[str, Any]:
        """Every figure, with the medians and whether the targets are met."""
        content = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for stage, figures in zip(content["stages"], self.stages, strict=True):
            for row, own in zip(stage["rows"], figures.rows, strict=True):
                row["tokens_per_second"] = own.tokens_per_second
            for entry, ratio in zip(stage["ratios"], figures.ratios, strict=True):
                entry.update(value=ratio.value, holds=ratio.holds)
        return content
