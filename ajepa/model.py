"""What users hold: an encoder with its front end, from waveforms of any length to embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ajepa import checkpoint, hub
from ajepa.chunks import Chunk, fade, plan_chunks
from ajepa.embedding import Embedding, Source
from ajepa.encoder import Encoder, EncoderConfig
from ajepa.features import LogMel, LogMelConfig
from ajepa.grid import PatchGrid
from ajepa.inputs import levelled
from ajepa.official import OfficialError, read_official
from ajepa.official.contents import fill_module
from ajepa.precision import Precision, autocast, check_precision, store_products_in_bf16
from ajepa.recipe import RecipeError, load_recipe, recipe_from_dict
from ajepa.unpickle import UnpickleError, is_torch_file

DEFAULT_RECIPE = "ajepa-small-cpu"
FINISHED = ("encoder.safetensors", hub.WEIGHTS)  # in a run's folder, in an exported one
TOKENS_A_PASS = 16_384  # bounds memory: about 0.4 GiB of activations for ViT-B


class ModelError(ValueError):
    """A model source cannot be used; the message names it and says what can."""


class AudioEncoder(nn.Module):
    """Front end and encoder in one module.

    Attributes:
        sample_rate: of the waveforms it takes, Hz.
        embedding_size: F * D, the width of `frames` and `clip`.
        hop_seconds: time between two time steps of `patches`.
        chunk_patches: time steps that are encoded at once; longer audio is cut into overlapping chunks.
        source: where the weights came from, None for a module built by hand.
        precision: of the blocks' matrix products; see `set_bf16`.
    """

    precision: Precision = "float32"

    def __init__(
        self,
        features: LogMelConfig,
        encoder: EncoderConfig,
        chunk_seconds: float,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        self.features = LogMel(features)
        self.encoder = Encoder(encoder)
        self.sample_rate = features.sample_rate
        self.embedding_size = self.encoder.freq_patches * self.encoder.width
        self.hop_seconds = encoder.patch[0] * features.hop_seconds
        self.chunk_patches = max(1, round(chunk_seconds / self.hop_seconds))
        self.source = source

    @property
    def fill_value(self) -> float:
        """Normalised value of what fills up a clip's last patch, in a batch just as alone."""
        return self.encoder.config.inputs.fill_value(self.features.config, float(self.features.silence))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder.patch_embed.weight.device

    def set_bf16(self) -> AudioEncoder:
        """From now on embed with bfloat16 matrix products, on the device where the weights are; returns self.

        Front end, norms and residual stream stay in single precision, and so do the embeddings. For
        inference alone: the blocks' weights are rounded for good.
        """
        store_products_in_bf16(self.encoder.blocks)
        self.precision = "bf16"
        return self

    def forward(
        self, waveform_BS: Tensor, lengths: Sequence[int] | Tensor | None = None, *, layers: bool = False
    ) -> Embedding:
        """Embed clips; each gets the same embedding alone and in any batch.

        Args:
            waveform_BS: mono waveforms [B, samples] at `sample_rate`, at least 1 sample, about within ±1.
            lengths: samples of each clip where shorter ones are padded; what follows is ignored.
            layers: also return every block's output.

        Raises:
            ValueError: wrong shape, or a length below 1 or past the end.
        """
        if waveform_BS.ndim != 2 or 0 in waveform_BS.shape:
            raise ValueError(
                f"waveform has shape {tuple(waveform_BS.shape)}; expected [clips, samples], neither of them 0"
            )
        waveform_BS = waveform_BS.to(self.device)
        samples = waveform_BS.shape[1]
        lengths_B = self._lengths(lengths, len(waveform_BS), samples, "samples")
        if lengths is not None:
            ended = torch.arange(samples, device=self.device) >= lengths_B[:, None]
            waveform_BS = waveform_BS.masked_fill(ended, 0.0)
        waveform_BS = levelled(waveform_BS, self.encoder.config.inputs, lengths_B)
        spectrogram_BLM = self.features(waveform_BS, lengths_B)
        return self.encode(spectrogram_BLM, self.features.frames(lengths_B), layers=layers)

    def _lengths(self, lengths: Sequence[int] | Tensor | None, batch: int, most: int, unit: str) -> Tensor:
        """Lengths as a tensor [B] on the model's device, each within 1 and `most`."""
        if lengths is None:
            return torch.full((batch,), most, device=self.device)
        lengths_B = torch.as_tensor(lengths, device=self.device)
        if lengths_B.shape != (batch,) or int(lengths_B.min()) < 1 or int(lengths_B.max()) > most:
            raise ValueError(
                f"lengths {lengths_B.tolist()} must be {batch} numbers within 1 and {most} {unit}"
            )
        return lengths_B

    def encode(
        self, spectrogram_BLM: Tensor, frames: Sequence[int] | Tensor | None = None, *, layers: bool = False
    ) -> Embedding:
        """Embed normalised log-mel spectrograms [B, frames, mels], such as `self.features` makes.

        Args:
            spectrogram_BLM: as `features` gives it.
            frames: valid frames of each clip [B]; None means all.
            layers: also return every block's output.

        Raises:
            ValueError: `frames` are not B numbers of at least 1, or the mel bands are not the encoder's.
        """
        spectrogram_BLM = spectrogram_BLM.to(self.device)
        batch, count, _ = spectrogram_BLM.shape
        frames = self._lengths(frames, batch, count, "frames")
        fill = self.fill_value
        ended_BL1 = (torch.arange(count, device=frames.device) >= frames[:, None])[..., None]
        patches_BNP, grid = self.encoder.patchify(spectrogram_BLM.masked_fill(ended_BL1, fill), fill)
        lengths_B = -(-frames // self.encoder.config.patch[0])

        kept = len(self.encoder.blocks) if layers else 0
        outputs = [
            patches_BNP.new_zeros(batch, grid.time, grid.freq, self.encoder.width) for _ in range(kept + 1)
        ]
        weight_BT = patches_BNP.new_zeros(batch, grid.time)
        patches_BTFP = patches_BNP.unflatten(1, tuple(grid))
        chunks = plan_chunks(lengths_B.tolist(), self.chunk_patches)
        longest = min(self.chunk_patches, grid.time)
        rows_a_pass = max(1, TOKENS_A_PASS // (longest * grid.freq))
        for first in range(0, len(chunks), rows_a_pass):
            rows = chunks[first : first + rows_a_pass]
            encoded = self._encode_chunks(patches_BTFP, rows, kept)
            for position, chunk in enumerate(rows):
                fade_T = fade(chunk, self.chunk_patches).to(weight_BT)
                span = slice(chunk.start, chunk.start + chunk.length)
                weight_BT[chunk.clip, span] += fade_T
                for output, values in zip(outputs, encoded, strict=True):
                    output[chunk.clip, span] += values[position, : chunk.length] * fade_T[:, None, None]
        scale_BT11 = torch.where(weight_BT > 0, weight_BT, 1.0)[..., None, None]
        last, *kept_layers = [output / scale_BT11 for output in outputs]
        return Embedding(last, lengths_B, tuple(kept_layers))

    def _encode_chunks(self, patches_BTFP: Tensor, rows: list[Chunk], kept: int) -> list[Tensor]:
        """Encode chunks as one padded batch: the normed output and `kept` layers, each [R, T, F, D].

        What stands past a chunk's own length is of no meaning.
        """
        # Some weights know clips filled up to whole steps, and attend to the filling.
        seen = [self._filled_up(chunk.length) for chunk in rows]
        steps = max(seen)
        chunk_RTFP = patches_BTFP.new_full((len(rows), steps, *patches_BTFP.shape[2:]), self.fill_value)
        for row, chunk in enumerate(rows):
            chunk_RTFP[row, : chunk.length] = patches_BTFP[
                chunk.clip, chunk.start : chunk.start + chunk.length
            ]
        grid = PatchGrid(steps, patches_BTFP.shape[2])
        positions, valid_RN = self.encoder.positions(grid, chunk_RTFP), None
        if min(seen) < steps:
            valid_RT = torch.arange(steps) < torch.tensor(seen)[:, None]
            valid_RN = valid_RT.repeat_interleave(grid.freq, 1).to(patches_BTFP.device)
            if self.encoder.position_table is not None:  # its codes depend on a clip's length
                positions = torch.stack([self._positions(length, grid, chunk_RTFP) for length in seen])
        with autocast(self.precision, self.device):
            output, layers = self.encoder(chunk_RTFP.flatten(1, 2), positions, valid_RN, keep_layers=kept)
        return [value.unflatten(1, tuple(grid)) for value in (output, *layers)]

    def _filled_up(self, length: int) -> int:
        """Time patches that a chunk of `length` is encoded with."""
        multiple = self.encoder.config.inputs.steps
        return max(length, min(-(-length // multiple) * multiple, self.chunk_patches))

    def _positions(self, length: int, grid: PatchGrid, like: Tensor) -> Tensor:
        """Position codes of a chunk of `length` time patches, zeros after them up to `grid`: [N, D]."""
        codes_ND = self.encoder.positions(PatchGrid(length, grid.freq), like)
        return nn.functional.pad(codes_ND, (0, 0, 0, grid.tokens - len(codes_ND)))


def load_model(
    source: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    weights: str | None = None,
    chunk_seconds: float | None = None,
    seed: int = 0,
    heads: int | None = None,
    sample_rate: int | None = None,
    precision: Precision = "float32",
) -> AudioEncoder:
    """Load an encoder, in evaluation mode.

    Args:
        source: an `encoder.safetensors` or a training checkpoint of ours; a run's folder (its finished
            encoder, else its last checkpoint); an official Audio-MAE `.pth` or Audio-JEPA `.ckpt`; or a
            recipe's name or YAML file (random weights: the twin that a pre-trained encoder has to beat).
            `hf://owner/name[@revision]`: what `ajepa export --push` put on the Hugging Face Hub.
            None: the default recipe with random weights. What a file is follows from its content.
        device: where to put it; None leaves it on the CPU.
        weights: which encoder of a training checkpoint or an Audio-JEPA file, "target_encoder" (the default)
            or "encoder" (the only one of Audio-MAE).
        chunk_seconds: longest stretch that is encoded at once; None takes the length of the crops that
            the encoder was trained on.
        seed: of the random weights.
        heads: attention heads of an official encoder, which its file does not say; width / 64 by default.
        sample_rate: of an Audio-JEPA file's front end, Hz, which it does not say; 32,000 by default.
        precision: of the blocks' matrix products. "bf16" is some 3 times as fast on CPUs that multiply in
            bfloat16, and changes embeddings in their third digit (docs/performance.md).

    Raises:
        ModelError: no such source, a file that is none of these, or an option that does not apply to it.
        HubError: the Hub does not have it, or cannot be reached.
    """
    check_precision(precision)
    if source is None or source == "":
        warnings.warn(
            f"no model was named: this encoder has the RANDOM weights of recipe {DEFAULT_RECIPE!r} and has "
            "learnt nothing. Name a checkpoint, such as load_model('runs/first')",
            stacklevel=2,
        )
        source = DEFAULT_RECIPE
    if str(source).startswith(hub.SCHEME):
        source = hub.download(str(source))
    path = Path(source)
    try:
        if path.is_file() and is_torch_file(path):
            model = _from_official(path, weights, chunk_seconds, heads, sample_rate)
        elif heads or sample_rate:
            raise ModelError(f"{source}: heads and sample_rate can be chosen for official files alone")
        elif path.exists() and path.suffix not in {".yaml", ".yml"}:
            model = _from_file(path, weights, chunk_seconds)
        else:
            model = _from_recipe(str(source), chunk_seconds, seed)
    except (checkpoint.CheckpointError, RecipeError, UnpickleError, OfficialError) as error:
        raise ModelError(str(error)) from error
    model = model.to(device or "cpu").eval()
    return model.set_bf16() if precision == "bf16" else model


def _from_official(
    path: Path,
    weights: str | None,
    chunk_seconds: float | None,
    heads: int | None,
    sample_rate: int | None,
) -> AudioEncoder:
    found = read_official(path, heads=heads, sample_rate=sample_rate)
    chosen = weights or found.evaluated
    tensors = found.part(chosen)
    if not tensors:
        raise ModelError(f"{path}: {found.system} has no {chosen!r}; leave weights out")
    source = Source(str(path), found.system, found.step, chosen)
    model = AudioEncoder(found.front_end, found.encoder, chunk_seconds or found.seconds, source)
    fill_module(model.encoder, tensors, path)
    return model


def _from_recipe(name: str, chunk_seconds: float | None, seed: int) -> AudioEncoder:
    try:
        recipe = load_recipe(name)
    except RecipeError as error:
        raise ModelError(f"{name}: no such file or folder, and {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AudioEncoder(
            recipe.front_end,
            recipe.encoder,
            chunk_seconds or recipe.data.crop_seconds,
            Source("", recipe.name, 0, f"random, seed {seed}"),
        )


def _from_file(path: Path, weights: str | None, chunk_seconds: float | None) -> AudioEncoder:
    if path.is_dir():
        finished = next(filter(Path.is_file, (path / name for name in FINISHED)), path / FINISHED[0])
        checkpoints = sorted((path / "checkpoints").glob("step-*.safetensors"))
        if not checkpoints and (weights or not finished.is_file()):
            wanted = "" if weights else "encoder.safetensors or "
            raise ModelError(f"{path}: a folder without {wanted}checkpoints/step-*.safetensors")
        path = finished if finished.is_file() and weights is None else checkpoints[-1]
    names = checkpoint.load(path, prefixes=()).names
    exported = "encoder.norm.weight" in names
    if exported and weights:
        raise ModelError(f"{path}: one exported encoder; weights={weights!r} needs a training checkpoint")
    teacher = "objective.target_encoder.norm.weight" in names  # Audio-MAE has none
    found = "exported encoder" if exported else weights or ("target_encoder" if teacher else "encoder")
    prefix = "encoder." if exported else f"objective.{found}."
    saved = checkpoint.load(path, prefixes=(prefix, "features."))
    recipe = recipe_from_dict(saved.recipe)
    state = {f"encoder.{k.removeprefix(prefix)}": v for k, v in saved.tensors.items() if k.startswith(prefix)}
    state |= {name: value for name, value in saved.tensors.items() if name.startswith("features.")}
    source = Source(str(path), recipe.name, saved.step, found)
    model = AudioEncoder(recipe.front_end, recipe.encoder, chunk_seconds or recipe.data.crop_seconds, source)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ModelError(
            f"{path}: weights missing: {missing or 'none'}; not expected: {unexpected or 'none'}"
        )
    return model
