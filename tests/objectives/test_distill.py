"""Distillation: both kinds by their formulas, and which head learns from whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vitkit.config import UserError
from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.distill import Distill

TINY = ViTConfig(embed_dim=32, depth=1, num_heads=2, mlp_dim=64, patch_size=(4, 4), image_size=(8, 8), num_classes=5)


def model(seed: int, **changes: object) -> VisionTransformer:
    made = VisionTransformer(ViTConfig(**{**vars(TINY), **changes}))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made.eval()


def batch() -> Batch:
    generator = torch.Generator().manual_seed(9)
    return Batch(torch.randn(6, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0]))


def test_a_hard_teachers_answer_is_a_label() -> None:
    student, teacher, b = model(1), model(2), batch()
    z, t = student(b.images), teacher(b.images)
    expected = 0.7 * F.cross_entropy(z, b.labels) + 0.3 * F.cross_entropy(z, t.argmax(1))
    assert torch.isclose(Distill(teacher, weight=0.3).loss(student, b), expected)


def test_a_soft_teachers_distribution_is_the_target() -> None:
    student, teacher, b = model(1), model(2), batch()
    p, q = (torch.softmax(m(b.images) / 3, 1) for m in (teacher, student))
    divergence = (p * (p / q).log()).sum(1).mean() * 9
    expected = 0.5 * F.cross_entropy(student(b.images), b.labels, label_smoothing=0.1) + 0.5 * divergence
    distill = Distill(teacher, kind="soft", temperature=3.0, smoothing=0.1)
    assert torch.isclose(distill.loss(student, b), expected)
    assert Distill(student, kind="soft", weight=1.0).loss(student, b).item() == pytest.approx(0, abs=1e-6)


def test_of_a_distilled_model_each_head_has_its_own_teacher() -> None:
    student, teacher, b = model(1, registers=1, distilled=True), model(2), batch()
    own, taught = student.both_heads(student.forward_features(b.images))
    assert torch.allclose((own + taught) / 2, student(b.images))
    expected = 0.5 * F.cross_entropy(own, b.labels) + 0.5 * F.cross_entropy(taught, teacher(b.images).argmax(1))
    loss = Distill(teacher).loss(student, b)
    assert torch.isclose(loss, expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.head_dist is not None
    assert student.head_dist.weight.grad is not None


def test_mixed_labels_are_shares_of_classes() -> None:
    student, teacher, b = model(1), model(2), batch()
    shares = F.one_hot(b.labels, 5).float() * 0.8 + 0.2 / 5
    z = student(b.images)
    expected = -0.5 * (shares * F.log_softmax(z, 1)).sum(1).mean() + 0.5 * F.cross_entropy(
        z, teacher(b.images).argmax(1)
    )
    assert torch.isclose(Distill(teacher).loss(student, b._replace(labels=shares)), expected)


def test_the_teacher_sees_images_as_it_was_trained_with() -> None:
    student, teacher, b = model(1), model(2), batch()
    rescale = torch.tensor([[2.0, 1.0, 0.5], [0.1, 0.0, -0.3]])
    seen = b.images * rescale[0][:, None, None] + rescale[1][:, None, None]
    expected = F.cross_entropy(student(b.images), teacher(seen).argmax(1))
    assert torch.isclose(Distill(teacher, weight=1.0, rescale=rescale).loss(student, b), expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="distillation is 'firm'; known: hard, soft"):
        Distill(model(2), kind="firm")
    with pytest.raises(UserError, match=r"weight must be in \[0, 1\] and temperature above 0"):
        Distill(model(2), temperature=0)
    with pytest.raises(UserError, match="the teacher's num_classes is 7 and the student's 5"):
        Distill(model(2, num_classes=7)).check(model(1))
    Distill(model(2)).check(model(1))
