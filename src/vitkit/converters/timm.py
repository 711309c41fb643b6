"""timm's layout of the plain ViT, which DeiT, DINO and MAE files share (VIT_SPEC 2.5): fused qkv, dotted names.

Source: timm 1.0.31, models/vision_transformer.py, deit.py and vision_transformer_hybrid.py.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.converters import open_clip_folder, timm_folder
from vitkit.converters.engine import Rule, Told, same
from vitkit.converters.fold import refuse_cls_mean, with_biases, write_out_positions
from vitkit.converters.tables import assumed_heads, both
from vitkit.converters.timm_folder import write_sidecars
from vitkit.converters.wrappers import unwrapped
from vitkit.models.positions import square_grid
from vitkit.models.vit import ViTConfig

__all__ = [
    "FILE",
    "IGNORE",
    "NAME",
    "SIDECARS",
    "config",
    "matches",
    "normalise",
    "plain_config",
    "prepare",
    "read_sidecars",
    "refuse",
    "rules",
    "untold",
    "write_sidecars",
]

NAME = "timm"
FILE = "model.safetensors"
SIDECARS = (timm_folder.SIDECAR, open_clip_folder.SIDECAR)  # the second where the model is a tower of OpenCLIP
IGNORE = (
    r"mask_token",  # masked training only
    r"decoder_(embed|pos_embed|blocks|norm|pred)\b.*",  # MAE's decoder
    r"head\.(mlp|last_layer|\d+)\..*",  # DINO's and MoCo v3's projection heads
    r"(momentum_encoder|predictor)\..*",  # MoCo v3's other parts
    # The rest of an OpenCLIP model whose image tower is timm's.
    r"(text|transformer|token_embedding|ln_final)\..*",
    r"positional_embedding|text_projection(\..*)?|logit_scale|logit_bias",
)
LAYER_SCALE = 1e-5  # the initial value is not in a file, and no longer matters
CLIP_EPS = 1e-5  # of every published model with a norm before the blocks
PATCHES = "patch_embed.proj.weight"
DINOV2 = re.compile(r"mask_token|register_tokens|blocks\.\d+\.(\d+\..*|mlp\.w12\.weight)")
PROJECTION = "projection"  # marks what OpenCLIP has beside a timm tower
# What other architectures of these names have, and the plain ViT has not.
FOREIGN = {
    r"blocks\.\d+\.attn\.[qk]_norm\..*": "normalised queries and keys",
    r"blocks\.\d+\.(attn|mlp)\.norm\..*": "norms inside the branches",
    r"blocks\.\d+\.attn\.([qkv]_bias|[qkv]_proj\..*|qkv\.bias_mask)|.*rel(ative)?_pos.*": "BEiT's or EVA's attention",
    r"blocks\.\d+\.((attns|ffns|in_proj|mlp_out_proj)\..*|mlp_bias)": "parallel branches",
    r"blocks\.\d+\.attn\.(lambda.*|sub_norm\..*)": "differential attention",
    r"blocks\.\d+\.mlp\.(fc1_[gx]|fc3|w1|w2|w3|w12)\..*": "another gated MLP",
    r".*(rope|freqs|periods).*|storage_tokens": "rotary positions",
    rf"\({PROJECTION}\) .*": "another projection than a linear one",
    r"patch_embed\.(norm|backbone\.(conv1|bn1|layer1|0|1))\b.*": "another patch embedding",
}
# Published models of other architectures whose names and shapes are a plain model's, by what they are. (Files of timm's
# vit_*_rope_ape_224 are DeiT III's in every name and shape: there only a folder's config.json tells.)
SIZES_OF_RPN = {(768, 12)}
SIZES_OF_PE = {(192, 12), (384, 12), (768, 12), (1024, 24), (1536, 50)}
ROOT, STAGES = "patch_embed.backbone.conv.weight", "patch_embed.backbone.stem.conv.weight"
UNIT = r"patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\."


def matches(names: frozenset[str]) -> bool:
    """Does a file with these tensor names have this layout?"""
    plain = _plain(names)
    if plain is None or not any(name.startswith("blocks.0.") for name in plain.values()):
        return False
    return not looks_like_dinov2(plain.values())


def looks_like_dinov2(names: Iterable[str]) -> bool:
    """Are these plain names of the original DINOv2 code? MAE's files have a mask token too, but a decoder with it."""
    names = frozenset(names)
    return "decoder_embed.weight" not in names and any(DINOV2.fullmatch(name) for name in names)


