"""Layers: a decomposed layer is the dense layer with the weight that its cores make, and it survives what users do."""

import copy
import pickle

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from layers_at_random import contractions, convolution, einsum, trained_step
from small import kinds
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lowrank
from lowrank import decompose
from lowrank.formats import fold, solve
from lowrank.layers import DecomposedConv2d

pytestmark = pytest.mark.usefixtures("seeded")


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


# --- forward and backward


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


def test_a_format_that_is_never_folded_shows_no_modes():
    layer = lowrank.decompose(nn.Linear(64, 64), decomp="bottleneck", dims=7, budget=0.25)
    assert "bottleneck, ranks=8, contraction=" in repr(layer) and "modes" not in repr(layer)
    assert lowrank.summary(layer).modes.tolist() == [""]
