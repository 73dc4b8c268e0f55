"""Layers: a decomposed layer is the dense layer with the weight that its cores make, and it survives what users do."""

import copy
import pickle
from itertools import product
from string import ascii_lowercase, ascii_uppercase

import pytest
import tltorch
import tntorch
import torch
import torch.fx
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lowrank import InputError, assign, decompose
from lowrank.formats import FORMATS, Layout, fold, solve
from lowrank.layers import Decomposed, DecomposedConv2d

kinds = pytest.mark.parametrize("decomp", FORMATS)
contractions = pytest.mark.parametrize("contraction", ["factors", "weight"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def filled(layer: Decomposed) -> Decomposed:
    with torch.no_grad():
        for core in layer.cores:
            core.normal_(std=core.shape[-1] ** -0.5)
    return layer


def convolution(decomp, outputs=12, inputs=10, kernel=1, dims=4, scale=0.4, contraction="auto", **geometry):
    layout = solve(decomp, [fold(outputs, inputs, dims, kernel**2)], rank_scale=scale)[0]
    return filled(DecomposedConv2d(nn.Conv2d(inputs, outputs, kernel, **geometry), layout, contraction))


def network(decomp: str, dims: int = 3) -> nn.Module:
    """Convolutions, decomposed (one of each contraction) and grouped, and a linear layer: [B, 4, 8, 8] -> [B, 5]."""
    net = nn.Sequential(
        nn.Conv2d(4, 12, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 18, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(18, 5),
    )
    options = {"decomp": decomp, "dims": dims, "rank_scale": 0.5, "init": "random"}
    net = decompose(net, contraction="factors", skip=["3", "4"], **options)
    return decompose(net, contraction="weight", skip=["3"], **options).eval()


# --- the weight that the cores make


def einsum(layout: Layout, cores) -> torch.Tensor:
    """The weight by the definition of the format, in the cores' precision: [O, I]."""
    dims, bonds, modes, ranks = len(layout.folding.modes), ascii_lowercase, ascii_uppercase, ascii_lowercase[::-1]
    train = ",".join(bonds[k] + modes[k] + bonds[k + 1] for k in range(dims))
    expression = {
        "bottleneck": "Az,zB",
        "tt": train,
        "ring": train[:-1] + "a",
        "cp": ",".join(mode + "z" for mode in modes[:dims]),
        "tucker": ",".join([ranks[:dims], *(modes[k] + ranks[k] for k in range(dims))]),
        "tucker_tt": ",".join(
            [modes[k] + ranks[k] for k in range(dims)] + [bonds[k] + ranks[k] + bonds[k + 1] for k in range(dims)]
        ),
    }[layout.decomp]
    axes = "AB" if layout.decomp == "bottleneck" else modes[:dims]
    return torch.einsum(f"{expression}->{axes}", *cores).reshape(layout.folding.outputs, -1)


@kinds
@pytest.mark.parametrize("rank_rule", ["useful", "original"])
def test_the_weight_is_the_formats_definition(decomp, rank_rule):
    for dims, (outputs, inputs, kernel) in product([2, 3, 5], [(12, 10, 3), (7, 1, 1), (1, 13, 1), (30, 64, 1)]):
        for scale in (1e-9, 0.3, 1):
            folding = fold(outputs, inputs, dims, kernel**2, rank_rule)
            layout = solve(decomp, [folding], rank_scale=scale, rank_rule=rank_rule)[0]
            layer = filled(DecomposedConv2d(nn.Conv2d(inputs, outputs, kernel), layout))
            defined = einsum(layout, [core.double() for core in layer.cores]).reshape(layer.weight.shape)
            torch.testing.assert_close(layer.weight, defined.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decomp", ["tt", "tucker", "tucker_tt", "cp"])
def test_the_weight_is_tntorchs(decomp):
    layer = convolution(decomp, kernel=3)
    cores, dims = [core.detach() for core in layer.cores], 4
    tensor = {
        "tt": lambda: tntorch.Tensor(cores),
        "cp": lambda: tntorch.Tensor(cores),
        "tucker_tt": lambda: tntorch.Tensor(cores[dims:], Us=cores[:dims]),
        "tucker": lambda: tntorch.Tensor(tntorch.Tensor(cores[0]).cores, Us=cores[1:]),
    }[decomp]()
    torch.testing.assert_close(layer.weight, tensor.torch().reshape(layer.weight.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decomp", ["tt", "tucker", "cp"])
def test_the_weight_is_tensorly_torchs(decomp):
    layer = convolution(decomp, kernel=3)
    cores = list(layer.cores)
    tensor = {
        "tt": lambda: tltorch.TTTensor(cores),
        "cp": lambda: tltorch.CPTensor(torch.ones(layer.layout.ranks[0]), cores),
        "tucker": lambda: tltorch.TuckerTensor(cores[0], cores[1:]),
    }[decomp]()
    torch.testing.assert_close(layer.weight, tensor.to_tensor().reshape(layer.weight.shape), rtol=1e-4, atol=1e-5)


# --- forward and backward


GEOMETRIES = [
    {"kernel": 1},
    {"kernel": 1, "stride": 2, "bias": False},
    {"kernel": 3, "padding": 1},
    {"kernel": 3, "padding": "same", "dilation": 2},
    {"kernel": 3, "padding": (2, 1), "stride": (1, 2), "padding_mode": "reflect"},
    {"kernel": 2, "padding": "same", "padding_mode": "circular", "bias": False},
    {"kernel": 7, "padding": "valid", "stride": 3},
]


@kinds
@contractions
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_is_the_dense_one_with_its_weight(decomp, contraction, geometry):
    layer = convolution(decomp, contraction=contraction, **geometry)
    plain = nn.Conv2d(10, 12, geometry["kernel"], **{k: v for k, v in geometry.items() if k != "kernel"})
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
    x = torch.randn(2, 10, 9, 11)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.dense()(x), plain(x), rtol=1e-4, atol=1e-4)


@contractions
@pytest.mark.parametrize("leading", [(3,), ()], ids=["batch", "one image"])
def test_a_pointwise_convolution_of_many_weights_is_the_dense_one(contraction, leading):
    """On a CPU it is another product, in channels_last: the values, the memory format and vmap see no difference."""
    layer = convolution("bottleneck", 288, 288, scale=1.0, contraction=contraction)
    plain = layer.dense()
    x = torch.randn(*leading, 5, 4, 288).movedim(-1, -3)  # channels_last
    assert layer(x).stride() == x.stride()
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x.contiguous()), plain(x), rtol=1e-4, atol=1e-4)
    several = torch.stack([x, x + 1])
    torch.testing.assert_close(torch.func.vmap(layer)(several)[1], plain(x + 1), rtol=1e-4, atol=1e-4)


def shape(axes: int, *sides: int) -> tuple[int, ...]:
    """As many sides as there are axes."""
    return sides[:axes]


KINDS = {
    "Conv1d": (lambda **options: nn.Conv1d(10, 12, **options), 1),
    "Conv2d": (lambda **options: nn.Conv2d(10, 12, **options), 2),
    "Conv3d": (lambda **options: nn.Conv3d(10, 12, **options), 3),
    "ConvTranspose1d": (lambda **options: nn.ConvTranspose1d(10, 12, **options), 1),
    "ConvTranspose2d": (lambda **options: nn.ConvTranspose2d(10, 12, **options), 2),
    "ConvTranspose3d": (lambda **options: nn.ConvTranspose3d(10, 12, **options), 3),
}


@pytest.mark.parametrize("name", KINDS)
@kinds
@contractions
def test_convolutions_of_any_dimension_are_the_dense_ones(name, decomp, contraction):
    make, axes = KINDS[name]
    x = torch.randn(2, 10, *shape(axes, 5, 6, 4))
    for options in (
        {"kernel_size": 1},
        {"kernel_size": shape(axes, 3, 2, 2), "stride": shape(axes, 2, 1, 2), "padding": 1, "bias": False},
        {"kernel_size": 2, "dilation": 2, "padding": shape(axes, 1, 0, 1)},
    ):
        plain = make(**options)
        layer = decompose(plain, decomp=decomp, dims=4, rank_scale=0.5, init="random", contraction=contraction)
        dense = layer.dense()
        assert type(layer) is not type(plain) is type(dense) and isinstance(layer, type(plain))
        assert layer.weight.shape == plain.weight.shape == dense.weight.shape and dense.weight.is_contiguous()
        for each in (x, x[0]):
            assert layer(each).shape == plain(each).shape
            torch.testing.assert_close(layer(each), dense(each), rtol=1e-4, atol=1e-4)
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trained_step(layer, x))
        exact = decompose(plain, decomp="tt", dims=2, rank_scale=1)
        torch.testing.assert_close(exact(x), plain(x), rtol=1e-3, atol=1e-4)


@contractions
def test_a_transposed_convolution_gives_the_size_that_it_is_asked_for(contraction):
    plain = nn.ConvTranspose2d(10, 12, 3, stride=2, padding=1)
    layer = decompose(plain, rank_scale=0.5, contraction=contraction)
    for size in ([9, 11], [10, 12]):
        assert layer(torch.randn(2, 10, 5, 6), output_size=size).shape == (2, 12, *size)
        assert layer(torch.randn(2, 10, 5, 6), size).shape == (2, 12, *size)


class Conv1D(nn.Module):
    """The linear layer of transformers: its weight is [inputs, outputs]."""

    __module__, __qualname__ = "transformers.pytorch_utils", "Conv1D"

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)


@kinds
@contractions
def test_the_linear_layer_of_transformers_is_known_by_its_name(decomp, contraction):
    plain, x = Conv1D(12, 10), torch.randn(2, 3, 10)
    layer = decompose(plain, decomp=decomp, dims=4, rank_scale=0.5, contraction=contraction)
    dense = layer.dense()
    assert type(dense) is Conv1D and dense.weight.shape == layer.weight.shape == (10, 12)
    assert (layer.nf, layer.nx) == (dense.nf, dense.nx) == (12, 10)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    distance = (layer.weight - plain.weight).norm() / plain.weight.norm()
    assert distance.item() == pytest.approx(layer.error, abs=1e-4)


@kinds
@contractions
@pytest.mark.parametrize("leading", [(), (3,), (2, 3, 4), (0,)])
def test_a_linear_layer_is_the_dense_one_with_its_weight(decomp, contraction, leading):
    layer = decompose(nn.Linear(10, 12), decomp=decomp, dims=4, rank_scale=0.4, init="random", contraction=contraction)
    x = torch.randn(*leading, 10)
    assert layer(x).shape == (*leading, 12)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-4)


