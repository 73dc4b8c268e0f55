"""An output that does not follow the cores is found by one example, and whole networks are let through."""

import pytest
import torch
from networks import IMAGE, decomposed, networks
from torch import nn

from lowrank import InputError, decompose

pytestmark = pytest.mark.usefixtures("seeded")


class Closure(nn.Module):
    """The output follows a function that holds the weight of a layer, not the layer."""

    def __init__(self):
        super().__init__()
        self.first, self.held, self.unused = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        weight = self.held.weight
        self.apply_held = lambda x: nn.functional.linear(x, weight)

    def forward(self, x, scale=1):
        return {"logits": self.apply_held(self.first(x)) * scale}


@pytest.mark.parametrize("frozen", [False, True])
def test_an_output_that_does_not_follow_the_cores_is_refused(frozen):
    plain, x = Closure().requires_grad_(not frozen), torch.randn(3, 8)
    for example in (x, (x, 2), {"x": x, "scale": 2}):
        with pytest.raises(InputError, match="the output does not follow the cores of held: .*skip") as raised:
            decompose(plain, rank_scale=0.5, example=example)
        assert "\n" not in str(raised.value)
        net = decompose(plain, rank_scale=0.5, example=example, skip="held")  # what is unused before and after is fine
        assert set(decomposed(net)) == {"first", "unused"}
    assert plain.training and all(each.requires_grad != frozen and each.grad is None for each in plain.parameters())
    with pytest.raises(InputError, match="example: the network does not take it"):
        decompose(plain, rank_scale=0.5, example=torch.randn(3, 9))


class Unfollowed(Closure):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def forward(self, x):
        return self.last(self.apply_held(x))


def test_an_output_without_a_gradient_is_said_to_tell_nothing():
    for last in (lambda x: x.argmax(-1), torch.detach, torch.Tensor.numpy, lambda x: x.tolist()):
        with pytest.warns(UserWarning, match="^example: no gradient .* unknown") as said, torch.no_grad():
            decompose(Unfollowed(lambda x, last=last: last(x.detach())), rank_scale=0.5, example=torch.randn(3, 8))
        assert len(said) == 1 and said[0].filename == __file__


@pytest.mark.filterwarnings("ignore:left as they are")
@networks
def test_an_example_finds_nothing_wrong_with_whole_networks(network):
    plain, images = network(), torch.randn(1, *IMAGE)
    with torch.inference_mode():
        net = decompose(plain, decomp="bottleneck", rank_scale=0.2, init="random", example=images.clone())
    assert net.training and plain.training
