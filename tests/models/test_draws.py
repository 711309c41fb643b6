"""Random numbers by what they are for: the hash itself, and that nothing depends on how a batch is cut."""

from __future__ import annotations

import torch

from vitkit.models.draws import _mix, uniform


def splitmix64(state: int) -> int:
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_hash_is_splitmix64() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the first output of the published generator for seed 0
    states = [0, 1, 2, 12345, 2**62, 2**63 - 1, -1, -(2**63)]
    got = _mix(torch.tensor(states)).tolist()
    assert [value % 2**64 for value in got] == [splitmix64(state % 2**64) for state in states]


def test_an_example_has_the_same_numbers_in_any_part_of_a_batch() -> None:
    places = torch.arange(1_000, 1_064)
    whole = uniform(3, 17, 2, places, 9)
    assert torch.equal(whole[20:40], uniform(3, 17, 2, places[20:40], 9))
    assert torch.equal(whole[:, :4], uniform(3, 17, 2, places, 4))


def test_every_part_of_the_purpose_changes_the_numbers() -> None:
    places = torch.arange(4)
    drawn = [
        uniform(*purpose, places, 50).flatten()
        for purpose in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1))
    ]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.3
            assert not torch.isclose(a, b).any()


def test_the_numbers_are_uniform_and_independent() -> None:
    numbers = uniform(5, 0, 0, torch.arange(2_000), 100)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert ((counts - 10_000).abs() < 5 * (10_000 * 0.95) ** 0.5).all()
    for a, b in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.01