@kinds
@contractions
def test_gradients_are_those_through_the_formats_definition(decomp, contraction):
    layer = convolution(decomp, kernel=3, padding=1, contraction=contraction).double()
    x = torch.randn(2, 10, 5, 5, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(2, 12, 5, 5, dtype=torch.double)
    ours = torch.autograd.grad(layer(x), [x, *layer.cores, layer.bias], upstream)
    weight = einsum(layer.layout, layer.cores).reshape(layer.weight.shape)
    plain = F.conv2d(x, weight, layer.bias, padding=1)
    torch.testing.assert_close(ours, torch.autograd.grad(plain, [x, *layer.cores, layer.bias], upstream))


@kinds
@contractions
def test_the_work_done_is_the_work_counted(decomp, contraction):
    """torch counts the products; the outer products of cp and tucker it does not."""
    layer = convolution(decomp, 24, 40, dims=5, contraction=contraction, bias=False)
    build = layer.layout.build_multiply_adds(contraction)
    if decomp in ("cp", "tucker"):
        with FlopCounterMode(display=False) as counter:
            layer.matrix() if contraction == "weight" else layer.factors()
        build = counter.get_total_flops() // 2
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(2, 40, 3, 5))
    assert counter.get_total_flops() == 2 * (build + 2 * 3 * 5 * layer.layout.multiply_adds(contraction))


