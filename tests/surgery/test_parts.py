"""Nothing in silence: what cannot be decomposed is left, said, and listed with its reason; what is tied stays tied."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lowrank import InputError, decompose, densify, summary
from lowrank.layers import SUPPORTED, Decomposed, DecomposedConv2d, DecomposedLinear, support

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def decomposed(net: nn.Module) -> list[str]:
    return [name for name, layer in net.named_modules() if isinstance(layer, Decomposed)]


class LoRA(nn.Linear):
    """A forward of its own."""

    def __init__(self, inputs, outputs, rank=2):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(rank, inputs)), nn.Parameter(torch.randn(outputs, rank))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


class Standardised(nn.Conv2d):
    """A convolution with a standardised weight, as in timm."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def replaced(layer):
    layer.forward = functools.partial(nn.functional.linear, weight=layer.weight, bias=layer.bias)
    return layer


LEFT = {  # what is made, and the reason that stands in the warning, the error and the table
    "weight_norm, parametrized": (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), "parametrized by WeightNorm"),
    "spectral_norm, parametrized": (lambda: parametrizations.spectral_norm(nn.Linear(8, 8)), "by SpectralNorm"),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(8, 8)), "parametrized by Orthogonal"),
    "weight_norm": (lambda: weight_norm(nn.Linear(8, 8)), "made anew at each call by WeightNorm"),
    "spectral_norm": (lambda: spectral_norm(nn.Linear(8, 8)), "made anew at each call by SpectralNorm"),
    "prune": (lambda: prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), "made anew at each call by pruning"),
    "a LoRA layer": (
        lambda: LoRA(8, 8),
        r"LoRA, which computes in a way of its own: lowrank.layers.support\(LoRA, ...\)",
    ),
    "another forward": (lambda: replaced(nn.Linear(8, 8)), "its forward was replaced"),
    "a grouped convolution": (lambda: nn.Conv1d(8, 8, 1, groups=4), "grouped"),
    "complex": (lambda: nn.Linear(8, 8, dtype=torch.complex64), "of torch.complex64"),
    "of size 0": (lambda: nn.Linear(8, 0), "of size 0"),
    "LSTM": (lambda: nn.LSTM(8, 8), "LSTM"),
    "GRU": (lambda: nn.GRU(8, 8), "GRU"),
    "Embedding": (lambda: nn.Embedding(8, 8), "Embedding"),
    "Bilinear": (lambda: nn.Bilinear(8, 8, 8), "Bilinear"),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2), "MultiheadAttention"),
    "a parameter": (lambda: nn.ParameterList([torch.zeros(3, 3)]), "ParameterList"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_cannot_be_decomposed_is_left_said_and_listed(kind):
    make, reason = LEFT[kind]
    plain = nn.ModuleDict({"left": make(), "taken": nn.Linear(8, 8)})
    with pytest.warns(UserWarning, match=f"^left as they are: left.*{reason}") as said:
        net = decompose(plain, rank_scale=0.5)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert "taken" in decomposed(net) and "left" not in decomposed(net)
    weights = sum(each.numel() for each in plain.left.parameters() if each.dim() > 1)
    for table in (summary(plain), summary(net)):
        rows = table[table.index.str.startswith("left")]
        assert rows.left.str.contains(reason).any() and rows.weights.sum() == weights
    for name, value in plain.left.state_dict().items():
        if not name.startswith("out_proj"):
            torch.testing.assert_close(net.left.state_dict()[name], value)


@pytest.mark.parametrize("kind", [kind for kind in LEFT if kind != "MultiheadAttention"])  # its last layer can be
def test_a_network_of_only_these_is_refused_with_the_reason(kind):
    make, reason = LEFT[kind]
    with pytest.raises(InputError, match=f"there is nothing to decompose; left: .*{reason}") as raised:
        decompose(nn.ModuleDict({"left": make()}), rank_scale=0.5)
    assert "\n" not in str(raised.value) and "skip" not in str(raised.value)


def test_what_holds_no_weight_or_is_no_module_is_refused():
    for module, message in (
        (nn.ReLU(), "nothing to decompose in a module without weights"),
        ([], "module=list; allowed"),
    ):
        with pytest.raises(InputError, match=message):
            decompose(module, rank_scale=0.5)


def test_what_is_skipped_or_not_asked_for_is_not_warned_of():
    plain = nn.ModuleDict({"embed": nn.Embedding(8, 8), "rnn": nn.LSTM(8, 8), "fc": nn.Linear(8, 8)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decompose(plain, rank_scale=0.5, skip=["embed", nn.LSTM])
        decompose(plain, rank_scale=0.5, only="fc")


def test_many_of_one_reason_are_shortened():
    plain = nn.Sequential(*[nn.Embedding(4, 4) for _ in range(9)], nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"0, 1, 2 and 6 more \(Embedding\)"):
        decompose(plain, rank_scale=0.5)


def test_a_type_whose_forward_is_known_can_be_registered():
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    plain = nn.Sequential(Mine(12, 8))
    with pytest.raises(InputError, match="Mine, which computes in a way of its own"):
        decompose(plain, rank_scale=0.5)
    support(Mine, DecomposedLinear)
    try:
        net = decompose(plain, rank_scale=1, dims=2)
        assert decomposed(net) == ["0"] and type(densify(net)[0]) is Mine
        x = torch.randn(3, 12)
        torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-4)
    finally:
        del SUPPORTED[Mine]
    with pytest.raises(InputError, match="decomposed=<class .*Linear'>; allowed: a subclass of Decomposed"):
        support(Mine, nn.Linear)


def test_a_subclass_that_computes_as_its_base_does_is_known():
    class Named(nn.Conv3d):
        """As torchvision's Conv3DSimple."""

        def __init__(self, planes):
            super().__init__(3, planes, 1)

        @staticmethod
        def stride_of(stride):
            return stride

    plain, x = Named(8), torch.randn(2, 3, 4, 4, 4)
    net = decompose(plain, dims=2, rank_scale=1)
    assert type(densify(net)) is Named and isinstance(net, Decomposed)
    torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-4)


def test_what_a_module_keeps_of_a_forward_pass_does_not_stop_it():
    plain = nn.Sequential(nn.Linear(4, 4))
    plain.cache = {"cpu": plain[0](torch.randn(2, 4))}
    assert decomposed(decompose(plain, rank_scale=0.5)) == ["0"]


# --- tied weights


class Language(nn.Module):
    """An embedding and a head of one weight, and two linear layers of another."""

    def __init__(self, head=True):
        super().__init__()
        self.embed, self.one, self.two = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.two.weight = self.one.weight
        if head:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.two(torch.relu(self.one(self.embed(tokens)))))


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("decomp", ["bottleneck", "tt", "cp"])
def test_layers_of_one_weight_are_layers_of_the_same_cores(decomp):
    plain, tokens = Language(), torch.randint(20, (3, 5))
    with pytest.warns(UserWarning, match=r"head \(tied to embed \(Embedding\)\)"):
        net = decompose(plain, decomp=decomp, budget=0.5)
    assert decomposed(net) == ["one", "two"] and net.head.weight is net.embed.weight
    assert all(a is b for a, b in zip(net.one.cores, net.two.cores, strict=True))
    assert net.one.bias is not net.two.bias and parameters(net) <= parameters(plain)
    dense = densify(net)
    assert dense.one.weight is dense.two.weight and parameters(dense) == parameters(plain)
    torch.testing.assert_close(dense(tokens), net(tokens), rtol=1e-4, atol=1e-5)
    for each in (plain, net, dense):
        table = summary(each)
        counted = sum(parameter.numel() for parameter in each.parameters() if parameter.dim() > 1)
        assert table.parameters.sum() == counted and table.left["two"] == "tied to one"


