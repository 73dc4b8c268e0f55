"""What a layer has learned, in a picture: the very weight, its singular values, the norms of what makes it."""

import numpy as np
import pytest
from torch import nn

from lowrank import decompose
from lowrank.lab.anatomy import draw_anatomy

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("decomp", ["", "tt", "tucker"])
def test_the_picture_holds_the_weight_its_singular_values_and_the_norms(decomp):
    plain = nn.Conv2d(6, 8, 3)
    layer = decompose(plain, decomp=decomp, rank_scale=0.4) if decomp else plain
    weight = layer.weight.detach().flatten(1).numpy()
    parts = [core.detach() for core in layer.cores] if decomp else [weight]
    left, middle, right = draw_anatomy(layer).axes[:3]
    np.testing.assert_allclose(left.images[0].get_array(), weight, atol=1e-6)
    dense, trained = (line.get_ydata() for line in middle.lines)
    np.testing.assert_allclose(trained, np.linalg.svd(weight, compute_uv=False), atol=1e-5)
    assert [bar.get_height() for bar in right.patches] == pytest.approx([np.linalg.norm(part) for part in parts])
    assert left.get_title() == "weight 8 x 54" and ("core" in right.get_title()) == bool(decomp)


def test_it_is_compared_with_a_random_weight_of_its_norm_the_same_every_time():
    layer = nn.Linear(12, 8)
    (first, trained), (second, _) = ([line.get_ydata() for line in draw_anatomy(layer).axes[1].lines] for _ in range(2))
    assert np.linalg.norm(first) == pytest.approx(np.linalg.norm(trained)) and np.array_equal(first, second)
    assert not np.allclose(first, trained)