def test_the_contraction_is_chosen_by_work_shown_and_can_be_forced():
    small, large = (convolution("tt", 64, 64, dims=3, scale=scale) for scale in (0.1, 1))
    assert (small.contraction, large.contraction) == ("factors", "weight")
    assert convolution("tt", 64, 64, dims=3, scale=1, contraction="factors").contraction == "factors"
    for layer in (small, large):
        ranks = ",".join(map(str, layer.layout.ranks))
        assert f"tt, modes=64|8x8, ranks={ranks}, contraction={layer.contraction}" in repr(layer)
    with pytest.raises(ValueError, match="contraction='fast'; allowed: auto, factors, weight"):
        convolution("tt", contraction="fast")


def test_modes_across_outputs_and_inputs_are_contracted_into_the_weight():
    conv, folding = nn.Conv2d(6, 4, 1), fold(4, 6, 3, 1, "original")
    layout = solve("tt", [folding], rank_scale=1, rank_rule="original")[0]
    assert not folding.has_cut and DecomposedConv2d(conv, layout).contraction == "weight"
    with pytest.raises(ValueError, match="contraction='factors': tt with modes .* has no cut"):
        DecomposedConv2d(conv, layout, "factors")


# --- what users do to modules


def trained_step(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    module.zero_grad()
    module(x).float().square().sum().backward()
    return [parameter.grad for parameter in module.parameters()]


def autocast(dtype):
    def operation(net, x):
        with torch.autocast("cpu", dtype):
            y = net(x)
            y.float().square().sum().backward()
        assert y.dtype == dtype
        assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
        assert net[0].weight.dtype == net[0].core_0.dtype == net[0].core_0.grad.dtype == torch.float32
        torch.testing.assert_close(y.float(), net(x), rtol=0.1, atol=0.1)

    return operation


def half(dtype):
    def operation(net, x):
        expected = net(x)
        net = net.to(dtype)
        assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in trained_step(net, x.to(dtype)))
        torch.testing.assert_close(net(x.to(dtype)).float(), expected, rtol=0.1, atol=0.1)

    return operation