def test_a_layer_tied_to_one_that_is_skipped_stays_with_it():
    with pytest.warns(UserWarning, match=r"one \(tied to two \(Linear\)\)"):
        net = decompose(Language(head=False), rank_scale=0.5, skip=["two", "embed"])
    assert decomposed(net) == ["head"] and net.one.weight is net.two.weight


def test_a_weight_that_layers_use_in_different_ways_is_left():
    plain = nn.Sequential(nn.Conv1d(8, 8, 1), nn.ConvTranspose1d(8, 8, 1), nn.Conv1d(8, 8, 1))
    plain[1].weight = plain[0].weight
    with pytest.warns(UserWarning, match=r"0 \(tied to 1 \(ConvTranspose1d\)\); 1 \(tied to 0 \(Conv1d\)\)"):
        net = decompose(plain, rank_scale=0.5)
    assert decomposed(net) == ["2"] and net[0].weight is net[1].weight


# --- what is not ready


@pytest.mark.parametrize(
    "layer, message",
    [
        (lambda: nn.LazyLinear(4), "lazy: let the network see an input first"),
        (lambda: nn.LazyConv2d(4, 3), "lazy: let the network see an input first"),
        (lambda: filled(nn.Linear(6, 4), float("nan")), "its weight holds NaN, infinite or far too large numbers"),
        (lambda: filled(nn.Conv2d(6, 4, 1), float("inf")), "its weight holds NaN, infinite or far too large numbers"),
        (lambda: filled(nn.Linear(6, 4), 1e25), "its weight holds NaN, infinite or far too large numbers"),
    ],
)
@pytest.mark.parametrize("init", ["weights", "random"])
def test_a_layer_that_is_not_ready_is_named(layer, message, init):
    plain = nn.ModuleDict({"fine": nn.Linear(6, 4), "culprit": layer()})
    with pytest.raises(InputError, match=f"^culprit.*{message}") as raised:
        decompose(plain, rank_scale=0.5, init=init)
    assert "\n" not in str(raised.value)
    assert decomposed(decompose(plain, rank_scale=0.5, init=init, skip="culprit")) == ["fine"]
    summary(plain)


