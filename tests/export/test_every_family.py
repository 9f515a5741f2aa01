"""The edit of every architecture in the family table is an adapter that PEFT holds exactly."""

from pathlib import Path

import pytest
import torch
from edited import logits, random_delta

from architectures import make_architecture
from pkedit.export.adapter import load_adapter, write_adapter
from pkedit.export.check import check_merged
from pkedit.models.families import FAMILIES
from tiny import assemble


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_its_logits_are_the_edit_s_and_merged_its_weights_are(tmp_path: Path, family: str) -> None:
    chat = assemble(make_architecture(family))
    delta, plain = random_delta(chat), logits(chat.model)
    with delta.applied_to(chat):
        edited = logits(chat.model)
    assert (edited - plain).abs().max() > 0.5
    write_adapter(delta, chat, tmp_path, base="tiny")
    acting = load_adapter(chat.model, tmp_path)
    torch.testing.assert_close(logits(acting), edited, rtol=1e-4, atol=1e-4)
    acting.merge_and_unload()
    check_merged(chat, delta)