def double(net, x):
    expected, twin = net(x), copy.deepcopy(net).double()
    torch.testing.assert_close(twin(x.double()), expected.double(), rtol=1e-4, atol=1e-5)
    assert all(gradient.dtype == torch.float64 for gradient in trained_step(twin, x.double()))


def compiled(net, x):
    run = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(x), net(x))
    expected, own = trained_step(net, x), trained_step(run, x)
    torch.testing.assert_close(own, expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(x), net(x), rtol=0.05, atol=0.05)


def deepcopied(net, x):
    twin = copy.deepcopy(net)
    torch.testing.assert_close(twin(x), net(x))
    with torch.no_grad():
        twin[0].core_0.zero_()
    assert net[0].core_0.abs().sum() > 0 and repr(twin) == repr(net)


def averaged(net, x):
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    before = [core.clone() for core in net[0].cores]
    with torch.no_grad():
        for core in net[0].cores:
            core.add_(1)
    average.update_parameters(net)
    for core, was in zip(average.module[0].cores, before, strict=True):
        torch.testing.assert_close(core, was + 0.5)
    average(x)


def loaded(assign):
    def operation(net, x):
        state = {name: value + 1 for name, value in net.state_dict().items()}
        twin = copy.deepcopy(net)
        assert not twin.load_state_dict(state, assign=assign).missing_keys
        for name, value in twin.state_dict().items():
            torch.testing.assert_close(value, state[name])
        assert (twin[0].core_0.data_ptr() == state["0.core_0"].data_ptr()) is assign
        net.load_state_dict(twin.state_dict())
        torch.testing.assert_close(twin(x), net(x))

    return operation


def functional(net, x):
    state = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    torch.testing.assert_close(torch.func.functional_call(net, state, (x,)), expected)