def filled(layer: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        layer.weight[0] = value
    return layer


# --- which layers, and how large


def several() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 10))


@pytest.mark.parametrize(
    "choice, names",
    [
        ({"only": "0"}, ["0"]),
        ({"only": ["0", "4"]}, ["0", "4"]),
        ({"only": nn.Linear}, ["3", "4"]),
        ({"only": [nn.Linear, "0"], "skip": "3"}, ["0", "4"]),
        ({"only": lambda name, layer: layer.weight.numel() > 150}, ["0", "1", "3"]),
        ({"skip": [nn.Linear]}, ["0", "1"]),
        ({"skip": lambda name, layer: name in "03"}, ["1", "4"]),
        ({"skip": (nn.Conv2d, "3")}, ["4"]),
    ],
)
def test_layers_are_chosen_by_pattern_type_or_function(choice, names):
    assert decomposed(decompose(several(), rank_scale=0.5, **choice)) == names


def size(net: nn.Module, *names: str) -> float:
    """The share that these layers have of their weights."""
    table = summary(net).loc[list(names)]
    return table.parameters.sum() / table.weights.sum()


@pytest.mark.parametrize("decomp", ["bottleneck", "tt", "tucker", "cp", "ring"])
def test_budgets_by_hand(decomp):
    net = decompose(several(), decomp=decomp, budgets={"1": 0.2, "[01]": 0.6}, budget=0.5)
    assert 0.1 < size(net, "1") <= 0.2 < 0.4 < size(net, "0") <= 0.6 and 0.4 < size(net, "3", "4") <= 0.5
    assert decomposed(decompose(several(), decomp=decomp, budgets={"1": 0.2})) == ["1"]


def test_ranks_by_hand():
    net = decompose(several(), decomp="bottleneck", ranks={"0": 3, "3": (5,), "4": 100})
    assert [net[k].layout.ranks for k in (0, 3, 4)] == [(3,), (5,), (5,)] and decomposed(net) == ["0", "3", "4"]
    net = decompose(several(), decomp="tucker", dims=4, ranks={"1": (2, 3, 2, 4)}, budget=0.5)
    assert net[1].layout.ranks == (2, 3, 2, 4) and size(net, "0", "3", "4") <= 0.5


