"""RePr: which filters are dropped, when, and what they come back as."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from torch import nn

from dnrlib import filters, run
from dnrlib.config import Settings
from dnrlib.filters import Dropping, RePr, orthogonal, overlap
from dnrlib.losses import Labels
from dnrlib.train import Step, train


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_epochs_are_those_of_ke():
    """S1 = 50, S2 = 10 of 200: never anything after the last epoch."""
    due = RePr().epochs(200)
    assert due == {50: True, 60: False, 110: True, 120: False, 170: True, 180: False}
    assert RePr().epochs(30) == {8: True, 9: False, 16: True, 18: False, 26: True, 27: False}
    for total in range(1, 60):
        due = RePr().epochs(total)
        assert list(due.values()) == [True, False] * (len(due) // 2)
        assert list(due) == sorted(due)
        assert all(0 < epoch < total for epoch in due)


def test_overlap_by_hand():
    """Filters along x, y and the diagonal, of any length: cosines 0, and sqrt 0.5 with the last."""
    weight = torch.tensor([[3.0, 0.0], [0.0, -0.5], [7.0, 7.0]]).view(3, 2, 1, 1)
    s = math.sqrt(0.5)
    torch.testing.assert_close(overlap(weight), torch.tensor([s, s, 2 * s]) / 3)
    # An opposite filter overlaps as much as an equal one.
    torch.testing.assert_close(overlap(torch.tensor([[1.0], [-1.0]])), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("rank", [4, 2])
def test_what_comes_back_is_in_the_null_space(rank):
    """That of scipy, also for rows that depend on each other."""
    rows = torch.randn(rank, 9, generator=seeded(), dtype=torch.float64)
    rows = torch.cat([rows, rows[: 4 - rank] * 2])
    found = orthogonal(rows, 3, seeded(1))
    assert found.shape == (3, 9)
    space = null_space(rows.numpy())
    np.testing.assert_allclose(space @ (space.T @ found.T.numpy()), found.T, atol=1e-12)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64))
    assert not torch.equal(found, orthogonal(rows, 3, seeded(2)))


def test_where_the_null_space_is_used_up_there_are_fewer():
    rows = torch.randn(7, 9, generator=seeded())
    assert orthogonal(rows, 5, seeded()).shape == (2, 9)
    assert orthogonal(torch.randn(12, 9, generator=seeded()), 5, seeded()).shape == (0, 9)


@pytest.fixture
def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 10, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 2),
    )


def begun(network, share=0.3):
    """A step of the network that has seen a batch, and its dropping."""
    dropping = Dropping(RePr(share), network, 20, seeded())
    assert dropping.due == {5: True, 6: False, 11: True, 12: False, 17: True, 18: False}
    step = Step(network, Labels(), Settings())
    step.restart(None, dropping.whole)
    batch = torch.randn(8, 1, 6, 6, generator=seeded()), torch.arange(8) % 2
    learn(step, batch)
    return step, dropping, batch


def learn(step, batch):
    step.learn(*batch)
    step.update()


def test_filters_are_dropped_by_one_ranking_and_held(network):
    step, dropping, batch = begun(network)
    scores = {name: overlap(weight) for name, weight in filters.convolutions(network).items()}
    every = torch.cat(list(scores.values()))
    dropping.after(5, step)
    # 30 % of 14 filters are 4: those with the largest scores of both layers together.
    gone = torch.cat([w.flatten(1).eq(0).all(1) for w in filters.convolutions(network).values()])
    assert gone.sum() == 4
    assert every[gone].min() >= every[~gone].max()
    for _ in range(3):
        learn(step, batch)
        now = torch.cat([w.flatten(1).eq(0).all(1) for w in filters.convolutions(network).values()])
        assert torch.equal(now, gone)
    assert network[5].weight.ne(0).all(), "the classifier has no filters"


def test_filters_come_back_orthogonal_and_are_trained_again(network):
    step, dropping, batch = begun(network, 0.5)
    before = {name: w.detach().clone() for name, w in filters.convolutions(network).items()}
    dropping.after(5, step)
    learn(step, batch)
    dropped = {name: ~kept.flatten(1)[:, 0] for name, (_, kept) in step.held.items()}
    assert sum(int(gone.sum()) for gone in dropped.values()) == 7
    stayed = {name: w.detach().clone() for name, w in filters.convolutions(network).items()}
    dropping.after(6, step)
    for name, weight in filters.convolutions(network).items():
        gone, rows = dropped[name], weight.detach().flatten(1).double()
        assert torch.equal(rows[~gone], stayed[name].flatten(1).double()[~gone])
        old = torch.cat([before[name].flatten(1)[gone], stayed[name].flatten(1)[~gone]]).double()
        free = min(int(gone.sum()), old.shape[1] - len(old))
        if free > 0:
            new = rows[gone][:free]
            assert (new @ old.T).abs().max() < 1e-6
            torch.testing.assert_close(new.norm(dim=1), torch.full((free,), 3**-0.5).double())
        # 1 x 1 filters of four channels have no room: uniform.
        bound = rows.shape[1] ** -0.5
        uniform = rows[gone][max(free, 0) :]
        assert (uniform.abs() <= bound).all()
        assert rows[gone].abs().amax(1).gt(0).all()
        momentum = step.optimiser.state[weight]["momentum_buffer"].flatten(1)
        assert (momentum[gone] == 0).all()
        assert (momentum[~gone] != 0).any()
    back = {name: w.detach().clone() for name, w in filters.convolutions(network).items()}
    learn(step, batch)
    for name, weight in filters.convolutions(network).items():
        moved = (weight != back[name]).flatten(1).any(1)
        # A ReLU may be dead.
        assert moved[dropped[name]].any() or not dropped[name].any()


def test_a_run_drops_and_ends_whole(tiny, tmp_path, monkeypatch):
    """Ten epochs: after 2 and 8 filters go, after 3 and 9 they come back."""
    seen = {}
    original = Dropping.after

    def watched(self, epoch, step):
        original(self, epoch, step)
        zero = [w.flatten(1).eq(0).all(1) for w, _ in step.held.values()]
        seen[epoch] = float(torch.cat(zero).float().mean())

    monkeypatch.setattr(Dropping, "after", watched)
    config = tiny(method="repr", epochs=10)
    (record,) = run.run(config, tmp_path)
    assert [epoch for epoch, share in seen.items() if share] == [2, 8]
    assert seen[2] == pytest.approx(0.3, abs=0.01)
    assert record["stage"] == {"Generation": {"dropping": {"RePr": {}}}}
    (plain,) = run.run(tiny(method="plain", epochs=10), tmp_path)
    assert record["result"]["curve"][:2] == plain["result"]["curve"][:2]
    assert record["result"]["curve"][2] != plain["result"]["curve"][2]


def test_settings_without_momentum_work(network):
    dropping = Dropping(RePr(), network, 20, seeded())
    step = Step(network, Labels(), Settings(momentum=0.0))
    batches = [(torch.randn(4, 1, 6, 6, generator=seeded()), torch.arange(4) % 2)]
    train(
        network,
        batches,
        20,
        step=step,
        held=dropping.whole,
        after=lambda epoch: dropping.after(epoch, step),
    )
    assert all(w.flatten(1).ne(0).any(1).all() for w in filters.convolutions(network).values())
