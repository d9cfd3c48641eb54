"""Laws of bound conditions: rows and copies are the batch's, and what is withheld is nowhere to be seen."""

import dataclasses

import pytest
import torch
from torch import Tensor

from flowse.model.conditions import Bound, Conditions
from flowse.model.dit import DiT
from flowse.model.spec import DiTConfig

CONFIG = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
Y, X, PREDICTED = torch.randn(3, 4, 20, 100, generator=torch.Generator().manual_seed(0)).unbind(0)
MASK = torch.arange(20) < torch.tensor([[20], [12], [7], [20]])
IDS = torch.randint(1, 6, (4, 20), generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.1, 0.4, 0.6, 0.9])


def _network(conditions: int) -> DiT:
    network = DiT(CONFIG, 100, 5, conditions=conditions).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


KINDS = {
    "velocity": (1, Conditions(Y, MASK, IDS)),
    "data": (1, Conditions(Y, MASK, IDS, predicts="data")),
    "refined": (2, Conditions(Y, MASK, IDS, predicted=PREDICTED, predicts="data")),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_and_copies_are_those_of_the_batch(kind: str) -> None:
    count, conditions = KINDS[kind]
    network = _network(count)
    whole = Bound(network, conditions)(X, T)
    rows = torch.tensor([2, 0])
    assert torch.allclose(Bound(network, conditions.rows(rows))(X[rows], T[rows]), whole[rows], atol=1e-5)
    twice = Bound(network, conditions.repeated(2))(X.repeat(2, 1, 1), T.repeat(2))
    assert torch.allclose(twice, whole.repeat(2, 1, 1), atol=1e-5)
    assert conditions.repeated(1) is conditions


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_null_branch_sees_nothing_of_what_is_withheld(kind: str) -> None:
    count, conditions = KINDS[kind]
    network = _network(count)

    def estimate(of: Conditions) -> Tensor:
        return Bound(network, of.withheld())(X, T)

    changed = dataclasses.replace(conditions, y=Y + 1, text_ids=IDS.flip(1))
    if conditions.predicted is not None:
        changed = dataclasses.replace(changed, predicted=PREDICTED - 1)
    assert torch.equal(estimate(conditions), estimate(changed))
    some = torch.tensor([True, False, False, True])
    mixed = Bound(network, conditions.withheld(some))(X, T)
    assert torch.allclose(mixed[some], estimate(conditions)[some], atol=1e-5)
    assert torch.allclose(mixed[~some], Bound(network, conditions)(X, T)[~some], atol=1e-5)


@torch.no_grad()
def test_text_encoded_once_and_one_time_for_all_give_the_same() -> None:
    network, conditions = _network(1), Conditions(Y, MASK, IDS)
    t = torch.full((4,), 0.3)
    whole = Bound(network, conditions)(X, t)
    encoded = conditions.encoded(network)
    assert torch.equal(Bound(network, encoded)(X, t), whole)
    assert torch.allclose(Bound(network, encoded)(X, t[:1]), whole, atol=1e-5)
    rows = torch.tensor([1, 1, 3])
    assert torch.allclose(Bound(network, encoded.rows(rows))(X[rows], t[:1]), whole[rows], atol=1e-5)