def _plain(names: Iterable[str]) -> dict[str, str] | None:
    """Names to names without their wrapper. OpenCLIP keeps the projection of a timm tower beside its trunk: timm's head."""
    plain = unwrapped(names, PATCHES, IGNORE)
    trunk = next((name.removesuffix(PATCHES) for name, new in (plain or {}).items() if new == PATCHES), "")
    if plain is None or not trunk.endswith("trunk."):
        return plain
    head = trunk.removesuffix("trunk.") + "head."
    beside = {name: f"({PROJECTION}) head.{name.removeprefix(head)}" for name in plain if name.startswith(head)}
    if "head.weight" not in plain.values():
        beside |= {name: f"head.{kind}" for kind in ("weight", "bias") if (name := f"{head}proj.{kind}") in plain}
    return plain | beside


def normalise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without wrappers, DeiT III's layer scales as timm's, and patch weights of old files as a convolution's."""
    plain = _plain(state)
    if plain is None:
        return dict(state)
    found = {}
    for name, tensor in state.items():
        new = re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", plain[name])
        if new == PATCHES and tensor.ndim == 2:  # (D, 3 * P * P), of a dense layer
            side = math.isqrt(tensor.shape[1] // 3)
            if 3 * side * side == tensor.shape[1]:
                tensor = tensor.reshape(-1, 3, side, side)
        found[new] = tensor
    if "head.weight" in found and "head.bias" not in found and any(name.endswith("head.proj.weight") for name in plain):
        found["head.bias"] = found["head.weight"].new_zeros(found["head.weight"].shape[0])  # as timm reads it
    return found


def refuse(state: Mapping[str, Tensor], where: str) -> None:
    """Raise UserError, naming the tensors, where they are of another architecture than the plain ViT's."""
    for pattern, what in FOREIGN.items():
        names = [name for name in state if re.fullmatch(pattern, name)]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{where} with {names[0]}{more} have {what}: not a plain Vision Transformer, not loaded.")
    if "pos_embed" not in state:
        raise UserError(f"{where} without pos_embed have other positions (rotary, or none): not loaded.")
    for name in ("norm1.weight", "norm1.bias", "norm2.bias", "mlp.fc1.weight", "mlp.fc2.weight", "attn.qkv.weight"):
        if f"blocks.0.{name}" not in state:
            raise UserError(f"{where} without blocks.0.{name} are not of the plain Vision Transformer.")
    if len({name.partition(".")[0] for name in state} & {"norm", "fc_norm"}) != 1:
        raise UserError(
            f"{where} need either norm or fc_norm, a last norm; timm's final_norm=False is not the plain ViT."
        )


def config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None) -> ViTConfig:
    """Read the configuration off names and shapes. The number of heads is assumed.

    Raises:
        UserError: the tensors are of another architecture, named; or the patch grid is not a square and
            ``source_image_size`` was not given.
    """
    found = plain_config(state, source_image_size, "timm weights")
    size, bare = (found.embed_dim, found.depth), not (found.cls_token or found.registers or found.layer_scale)
    other = None
    if size in SIZES_OF_RPN and bare and not found.qkv_bias and found.norm_after_pool:
        other = "vit_base_patch16_rpn_224's, whose norms come after the branches"
    elif size in SIZES_OF_PE and found.pre_norm and found.pool == "map":
        other = "a Perception Encoder's (vit_pe_core_*), which has rotary positions too"
    if other is not None:
        raise UserError(
            f"timm weights of these names and shapes are {other}: not a plain Vision Transformer, not loaded."
        )
    return found