def vmapped(net, x):
    nets = [net, network(net[0].layout.decomp), network(net[0].layout.decomp)]
    parameters, buffers = torch.func.stack_module_state(nets)

    def one(parameters, buffers):
        return torch.func.functional_call(net, (parameters, buffers), (x,))

    together = torch.func.vmap(one)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([each(x) for each in nets]), rtol=1e-4, atol=1e-4)
    torch.func.vmap(torch.func.grad(lambda *state: one(*state).square().sum()))(parameters, buffers)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(torch.func.vmap(one)(parameters, buffers), together, rtol=0.1, atol=0.1)


def pickled(net, x):
    twin = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(twin(x), net(x))
    assert repr(twin) == repr(net)


def on_meta(net, x):
    ghost = copy.deepcopy(net).to("meta")
    assert ghost(x.to("meta")).shape == net(x).shape
    empty = copy.deepcopy(ghost).to_empty(device="cpu")
    empty.load_state_dict(net.state_dict())
    ghost.load_state_dict(net.state_dict(), assign=True)
    for twin in (empty, ghost):
        torch.testing.assert_close(twin(x), net(x))


def exported(net, x):
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    other = torch.randn(5, *x.shape[1:])
    torch.testing.assert_close(program.module()(other), net(other))


def checkpointed(net, x):
    expected = trained_step(net, x)
    net.zero_grad()
    torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close([parameter.grad for parameter in net.parameters()], expected)


OPERATIONS = {
    "autocast bfloat16": autocast(torch.bfloat16),
    "autocast float16": autocast(torch.float16),
    "bfloat16 module": half(torch.bfloat16),
    "float64 module": double,
    "compile": compiled,
    "deepcopy": deepcopied,
    "AveragedModel": averaged,
    "load_state_dict": loaded(assign=False),
    "load_state_dict, assign": loaded(assign=True),
    "functional_call": functional,
    "vmap": vmapped,
    "pickle": pickled,
    "meta": on_meta,
    "export": exported,
    "checkpoint": checkpointed,
}


@kinds
@pytest.mark.parametrize("operation", OPERATIONS)
def test_survives(operation, decomp):
    torch.compiler.reset()
    OPERATIONS[operation](network(decomp), torch.randn(4, 4, 8, 8))


def test_survives_inductor():
    layer = convolution("tt", 256, 256)
    x = torch.randn(2, 4, 4, 256).movedim(-1, -3)  # channels_last
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-4)


def test_a_trace_of_torch_fx_keeps_the_layers_whole():
    net, x = network("tt"), torch.randn(2, 4, 8, 8)
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(traced(x), net(x))
    assert traced.get_submodule("0").core_0 is net[0].core_0
    assert [node.op for node in traced.graph.nodes].count("call_module") == len(net)


# --- what a replaced layer keeps


def test_hooks_and_attributes_move_over_and_back():
    calls = []
    plain = nn.Linear(8, 6)
    plain.label, plain.table = "mine", {"a": 1}
    plain.register_buffer("mask", torch.ones(6))
    plain.register_forward_pre_hook(lambda module, inputs: calls.append("before"))
    plain.register_forward_hook(lambda module, inputs, output: output * 2)
    plain.register_full_backward_hook(lambda module, given, taken: calls.append("back"))
    layer = decompose(plain.eval(), dims=2, rank_scale=1)
    for each in (layer, layer.dense()):
        x = torch.randn(3, 8)
        torch.testing.assert_close(each(x), plain(x), rtol=1e-4, atol=1e-4)
        calls.clear()
        each(x.requires_grad_()).sum().backward()
        assert calls == ["before", "back"]
        assert (each.label, each.table, each.training) == ("mine", {"a": 1}, False) and each.mask.equal(plain.mask)
    layer.register_forward_hook(lambda *_: calls.append("later"))
    plain(x)
    assert "later" not in calls, "the module that is given stays as it is"
    assert set(vars(layer.dense())) == set(vars(plain))


# --- writing to the weight


def initialised(module: nn.Module) -> None:
    if hasattr(module, "weight"):
        nn.init.kaiming_normal_(module.weight)


def written(index: object, value: float):
    def write(layer):
        layer.weight[index] = value

    return write


def replaced(layer):
    layer.weight = nn.Parameter(torch.zeros(6, 8))


def added(layer):
    weight = layer.weight
    weight += 1


