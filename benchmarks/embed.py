"""Embedding speed: `AudioEncoder` against the same network as Audio-MAE's script runs it.

    python benchmarks/embed.py [--data FOLDER] [--seconds 1 5 10] [--batch N] [--repeats N] [--threads N]

The network is a ViT-B with Audio-MAE's class token and position table, and random weights. The script runs it
in single precision, with attention by plain products (timm 0.3.2), on torchaudio's fbank of one clip at a
time, padded to 1024, 512 or 128 frames. Ours is `AudioEncoder` in bf16, in two forms: filled up to whole
steps, as Audio-MAE's weights need, and at a clip's native length, as A-JEPA's weights do. The sides take
turns, from waveform to clip embedding; each time is a median. torch counts the FLOPs on our own tokens.
The floor is the time that these FLOPs take at the rate of one large bf16 product in the same run.

With real clips (--data, searched for audio) the agreement of embeddings is measured, as means over the same
time steps (the script's own mean would include the padding's tokens). The filled-up form is compared with the
script. At native length, cutting the table changes the stored positions, so that form is compared with
itself in single precision.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import torch
from common import RATE
from pretrain_step import product_rate, seconds_of
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ajepa.audio import AudioError, find_audio, load
from ajepa.checkpoints.official.audio_mae import INPUTS
from ajepa.features import InputConfig, LogMelConfig
from ajepa.memory import keep_freed_memory
from ajepa.model import AudioEncoder
from ajepa.nn.blocks import Attention
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.positions import TableConfig
from ajepa.training.provenance import describe_run

LENGTHS = (1024, 512, 128)  # frames that Audio-MAE's script pads to: AudioSet, ESC-50, Speech Commands
CPU = torch.device("cpu")
Embed = Callable[[Tensor], Tensor]


def network(inputs: InputConfig) -> AudioEncoder:
    """A ViT-B of Audio-MAE's form, with the same random weights in each call."""
    table = TableConfig(64, 8, transposed=True)
    torch.manual_seed(0)
    model = AudioEncoder(
        LogMelConfig(),
        EncoderConfig(size="b", cls_token=True, table=table, inputs=inputs),
        chunk_seconds=10.24,
    )
    assert model.encoder.position_table is not None
    torch.nn.init.normal_(model.encoder.position_table.table, std=0.5)
    return model.eval()


class Script:
    """Audio-MAE's script on a batch."""

    def __init__(self) -> None:
        self.model = network(INPUTS)
        for module in self.model.encoder.modules():
            if isinstance(module, Attention):
                module.fused = False

    def features(self, waveform_S: Tensor) -> Tensor:
        """[S] to a normalised and padded spectrogram [L, C]."""
        config = self.model.features.config
        fbank_LC = common.kaldi_fbank(waveform_S, config.mels)
        frames = min(length for length in LENGTHS if length >= len(fbank_LC))
        padded_LC = torch.nn.functional.pad(fbank_LC, (0, 0, 0, frames - len(fbank_LC)))
        return (padded_LC - config.mean) / (2 * config.std)

    def __call__(self, waveform_BS: Tensor) -> Tensor:
        encoder = self.model.encoder
        spectrogram_BLC = torch.stack([self.features(clip_S) for clip_S in waveform_BS])
        patches_BNP, grid = encoder.patchify(spectrogram_BLC)
        tokens_BND, _ = encoder(patches_BNP, encoder.positions(grid, patches_BNP))
        valid = -(-self.model.features.config.frames(waveform_BS.shape[1]) // 16)
        return tokens_BND.unflatten(1, tuple(grid))[:, :valid].flatten(2).mean(1)


def token_flops(model: AudioEncoder, waveform_BS: Tensor) -> int:
    """FLOPs of embedding a batch. Attention uses plain products: the counter does not know every kernel."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(waveform_BS)
    return counter.get_total_flops()


def real_clips(folder: Path, seconds: float, count: int) -> Tensor | None:
    """Up to `count` clips [B, S] from all over a folder; None if no file is long enough."""
    if not folder.is_dir():
        return None
    samples = round(seconds * RATE)
    files = sorted(find_audio(folder))
    clips = []
    for path in files[:: max(1, len(files) // (16 * count))]:
        try:
            waveform_S = load(path, sample_rate=RATE)
        except AudioError:  # the folder holds damaged files on purpose
            continue
        if len(waveform_S) >= samples and waveform_S[:samples].abs().max() > 1e-3:
            clips.append(waveform_S[:samples])
        if len(clips) == count:
            break
    return torch.stack(clips) if clips else None


def cosines(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Smallest cosine over clips, as they are and with the mean over all clips removed (what they share)."""
    mean = theirs.mean(0)
    plain = torch.nn.functional.cosine_similarity(ours, theirs)
    centred = torch.nn.functional.cosine_similarity(ours - mean, theirs - mean)
    return float(plain.min()), float(centred.min())


@torch.inference_mode()
def measure(seconds: float, batch: int, repeats: int, data: Path) -> dict[str, Any]:
    """Results for one length: clips/s of each side, shares of the floor, agreement."""
    script = Script()
    native = replace(INPUTS, steps=1)
    ours = {"filled up": network(INPUTS), "native": network(native)}
    waveform_BS = 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))
    flops = {name: token_flops(model, waveform_BS) for name, model in ours.items()}
    sides: dict[str, Embed] = {"script": script}
    for name, model in ours.items():
        model.set_bf16()
        sides[name] = lambda waveform, model=model: model(waveform).clip  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in sides}
    rates = []
    for turn in range(repeats + 1):
        for name, embed in sides.items():
            took = seconds_of(lambda embed=embed: embed(waveform_BS), CPU)  # type: ignore[misc]
            if turn:
                times[name].append(took)
        rates.append(product_rate(CPU, torch.bfloat16, 3))
    rate = statistics.median(rates)
    median = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, Any] = {"seconds": seconds, "batch": batch, "product_flop_per_s": rate, "sides": {}}
    real = real_clips(data, seconds, 24)
    single = network(native)
    for name, took in median.items():
        side: dict[str, Any] = {"clips_per_s": batch / took, "times_script": median["script"] / took}
        if name != "script":
            side["share_of_floor"] = flops[name] / took / rate
            if real is not None:
                theirs = script(real) if name == "filled up" else single(real).clip
                side["clips"] = len(real)
                side["cosine"], side["cosine_centred"] = cosines(sides[name](real), theirs)
        result["sides"][name] = side
    return result


def show(result: dict[str, Any]) -> None:
    print(f"{result['seconds']:g} s, batches of {result['batch']}:")
    for name, side in result["sides"].items():
        line = f"  {name:10} {side['clips_per_s']:8.2f} clips/s  x {side['times_script']:.2f}"
        if name != "script":
            line += f"  {100 * side['share_of_floor']:.0f} % of the floor  "
            if "cosine" not in side:
                line += "no real audio (--data)"
            else:
                line += f"cosine >= {side['cosine']:.5f}, centred {side['cosine_centred']:.5f}"
                line += f" ({side['clips']} clips)"
        print(line, flush=True)


def main() -> None:
    parser = common.parser(__doc__)
    folder = common.SHARED / "data"
    parser.add_argument("--data", type=Path, default=folder, help="real audio, to measure agreement")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 5.0, 10.0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    run = describe_run(CPU)
    print(f"{run['device']}, {run['threads']} threads, torch {run['torch']}")
    results = []
    for seconds in options.seconds:
        results.append(measure(seconds, options.batch, options.repeats, options.data))
        show(results[-1])
    common.write({"run": run, "results": results}, options.json)


if __name__ == "__main__":
    main()