@pytest.mark.parametrize("decomp", ["bottleneck", "cp", "tt", "tucker", "tucker_tt", "ring"])
def test_a_budget_of_all_takes_the_largest_that_is_of_use(decomp):
    net = decompose(several(), decomp=decomp, budget=1.0, init="random")
    assert 0.8 < size(net, "0", "1", "3", "4") <= 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget": "0.1"}, "budget='0.1'; allowed"),
        ({"budget": True}, "budget=True"),
        ({"rank_scale": [0.5]}, r"rank_scale=\[0.5\]"),
        ({"budgets": {"0": 2}}, r"budgets={'0': 2}; allowed: numbers above 0 and up to 1"),
        ({"budgets": {"9": 0.5}}, "budgets='9' names no layer of 0, 1, 3, 4"),
        ({"ranks": {"0": 0}}, r"ranks=0; bottleneck takes 1 to \(10,\) for modes"),
        ({"ranks": {"0": (1, 2)}}, r"ranks=\(1, 2\); bottleneck takes 1 to \(10,\)"),
        ({"ranks": {"0": (99,)}}, r"ranks=\(99,\)"),
        ({"ranks": {"0": 2.5}}, r"ranks=2.5"),
        ({"ranks": "8"}, "ranks='8'; bottleneck takes 1 to"),
        ({"budgets": 0.5}, r"budgets=0.5; allowed: .*pattern"),
        ({"only": "9", "budget": 0.5}, "only='9' names no layer; there are 0, 1, 3, 4"),
        ({"skip": [3], "budget": 0.5}, "skip=3; allowed: patterns of names, types, functions"),
        ({"skip": 3, "budget": 0.5}, "skip=3; allowed: patterns of names, types, functions"),
        ({"skip": nn.LSTM, "budget": 0.5}, "skip=<class .*LSTM'> names no layer"),
    ],
)
def test_a_wrong_choice_gets_one_line(options, message):
    with pytest.raises(InputError, match=message) as raised:
        decompose(several(), decomp="bottleneck", **options)
    assert "\n" not in str(raised.value)


# --- the table, of real inputs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_summary_takes_networks_of_any_precision(dtype):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    expected = summary(net, (3, 8, 8)).multiply_adds.tolist()
    assert summary(net.to(dtype), (3, 8, 8)).multiply_adds.tolist() == expected == [36 * 216, 36 * 32]


def test_the_summary_takes_inputs_of_any_kind():
    class Both(Language):
        def forward(self, tokens, *, mask):
            return super().forward(tokens) * mask

    tokens = torch.randint(20, (3, 5))
    expected = [0, 15 * 256, 15 * 256, 15 * 320]
    assert summary(Language(), example=tokens).multiply_adds.tolist() == expected
    assert summary(Language(), example=(tokens,)).multiply_adds.tolist() == expected
    assert summary(Both(), example={"tokens": tokens, "mask": 1}).multiply_adds.tolist() == expected
    with pytest.raises(InputError, match=r"image=\(5,\), without example=: the network does not take it"):
        summary(nn.Sequential(nn.Embedding(20, 4)), (5,))
    with pytest.raises(InputError, match="example: the network does not take it") as raised:
        summary(Language(), example=torch.randn(3))
    assert "\n" not in str(raised.value)


def test_the_summary_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 4)).eval())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    summary(net, example=torch.randn(3, 4))
    assert [layer.training for layer in net] == [True, True, False] and not net[0]._forward_hooks
    torch.testing.assert_close(dict(net.state_dict()), before)


def test_a_transposed_convolution_is_counted_where_it_takes_its_input():
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False))
    assert summary(net, (4, 5, 5)).multiply_adds.tolist() == [25 * 4 * 6 * 4]
    net = decompose(net, decomp="bottleneck", ranks={"0": 2}, contraction="factors")
    assert summary(net, (4, 5, 5)).multiply_adds.tolist() == [25 * 4 * 2 * 4 + 100 * 2 * 6]
    assert isinstance(net[0], Decomposed) and not isinstance(net[0], DecomposedConv2d)
