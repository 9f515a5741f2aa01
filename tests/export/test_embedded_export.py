"""The embedded model, edited and exported: plain transformers and PEFT, in a process of their own, give its logits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pkedit.edit.hooked import HookedDelta
from pkedit.export.adapter import export_adapter
from pkedit.export.check import logits_of, prompt_ids
from pkedit.export.full import export_full
from pkedit.export.revert import revert
from pkedit.models.loading import conversion_folder, load_model
from pkedit.run.record import new_record
from pkedit.settings import RunSettings
from tiny import make_region

# Logits of three models on the same prompts, and whether pkedit had any part in them.
PLAIN = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, full, prompts, results = sys.argv[1:]
prompts = json.loads(prompts)

def logits(model):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0] for ids in prompts]

def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

acting = PeftModel.from_pretrained(load(base), adapter)
found = {"adapter": logits(acting), "merged": logits(acting.merge_and_unload()), "full": logits(load(full))}
assert not any(name.startswith("pkedit") for name in sys.modules)
torch.save(found, results)
"""


@pytest.mark.slow
def test_adapter_hook_full_export_and_merged_adapter_are_one_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = load_model("smollm2", dtype="float32", device="cpu")
    neurons = {layer: range(7 * layer, 8 * layer) for layer in range(12, 21)}
    hooked = HookedDelta(chat, make_region(neurons), ("write", "read0"))
    generator = torch.Generator().manual_seed(0)
    for free in hooked.free.values():
        free.data.normal_(std=0.7, generator=generator)
    delta, prompts = hooked.freeze(), prompt_ids(chat.tokenizer, chat.name)
    base = logits_of(chat.model, prompts)
    with hooked.active():
        expected = logits_of(chat.model, prompts)
    run = tmp_path / "run"
    run.mkdir()
    new_record(RunSettings()).save(run)
    delta.save(run / "delta.safetensors")
    adapter = export_adapter(run, tmp_path / "adapter", check=False)
    full = export_full(run, tmp_path / "full", check=False)
    arguments = [conversion_folder(), adapter, full, json.dumps(prompts), tmp_path / "logits.pt"]
    subprocess.run([sys.executable, "-c", PLAIN, *map(str, arguments)], check=True)
    found = torch.load(tmp_path / "logits.pt")

    def largest(first: object, second: object) -> float:
        pairs = zip(first, second, strict=True)  # type: ignore[call-overload]
        return max(float((one - other).abs().max()) for one, other in pairs)

    differences = {name: largest(logits, expected) for name, logits in found.items()}
    effect = largest(base, expected)
    with capsys.disabled():
        print(f"\nlargest logit difference to the hooks: {differences}; the edit's own effect: {effect:.2f}")
    assert effect > 1
    assert max(differences.values()) < 1e-3
    assert largest(found["merged"], found["full"]) == 0
    revert(full, run / "delta.safetensors", tmp_path / "reverted")
    reverted = load_model(str(tmp_path / "reverted"), device="cpu").model.state_dict()
    assert all(torch.equal(reverted[name], weight) for name, weight in chat.model.state_dict().items())
