"""Models of transformers that ours are compared with: small, with random weights, at several sizes. Imports nothing of it."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ROWS", "Row"]

PLAIN = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 7}
VIT = {**PLAIN, "intermediate_size": 80, "image_size": 32, "patch_size": 8}
MAE = {
    **{**VIT, "mask_ratio": 0.0},
    **{"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2},
    "decoder_intermediate_size": 16,
}
DINOV2 = {**PLAIN, "mlp_ratio": 2, "image_size": 42, "patch_size": 7}
REGISTERS_CLASSIFIER = "Dinov2WithRegistersForImageClassification"
TOWER = {key: value for key, value in VIT.items() if key != "num_labels"}
TEXT = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
SIGLIP = {"vision_config": TOWER, "text_config": TEXT, "num_labels": 7}


class Row(NamedTuple):
    """One comparison."""

    family: str
    library: str
    model: str  # class
    arguments: dict[str, Any]  # of its configuration
    image_size: tuple[int, int]  # (H, W) to run at; where it is not that of the arguments, positions are resampled


def _row(family: str, model: str, image_size: tuple[int, int], *parts: dict[str, Any]) -> Row:
    arguments: dict[str, Any] = {}
    for part in parts:
        arguments |= part
    return Row(family, "transformers", model, arguments, image_size)


ROWS = (
    _row("ViT", "ViTForImageClassification", (32, 32), VIT),
    _row("ViT", "ViTForImageClassification", (24, 56), VIT, {"image_size": [24, 56]}),
    _row("ViT", "ViTForImageClassification", (40, 64), VIT, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    _row("ViT", "ViTForImageClassification", (30, 45), VIT, {"image_size": [30, 45], "patch_size": [6, 9], "qkv_bias": False}),
    _row("ViT", "ViTForImageClassification", (32, 32), VIT, {"num_channels": 1}),
    _row("ViT with pooler", "ViTModel", (32, 32), VIT, {"pooler_output_size": 20}),
    _row("ViT with pooler", "ViTModel", (48, 24), VIT),
    _row("ViT for masked images", "ViTForMaskedImageModeling", (32, 32), VIT, {"encoder_stride": 8}),
    _row("ViT-MSN", "ViTMSNForImageClassification", (24, 48), VIT),
    _row("DeiT", "DeiTForImageClassification", (32, 32), VIT),
    _row("DeiT", "DeiTForImageClassification", (48, 40), VIT),
    _row("DeiT with two heads", "DeiTForImageClassificationWithTeacher", (32, 32), VIT),
    _row("DeiT with two heads", "DeiTForImageClassificationWithTeacher", (16, 40), VIT, {"image_size": [16, 40]}),
    _row("DeiT with pooler", "DeiTModel", (32, 32), VIT),
    _row("ViT-MAE encoder", "ViTMAEModel", (32, 32), MAE),
    _row("ViT-MAE encoder", "ViTMAEModel", (40, 24), MAE),
    _row("ViT-MAE encoder", "ViTMAEForPreTraining", (32, 32), MAE),
    _row("DINOv2", "Dinov2Model", (42, 42), DINOV2),
    _row("DINOv2", "Dinov2Model", (56, 35), DINOV2),
    _row("DINOv2 with SwiGLU", "Dinov2Model", (42, 42), DINOV2, {"use_swiglu_ffn": True}),
    _row("DINOv2 with SwiGLU", "Dinov2Model", (63, 49), DINOV2, {"use_swiglu_ffn": True, "mlp_ratio": 4}),
    _row("DINOv2 with classes", "Dinov2ForImageClassification", (42, 42), DINOV2, {"use_swiglu_ffn": True}),
    _row("DINOv2 with classes", "Dinov2ForImageClassification", (35, 70), DINOV2),
    _row("DINOv2 with registers", "Dinov2WithRegistersModel", (42, 42), DINOV2),
    _row("DINOv2 with registers", "Dinov2WithRegistersModel", (28, 63), DINOV2, {"num_register_tokens": 2}),
    _row("DINOv2 with registers", "Dinov2WithRegistersModel", (63, 28), DINOV2, {"use_swiglu_ffn": True}),
    _row("DINOv2 with registers and classes", REGISTERS_CLASSIFIER, (42, 42), DINOV2),
    _row("DINOv2 with registers and classes", REGISTERS_CLASSIFIER, (63, 28), DINOV2, {"num_register_tokens": 2}),
    _row("CLIP", "CLIPVisionModel", (32, 32), TOWER),
    _row("CLIP", "CLIPVisionModel", (24, 48), TOWER, {"hidden_act": "gelu"}),
    _row("CLIP with projection", "CLIPVisionModelWithProjection", (32, 32), TOWER, {"projection_dim": 24}),
    _row("CLIP with projection", "CLIPVisionModelWithProjection", (48, 32), TOWER, {"projection_dim": 24}),
    _row("CLIP with projection", "CLIPModel", (32, 32), {"vision_config": TOWER, "text_config": TEXT, "projection_dim": 24}),
    _row("SigLIP", "SiglipVisionModel", (32, 32), TOWER),
    _row("SigLIP", "SiglipVisionModel", (48, 40), TOWER, {"patch_size": 7, "image_size": 30}),
    _row("SigLIP", "SiglipModel", (32, 32), {"vision_config": TOWER, "text_config": {**TEXT, "projection_size": 48}}),
    _row("SigLIP with classes", "SiglipForImageClassification", (32, 32), SIGLIP),
    _row("SigLIP with classes", "SiglipForImageClassification", (24, 40), SIGLIP),
)  # fmt: skip