def plain_config(state: Mapping[str, Tensor], source_image_size: tuple[int, int] | None, where: str) -> ViTConfig:
    """What names and shapes tell of a plain ViT in this layout; ``where`` names the file's kind in errors."""
    refuse(state, where)
    embed_dim, channels, patch_h, patch_w = state[PATCHES].shape
    stem = _stem(state)
    if stem is not None:
        channels = state[ROOT if ROOT in state else STAGES].shape[1]
    distilled = "dist_token" in state
    if distilled and "head_dist.weight" not in state:
        raise UserError(f"{where} with dist_token and without head_dist: timm averages two tokens there, not loaded.")
    registers = 1 if distilled else state["reg_token"].shape[1] if "reg_token" in state else 0
    cls_token, mapped, pre_norm = "cls_token" in state, "attn_pool.latent" in state, "norm_pre.weight" in state
    rows, prefix_tokens = state["pos_embed"].shape[1], int(cls_token) + registers
    if source_image_size is None:
        stride = 1 if stem is None else 4 * 2 ** max(len(stem) - 1, 0)
        (h, w), prefix_positions = _square(rows, prefix_tokens, where)
        source_image_size = (h * patch_h * stride, w * patch_w * stride)
    else:
        h, w = ViTConfig(patch_size=(patch_h, patch_w), image_size=source_image_size, stem=stem).grid
        prefix_positions = "none" if prefix_tokens and rows == h * w else "all"
    hidden, mlp_dim = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.mlp.fc2.weight"].shape[1]
    after = "fc_norm.weight" in state
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    return ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=assumed_heads(embed_dim, depth, mapped),
        mlp_dim=mlp_dim,
        patch_size=(patch_h, patch_w),
        image_size=source_image_size,
        in_channels=channels,
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
        cls_token=cls_token,
        registers=registers,
        distilled=distilled,
        # fc_norm comes with mean pooling in every published model; a folder's config.json says where it does not
        pool="map" if mapped else "cls" if cls_token and not after else "mean",
        norm_after_pool=after,
        representation_size=state["pre_logits.fc.weight"].shape[0] if "pre_logits.fc.weight" in state else 0,
        prefix_positions=prefix_positions,
        position_rule="bicubic_antialias",
        stem=stem,
        stem_numerics="timm" if stem is not None else "official",
        mlp="swiglu" if hidden == 2 * mlp_dim else "gelu",
        gelu="erf",
        norm_eps=CLIP_EPS if pre_norm else 1e-6,
        pre_norm=pre_norm,
        patch_bias=not pre_norm,  # as timm has it: a bias that is missing is a missing tensor
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        layer_scale=LAYER_SCALE if "blocks.0.ls1.gamma" in state else None,
    )


