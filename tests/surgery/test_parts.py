"""Nothing in silence: what cannot be decomposed is left, said, and listed with its reason; what is tied stays tied."""

import functools
import threading
import warnings

import pytest
import torch
from networks import Language, decomposed, decomposed_names, several, small
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import lowrank
from lowrank import InputError, decompose, densify, summary
from lowrank.layers import separable
from lowrank.network import cifar_network

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
]


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


class Scaling(nn.Linear):
    def scaled(self, x):
        return 2 * self(x)


LEFT = {  # what is made, and the reason that stands in the warning, the error and the table
    "weight_norm, parametrized": (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), "parametrized by WeightNorm"),
    "spectral_norm, parametrized": (lambda: parametrizations.spectral_norm(nn.Linear(8, 8)), "by SpectralNorm"),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(8, 8)), "parametrized by Orthogonal"),
    "weight_norm": (lambda: weight_norm(nn.Linear(8, 8)), "made anew at each call by WeightNorm"),
    "spectral_norm": (lambda: spectral_norm(nn.Linear(8, 8)), "made anew at each call by SpectralNorm"),
    "prune": (lambda: prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), "made anew at each call by pruning"),
    "a LoRA layer": (
        lambda: LoRA(8, 8),
        r"LoRA, which has methods or attributes of its own: lowrank.layers.support\(LoRA, ...\)",
    ),
    "a method": (
        lambda: Scaling(8, 8),
        r"Scaling, which has methods or attributes of its own: lowrank.layers.support\(Scaling",
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
    assert "taken" in decomposed_names(net) and "left" not in decomposed_names(net)
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


def test_what_a_module_keeps_of_a_forward_pass_does_not_stop_it():
    plain = nn.Sequential(nn.Linear(4, 4))
    plain.cache = {"cpu": plain[0](torch.randn(2, 4))}
    assert decomposed_names(decompose(plain, rank_scale=0.5)) == ["0"]


# --- tied weights


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("decomp", ["bottleneck", "tt", "cp"])
def test_layers_of_one_weight_are_layers_of_the_same_cores(decomp):
    plain, tokens = Language(), torch.randint(20, (3, 5))
    with pytest.warns(UserWarning, match=r"head \(tied to embed \(Embedding\)\)"):
        net = decompose(plain, decomp=decomp, budget=0.5)
    assert decomposed_names(net) == ["one", "two"] and net.head.weight is net.embed.weight
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
    assert decomposed_names(net) == ["head"] and net.one.weight is net.two.weight


def test_a_weight_that_layers_use_in_different_ways_is_left():
    plain = nn.Sequential(nn.Conv1d(8, 8, 1), nn.ConvTranspose1d(8, 8, 1), nn.Conv1d(8, 8, 1))
    plain[1].weight = plain[0].weight
    with pytest.warns(UserWarning, match=r"0 \(tied to 1 \(ConvTranspose1d\)\); 1 \(tied to 0 \(Conv1d\)\)"):
        net = decompose(plain, rank_scale=0.5)
    assert decomposed_names(net) == ["2"] and net[0].weight is net[1].weight


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
    assert decomposed_names(decompose(plain, rank_scale=0.5, init=init, skip="culprit")) == ["fine"]
    summary(plain)


def filled(layer: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        layer.weight[0] = value
    return layer


# --- which layers


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
    assert decomposed_names(decompose(several(), rank_scale=0.5, **choice)) == names


def test_grouped_convolutions_are_left_and_said_so():
    net = nn.Sequential(separable(8, 16), nn.Conv2d(16, 16, 1, groups=2))
    with pytest.warns(UserWarning, match=r"left as they are: 0\.depthwise, 1 \(grouped\)") as said:
        net = decompose(net, decomp="tt", rank_scale=0.5)
    assert said[0].filename == __file__  # the line that has called it
    assert list(decomposed(net)) == ["0.pointwise"]
    assert list(summary(net).decomp) == ["grouped", "tt", "grouped"]


def test_skip_leaves_layers_by_pattern_and_counts_no_budget_for_them():
    plain = cifar_network(8, 10, separable)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # grouped ones that are skipped need no warning
        net = decompose(plain, decomp="tt", budget=0.3, skip=["first", "*depthwise", "head"])
    pointwise = summary(net)[lambda table: table.index.str.endswith("pointwise")]
    assert set(decomposed(net)) == set(pointwise.index[pointwise.decomp == "tt"])
    assert pointwise.parameters.sum() <= 0.3 * pointwise.weights.sum()


def test_what_is_decomposed_already_is_left():
    once = decompose(small(), decomp="tt", rank_scale=0.5, skip="6")
    twice = decompose(once, decomp="cp", rank_scale=0.5)
    assert [layer.layout.decomp for layer in decomposed(twice).values()] == ["tt", "tt", "cp"]


@pytest.mark.parametrize("argument", ["only", "skip"])
@pytest.mark.parametrize("wrong", [lambda name: True, lambda: True, 5, nn.Linear(2, 2)])
def test_what_selects_no_layers_is_refused_with_its_argument(argument, wrong):
    with pytest.raises(
        InputError, match=f"^{argument}=.*; allowed: patterns of names, types, functions of a name and a"
    ):
        decompose(nn.Sequential(nn.Linear(8, 8)), budget=0.5, **{argument: wrong})


def test_a_module_that_cannot_be_copied_is_one_line():
    net = nn.Sequential(nn.Linear(8, 8))
    net.lock = threading.Lock()
    with pytest.raises(InputError, match="^module=Sequential: it cannot be copied .*lock"):
        decompose(net, budget=0.5)


def test_what_is_skipped_is_said_until_it_is_taken():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Embedding(3, 4))
    for choice, left in (({"skip": "0"}, ["skipped", ""]), ({"only": "0"}, ["", "skipped"]), ({}, ["", ""])):
        net = decompose(lowrank.densify(net), budget=0.9, **choice)
        assert summary(net).left.tolist()[:2] == left and summary(net).left["2"] != "skipped"


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_parameters_which_no_copy_has_are_named(register):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    getattr(net[1].weight, register)(lambda each: None)
    net[1].weight.no_decay = True
    line = "^hooks of parameters stay with the module, its copy has none: 1.weight$"
    with pytest.warns(UserWarning, match=line) as said:
        small = decompose(net, rank_scale=0.5)
    assert said[0].filename == __file__
    assert all(core.no_decay for core in small[1].cores) and densify(small)[1].weight.no_decay
