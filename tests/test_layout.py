"""How an objective is laid out on the processor: attention, and memory that is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from ajepa.masking import MaskingConfig
from ajepa.nn.blocks import Attention
from ajepa.nn.decoder import WindowAttention
from ajepa.nn.encoder import Encoder, EncoderConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.a_jepa import AJEPA, AJEPAConfig
from ajepa.recipes.parts import RunConfig
from ajepa.training.devices import lay_out
from ajepa.training.health import attention_entropy

CPU = torch.device("cpu")


def small_objective() -> AJEPA:
    torch.manual_seed(0)
    config = AJEPAConfig(
        masking=MaskingConfig(kind="block"), predictor=PredictorConfig(depth=2, width=32, heads=2)
    )
    return AJEPA(config, EncoderConfig(width=64, depth=2, heads=2), 10).train()


def loss_and_gradients(objective: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one step in bfloat16 autocast."""
    spectrogram_BLM = torch.randn(2, 256, 128, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(spectrogram_BLM, 0, torch.Generator().manual_seed(2))
    loss.value.backward()
    trained = [p for p in objective.parameters() if p.requires_grad]
    return loss.value.detach(), torch.cat([p.grad.flatten() for p in trained if p.grad is not None])


def fused(objective: nn.Module) -> set[bool]:
    return {
        module.fused for module in objective.modules() if isinstance(module, (Attention, WindowAttention))
    }


def test_plain_attention_is_the_same_step() -> None:
    kept, plain = small_objective(), small_objective()
    lay_out(plain, RunConfig(precision="bf16-mixed", compile="off"), CPU)
    assert fused(kept) == {True} and fused(plain) == {False}
    expected, found = loss_and_gradients(kept), loss_and_gradients(plain)
    torch.testing.assert_close(found[0], expected[0], rtol=2e-3, atol=0)
    assert (found[1] - expected[1]).norm() < 0.02 * expected[1].norm()
    assert not torch.equal(found[1], expected[1]), "both took the same path: nothing was compared"


def test_single_precision_keeps_the_fused_kernel() -> None:
    objective = small_objective()
    lay_out(objective, RunConfig(precision="32-true", compile="off"), CPU)
    assert fused(objective) == {True}


@pytest.mark.parametrize("clips", [4, 8, 12])
def test_compiled_blocks_tell_their_attention(clips: int) -> None:
    """Also for as many clips as the graphs were made for, and each time anew."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(width=32, depth=2, heads=2))
    spectrogram_BLM = torch.randn(clips, 64, 128, generator=torch.Generator().manual_seed(1))
    expected = attention_entropy(encoder, spectrogram_BLM)
    for block in encoder.blocks:
        block.compile(dynamic=False, backend="eager")  # graphs and guards, without a compiler's time
    patches_BNP, grid = encoder.patchify(spectrogram_BLM)
    with torch.no_grad():
        encoder(patches_BNP, encoder.positions(grid, patches_BNP))
    assert attention_entropy(encoder, spectrogram_BLM) == pytest.approx(expected)
    for block in encoder.blocks:
        block.attn.qkv.weight.data.zero_()
    assert attention_entropy(encoder, spectrogram_BLM) == pytest.approx(1.0, abs=1e-5)
    torch._dynamo.reset()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt")
def test_freed_memory_is_not_asked_for_again() -> None:
    program = """
import resource, sys, torch
from ajepa.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(24)][-1])  # up to seven of the first ones find no block of this size yet
"""
    counts = {
        way: int(subprocess.run([sys.executable, "-c", program, way], capture_output=True, check=True).stdout)
        for way in ("keep", "leave")
    }
    assert counts["keep"] < counts["leave"] / 10, counts