def _stem(state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """Residual units per stage of a hybrid's ResNet; None: there is none."""
    if ROOT in state:
        return ()
    if STAGES not in state:
        return None
    units = {found.groups() for name in state if (found := re.match(UNIT, name))}
    return tuple(len([unit for stage, unit in units if int(stage) == n]) for n in sorted({int(s) for s, _ in units}))


def _square(rows: int, prefix_tokens: int, where: str) -> tuple[tuple[int, int], str]:
    """(grid, prefix_positions) of a position table of so many rows: timm gives all prefix tokens a row, or none."""
    counts = {name: rows - n for name, n in (("all", prefix_tokens), ("none", 0)) if rows > n}
    fit = [name for name, n in counts.items() if math.isqrt(n) ** 2 == n]
    if prefix_tokens and len(fit) == 2:
        raise UserError(
            f"{where}: {rows} positions are a square grid with and without the {prefix_tokens} prefix tokens. "
            "Say the size they were trained at: source_image_size=(H, W)."
        )
    found = next(iter(fit or counts), "all")
    return square_grid(counts.get(found, 0), where), found


def prepare(config: ViTConfig, state: Mapping[str, Tensor]) -> tuple[ViTConfig, dict[str, Tensor]]:
    """As `engine.Format.prepare`: positions of every kind as one table, and zeros for biases that timm always has."""
    refuse_cls_mean(config, NAME)
    config, state = write_out_positions(config, state)
    config, state = with_biases(config, state, ("head_bias",) if config.pre_norm else ("head_bias", "patch_bias"))
    P = config.prefix_tokens
    rows = config.position_prefix
    if config.distilled and rows < P:  # timm's distilled models have a row for each prefix token
        zeros = state["cls_token"].new_zeros(1, P - rows, config.embed_dim)
        table = state["pos_embed"]
        state["pos_embed"] = torch.cat([table[:, :rows], zeros, table[:, rows:]], dim=1)
        rows = P
    elif rows not in (0, P):  # the cls token has a row, the registers have none
        row, state["pos_embed"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        state["cls_token"] = state["cls_token"] + row
        rows = 0
    return dataclasses.replace(config, prefix_positions="all" if rows == P else "none"), state


def rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The table of a configuration."""
    table = [same("patch_embed.weight", PATCHES), same("pos_embed", "pos_embed")]
    last = "fc_norm" if config.norm_after_pool else "norm"
    table += both("norm", last)
    if config.patch_bias:
        table.append(same("patch_embed.bias", "patch_embed.proj.bias"))
    if config.cls_token:
        table.append(same("cls_token", "cls_token"))
    if config.registers and not (config.distilled and config.registers > 1):
        table.append(same("registers", "dist_token" if config.distilled else "reg_token"))
    if config.pre_norm:
        table += both("norm_pre", "norm_pre")
    if config.stem is not None:
        table += _stem_rules(config.stem)
    for layer in range(config.depth):
        block = f"blocks.{layer}"
        for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            table += both(f"{block}.{part}", f"{block}.{part}")
        table += both(f"{block}.attn.qkv", f"{block}.attn.qkv", config.qkv_bias)
        if config.layer_scale is not None:
            table += [same(f"{block}.layer_scale{n}", f"{block}.ls{n}.gamma") for n in (1, 2)]
    if config.pool == "map":
        table.append(same("map_pool.probe", "attn_pool.latent"))
        # timm's pooling has a plain MLP also where the blocks' is gated
        parts = ("q", "kv", "proj", "norm", *(("mlp.fc1", "mlp.fc2") if config.mlp == "gelu" else ()))
        table += [rule for part in parts for rule in both(f"map_pool.{part}", f"attn_pool.{part}")]
    if config.representation_size:
        table += both("pre_logits", "pre_logits.fc")
    if config.num_classes:
        for head in ("head", "head_dist") if config.distilled else ("head",):
            table += both(head, head, config.head_bias)
    return tuple(table)


def _stem_rules(units: tuple[int, ...]) -> list[Rule]:
    """timm keeps a ResNet of the root alone under other names than one with stages."""
    backbone = "patch_embed.backbone"
    root = f"{backbone}.stem" if units else backbone
    table = [same("stem.conv_root.weight", f"{root}.conv.weight"), *both("stem.gn_root", f"{root}.norm")]
    for stage, count in enumerate(units):
        for unit in range(count):
            ours, theirs = f"stem.stages.{stage}.{unit}", f"{backbone}.stages.{stage}.blocks.{unit}"
            for n in (1, 2, 3):
                table.append(same(f"{ours}.conv{n}.weight", f"{theirs}.conv{n}.weight"))
                table += both(f"{ours}.gn{n}", f"{theirs}.norm{n}")
            if not unit:  # the first unit of a stage changes width or size
                table.append(same(f"{ours}.conv_proj.weight", f"{theirs}.downsample.conv.weight"))
                table += both(f"{ours}.gn_proj", f"{theirs}.downsample.norm")
    return table


def read_sidecars(files: Mapping[str, Any]) -> Told:
    """As `engine.Folder.read_sidecars`: what timm's own file tells, else OpenCLIP's.

    Raises:
        UserError: as `timm_folder.read_sidecars` and `open_clip_folder.read_trunk`.
    """
    own = timm_folder.read_sidecars(files)
    return own if own.model else open_clip_folder.read_trunk(files)


def untold(config: ViTConfig) -> frozenset[str]:
    """As `engine.Format.untold`."""
    return frozenset({"num_heads", *(("gelu", "norm_eps") if config.pre_norm or config.pool == "map" else ())})
