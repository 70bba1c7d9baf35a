"""Vision Transformers of timm as encoders of spectrograms: AST's way (arXiv 2104.01778, section 2.2).

    ajepa evaluate linear --model timm:vit_small_patch16_224 ...
    ajepa pretrain ajepa-vit-s-as2m --encoder.init timm:vit_small_patch16_224@weights.safetensors

The patch embedding is summed over the three colours. The position table of images is cut (in its middle) or
stretched (bilinear), each axis on its own, to the grid of the spectrogram; the rows of an image are mel bands
here, the lowest first, and its columns are time. The blocks are the same. A head is left out, and so is the
distillation token of a DeiT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ajepa.checkpoints.official.account import VIT_PARTS, TensorAccount
from ajepa.checkpoints.official.contents import Official, OfficialError
from ajepa.checkpoints.unpickle import is_torch_file, load_torch
from ajepa.features import LogMelConfig
from ajepa.nn.grid import PatchGrid
from ajepa.nn.positions import TableConfig

SCHEME = "timm:"
GRID = PatchGrid(64, 8)  # 10.24 s in patches of 16 x 16, as in A-JEPA and AST's fine-tuning without overlap
PATCH = (16, 16)
EPSILON = 1e-6  # of our layer norms


class Timm(NamedTuple):
    """`timm:NAME[@FILE]`: a model's name, and a file of its weights or "" for timm's own."""

    name: str
    file: str

    @classmethod
    def parse(cls, source: str) -> Timm:
        """Raises OfficialError if no model is named."""
        name, _, file = source.removeprefix(SCHEME).partition("@")
        if not name:
            raise OfficialError(
                f"{source}: names no model; write timm:NAME, such as timm:vit_base_patch16_224"
            )
        return cls(name, file)


def read_timm(
    source: str, grid: PatchGrid = GRID, patch: tuple[int, int] = PATCH, mels: int = LogMelConfig().mels
) -> Official:
    """The weights of a plain ViT of timm for patches of spectrograms.

    Args:
        source: `timm:NAME[@FILE]`. Without a file timm downloads its weights for the name.
        grid: of the position table.
        patch: frames and mel bands of a patch. Kernels of another size are resampled (FlexiViT's
            pseudo-inverse, arXiv 2212.08013).
        mels: mel bands of the spectrograms.

    Raises:
        OfficialError: timm has no such model, its weights cannot be had, or it is not a plain ViT.
        UnpickleError: the file is damaged or would run code.
    """
    name, file = Timm.parse(source)
    model = _model(source, name, pretrained=not file)
    _check_plain(source, model)
    heads = model.blocks[0].attn.num_heads
    rows, columns = model.patch_embed.grid_size
    prefix = model.num_prefix_tokens if not getattr(model, "no_embed_class", False) else 0
    tensors = TensorAccount(Path(file or name), _weights(Path(file)) if file else model.state_dict())
    for unused in [key for key in tensors.left if key.startswith(("head", "pre_logits", "dist_token"))]:
        del tensors.left[unused]
    tensors.shape("pos_embed", 3)
    codes_ND = tensors.left["pos_embed"][0]
    if len(codes_ND) != prefix + rows * columns:
        raise OfficialError(
            f"{source}: {len(codes_ND)} positions, but {name} has {prefix} tokens and {rows} x {columns} "
            "patches; name the model that the file is of"
        )
    first_D = codes_ND[0] if prefix else torch.zeros_like(codes_ND[0])
    has_class = "cls_token" in tensors.left
    if has_class:
        tensors.take("cls_token", "encoder.cls_token", lambda token: token.flatten() + first_D)
    tensors.take(
        "pos_embed",
        "encoder.position_table.table",
        lambda _: _resampled(codes_ND[prefix:].unflatten(0, (rows, columns)), grid),
    )
    tensors.shape("patch_embed.proj.weight", 4)
    kernel_D1HW = tensors.left["patch_embed.proj.weight"].float().sum(1, keepdim=True)
    if tuple(kernel_D1HW.shape[2:]) != (patch[1], patch[0]):
        from timm.layers.patch_embed import resample_patch_embed

        kernel_D1HW = resample_patch_embed(kernel_D1HW, [patch[1], patch[0]])
    # Rows of an image are mel bands, and our patches run frame by frame.
    tensors.left["patch_embed.proj.weight"] = kernel_D1HW.transpose(2, 3)
    norm = "fc_norm" if "fc_norm.weight" in tensors.left else "norm"
    encoder = tensors.encoder(
        "",
        "encoder.",
        norm,
        VIT_PARTS,
        heads,
        mels=mels,
        cls_token=has_class,
        table=TableConfig(grid.time, grid.freq),
    )
    front_end = LogMelConfig(mels=mels)
    seconds = grid.time * patch[0] * front_end.hop_seconds
    return Official(
        Path(file or name), f"timm {name}", front_end, encoder, seconds, None, -1, tensors.finish()
    )


def _model(source: str, name: str, *, pretrained: bool) -> Any:
    import timm  # 3 s: only where it is used

    try:
        return timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # timm and the Hub's client raise many kinds
        reason = " ".join(str(error).split())
        remedy = "give the file of its weights, timm:NAME@FILE" if timm.is_model(name) else "check the name"
        raise OfficialError(f"{source}: timm cannot make it ({reason}); {remedy}") from error


def _check_plain(source: str, model: Any) -> None:
    from timm.layers import Mlp
    from timm.models.vision_transformer import Block, VisionTransformer

    wrong = ""
    if not isinstance(model, VisionTransformer):
        wrong = f"it is a {type(model).__name__}"
    elif model.pos_embed is None or not isinstance(model.norm_pre, nn.Identity) or model.num_reg_tokens:
        wrong = "it has no position table, a norm before its blocks, or register tokens"
    else:
        for block in model.blocks:
            activation = getattr(block.mlp, "act", None)
            if type(block) is not Block or type(block.mlp) is not Mlp or type(activation) is not nn.GELU:
                wrong = "its blocks are not ViT's"
            elif block.norm1.eps != EPSILON:
                wrong = f"the epsilon of its norms is {block.norm1.eps}, not {EPSILON}"
    if wrong:
        raise OfficialError(f"{source}: not a plain ViT: {wrong}; choose one such as vit_base_patch16_224")


def _weights(path: Path) -> dict[str, Any]:
    """The tensors of a file that timm or another project saved."""
    if not path.is_file():
        raise OfficialError(f"{path}: no such file; give the weights of the model, timm:NAME@FILE")
    if not is_torch_file(path):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise OfficialError(f"{path}: neither safetensors nor torch's format ({error})") from error
    content = load_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise OfficialError(f"{path}: holds a {type(content).__name__}, not a state dict; save that alone")
    return content


def _resampled(codes_HWD: Tensor, grid: PatchGrid) -> Tensor:
    """Positions of an image as those of a grid's tokens, [N, D]: H is frequency, W time."""
    codes_HWD = _along(codes_HWD, grid.freq)
    codes_WHD = _along(codes_HWD.transpose(0, 1), grid.time)
    return codes_WHD.reshape(grid.tokens, -1)


def _along(codes_XYD: Tensor, size: int) -> Tensor:
    """The middle of the first axis, or all of it stretched, to `size` entries."""
    have = len(codes_XYD)
    if size <= have:
        start = have // 2 - size // 2
        return codes_XYD[start : start + size]
    stretched_YDX = nn.functional.interpolate(
        codes_XYD.permute(1, 2, 0).float(), size=size, mode="linear", align_corners=False
    )
    return stretched_YDX.permute(2, 0, 1).to(codes_XYD.dtype)
