"""Work in pieces: each by one processor thread, in order, to the same digits however many threads there are."""

from __future__ import annotations

import subprocess
import sys

import torch

from vitkit.engines.threads import compute_pool, each_alone

PROGRAM = """
import sys, torch, numpy as np
torch.set_num_threads(int(sys.argv[1]))
from vitkit.bundle import Bundle
from vitkit.engines.eager import EagerEngine
from vitkit.engines.threads import each_alone
from vitkit.evals.linear import fit_probe
from vitkit.models.vit import ViTConfig, VisionTransformer
size = {"patch_size": (8, 8), "image_size": (56, 40), "num_classes": 7}
model = VisionTransformer(ViTConfig(embed_dim=96, depth=2, num_heads=3, mlp_dim=384, **size))
model.init_weights(0)
model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
images = torch.randn(5, 3, 56, 40, generator=torch.Generator().manual_seed(1))
rows = EagerEngine(model)(images)
alone = [EagerEngine(model)(image[None]) for image in images]
assert np.array_equal(rows.logits, np.concatenate([row.logits for row in alone]))
probe = fit_probe(torch.randn(300, 40, generator=torch.Generator().manual_seed(2)), torch.arange(300) % 3, 3, 0)
print(*(float(each.astype(float).sum()).hex() for each in (rows.logits, rows.features, probe.weight.numpy())))
assert torch.get_num_threads() == int(sys.argv[1])
"""


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    found = {
        subprocess.run([sys.executable, "-c", PROGRAM, str(threads)], capture_output=True, text=True, check=True).stdout
        for threads in (1, 2, 3)
    }
    assert len(found) == 1


def test_pieces_come_in_order_and_are_computed_by_one_thread_each() -> None:
    before = torch.get_num_threads()
    found = each_alone(lambda number: (number, torch.get_num_threads()), range(20))
    assert found == [(number, 1) for number in range(20)]
    assert torch.get_num_threads() == before
    assert compute_pool() is compute_pool()


def test_what_a_piece_raises_comes_out() -> None:
    try:
        each_alone(lambda number: 1 // number, [1, 0])
    except ZeroDivisionError:
        return
    raise AssertionError