WRITES = {
    "copy_": lambda layer: layer.weight.copy_(torch.zeros(6, 8)),
    "data.copy_": lambda layer: layer.weight.data.copy_(torch.zeros(6, 8)),
    "detach().mul_": lambda layer: layer.weight.detach().mul_(2),
    "a view": lambda layer: layer.weight.T[2:].view(-1, 6).zero_(),
    "a chunk": lambda layer: layer.weight.chunk(2)[0].zero_(),
    "[0] = 1": written(0, 1.0),
    "[mask] = 1": written(torch.ones(6, 8, dtype=torch.bool), 1.0),
    "+=": added,
    "= parameter": replaced,
    "= tensor": lambda layer: setattr(layer, "weight", torch.zeros(6, 8)),
    "data =": lambda layer: setattr(layer.weight, "data", torch.zeros(6, 8)),
    "out=": lambda layer: torch.mul(layer.weight, 2, out=layer.weight),
    "_foreach_mul_": lambda layer: torch._foreach_mul_([layer.weight], 2),
    "init.normal_": lambda layer: nn.init.normal_(layer.weight),
    "init.orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "init.trunc_normal_": lambda layer: nn.init.trunc_normal_(layer.weight),
    "apply(init)": lambda layer: nn.Sequential(layer).apply(initialised),
    "reset_parameters": lambda layer: layer.reset_parameters(),
    "requires_grad_": lambda layer: layer.weight.requires_grad_(False),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("grad", [True, False])
def test_writing_to_the_weight_says_what_to_do(write, grad):
    layer = decompose(nn.Linear(8, 6), rank_scale=0.5)
    before = layer.weight.clone()
    with pytest.raises(InputError, match=r"lowrank.assign\(layer, weight\)") as raised, torch.set_grad_enabled(grad):
        WRITES[write](layer)
    assert "\n" not in str(raised.value) and layer.weight.equal(before)


def test_fusing_with_a_batch_norm_says_what_to_do():
    layer, norm = decompose(nn.Conv2d(8, 6, 1), rank_scale=0.5).eval(), nn.BatchNorm2d(6).eval()
    with pytest.raises(InputError, match="lowrank.assign"):
        torch.nn.utils.fuse_conv_bn_eval(layer, norm)
    fused, x = torch.nn.utils.fuse_conv_bn_eval(layer.dense(), norm), torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(fused(x), norm(layer(x)), rtol=1e-4, atol=1e-4)


def test_computing_with_the_weight_is_as_with_any_tensor():
    layer = decompose(nn.Linear(8, 6), rank_scale=0.5)
    weight, x = layer.weight, torch.randn(3, 8)
    assert type(weight + 1) is type(F.linear(x, weight)) is type(weight.clone()) is torch.Tensor
    copied = weight.detach().clone().zero_()
    assert copied.sum() == 0 and weight.abs().sum() > 0 and x.copy_(weight[:3]).equal(weight[:3])
    gradients = torch.autograd.grad(weight.square().sum(), layer.cores)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@kinds
def test_assign_fits_the_cores_in_place(decomp):
    layer = decompose(nn.Conv2d(6, 8, 3), decomp=decomp, rank_scale=0.6, init="random")
    cores, target = list(layer.cores), decompose(nn.Conv2d(6, 8, 3), decomp=decomp, rank_scale=0.3).weight.detach()
    assign(layer, target)
    distance = (layer.weight - target).norm() / target.norm()
    assert layer.error == pytest.approx(distance.item(), abs=1e-4) and layer.error < 0.2
    assert all(a is b and a.requires_grad for a, b in zip(layer.cores, cores, strict=True))
    for wrong in (target[0], torch.full_like(target, float("nan")), [1, 2]):
        with pytest.raises(InputError, match=r"allowed: a tensor of \(8, 6, 3, 3\) without NaN"):
            assign(layer, wrong)
    with pytest.raises(InputError, match="layer=Linear; allowed: a layer that lowrank.decompose made"):
        assign(nn.Linear(2, 2), torch.zeros(2, 2))
