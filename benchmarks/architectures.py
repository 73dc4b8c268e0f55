"""Do the networks that people use go through `decompose`, whole? Those of torchvision, timm and transformers.

Each is built at random from its own code (no weights are downloaded) and decomposed into bottlenecks of a twentieth of
the useful ranks. Four things are asked: has its output the shape of the dense one's, does `densify` agree, does a step
of SGD move every parameter that it moves in the dense network, and does the summary give a reason for all that is left?

    pip install timm transformers
    python benchmarks/architectures.py [part of a name]          (79 networks: some ten minutes of one core)

prints a row for each as it ends and writes benchmarks/results/architectures-<machine>.csv.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from machine import machine, store
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import lowrank
from lowrank.layers import Decomposed
from lowrank.surgery.parts import run_example

PACKAGES = ("torch", "torchvision", "timm", "transformers")
SETTING = {"decomp": "bottleneck", "rank_scale": 0.05, "init": "random"}
CLASSIFIERS = [
    "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
]  # fmt: skip
SEGMENTERS = ["deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large"]
VIDEOS = ["mc3_18", "r2plus1d_18", "r3d_18"]
TIMM = [
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_tiny", "coatnet_0_224", "convit_tiny",
    "convmixer_768_32", "crossvit_tiny_240", "cspresnet50", "deit_tiny_patch16_224", "eca_nfnet_l0", "dpn68",
    "edgenext_xx_small", "efficientformer_l1", "eva02_tiny_patch14_224", "fastvit_t8", "focalnet_tiny_srf",
    "gcvit_xxtiny", "ghostnet_100", "gmlp_s16_224", "hrnet_w18_small", "inception_next_tiny", "levit_128s",
    "mixer_s32_224", "mobilevit_xxs", "nf_resnet50", "poolformer_s12", "pvt_v2_b0", "repvgg_a0", "res2net50_26w_4s",
    "resnetv2_50", "rexnet_100", "tf_efficientnet_b0", "tiny_vit_5m_224", "tnt_s_patch16_224", "twins_pcpvt_small",
    "volo_d1_224", "xcit_nano_12_p16_224",
]  # fmt: skip
TRANSFORMERS = {  # the class, and a configuration that is small and of the real kind
    "GPT2LMHeadModel": {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 512},
    "BertForMaskedLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128},
    "DistilBertForMaskedLM": {"n_layers": 2, "dim": 64, "n_heads": 4, "hidden_dim": 128},
    "RobertaForMaskedLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4},
    "AlbertForMaskedLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "embedding_size": 32},
    "ElectraForMaskedLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4},
    "LlamaForCausalLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128},
    "MistralForCausalLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
                           "num_key_value_heads": 2, "intermediate_size": 128},
    "OPTForCausalLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "ffn_dim": 128,
                       "word_embed_proj_dim": 64},
    "GPTNeoXForCausalLM": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
                           "intermediate_size": 128},
    "BloomForCausalLM": {"n_layer": 2, "hidden_size": 64, "n_head": 4},
    "T5ForConditionalGeneration": {"num_layers": 2, "d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128},
    "BartForConditionalGeneration": {"encoder_layers": 2, "decoder_layers": 2, "d_model": 64,
                                     "encoder_attention_heads": 4, "decoder_attention_heads": 4},
}  # fmt: skip


def pixels(*shape: int) -> Tensor:
    return torch.randn(2, *shape)


def tokens(name: str) -> dict[str, Tensor]:
    ids = torch.randint(3, 200, (2, 12))
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if "Conditional" in name else {})


def from_torchvision(name: str, group: str) -> tuple[nn.Module, Any]:
    from torchvision.models import get_model, segmentation, video  # noqa: F401  the latter two register theirs

    side = 299 if name == "inception_v3" else 224 if name in ("maxvit_t", "vit_b_32") else 96
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if group == "segmentation":
        options = {"weights_backbone": None}
    shape = (3, 4, 32, 32) if group == "video" else (3, side, side)
    return get_model(name, weights=None, **options), pixels(*shape)


def from_timm(name: str) -> tuple[nn.Module, Any]:
    import timm

    net = timm.create_model(name, pretrained=False, num_classes=10)
    return net, pixels(*net.default_cfg["input_size"])


def from_transformers(name: str) -> tuple[nn.Module, Any]:
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(**TRANSFORMERS[name])), tokens(name)


def architectures() -> dict[str, Callable[[], tuple[nn.Module, Any]]]:
    """How each network and an input for it are made, by name."""
    named = {"classification": CLASSIFIERS, "segmentation": SEGMENTERS, "video": VIDEOS}
    found = {f"torchvision {n}": lambda n=n, g=g: from_torchvision(n, g) for g, names in named.items() for n in names}
    found |= {f"timm {name}": lambda name=name: from_timm(name) for name in TIMM}
    return found | {f"transformers {name}": lambda name=name: from_transformers(name) for name in TRANSFORMERS}


def outputs(net: nn.Module, example: Any) -> list[Tensor]:
    return [each for each in tree_leaves(run_example(net, example)) if isinstance(each, Tensor)]


def unmoved(net: nn.Module, example: Any) -> set[str]:
    """The parameters that a step of SGD leaves where they are."""
    sums = [(each.float() * torch.randn(each.shape)).mean() for each in outputs(net, example) if each.requires_grad]
    sum(sums).backward()
    return {
        name for name, each in net.named_parameters(remove_duplicate=False)
        if each.grad is None or not each.grad.abs().sum() > 0
    }  # fmt: skip


def layers_of(names: set[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in names}


def tested(make: Callable[[], tuple[nn.Module, Any]]) -> dict[str, Any]:
    """One row: what became of a network."""
    torch.manual_seed(0)
    net, example = make()
    for parameter in net.parameters():  # a weight of zeros, of a head or behind a residual, lets no gradient through
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    before = [each.shape for each in outputs(net, example)]
    small = lowrank.decompose(net, **SETTING)
    with torch.no_grad():
        ours, theirs = outputs(small, example), outputs(lowrank.densify(small), example)
    apart = max((a - b).abs().max().item() / max(b.abs().max().item(), 1e-30) for a, b in zip(ours, theirs, strict=True)
                if a.is_floating_point() and a.numel())  # fmt: skip
    lost = layers_of(unmoved(small, example)) - layers_of(unmoved(net, example))
    table = lowrank.summary(small)
    listed = int(table.parameters.sum())
    weights = {id(each): each.numel() for each in small.parameters() if each.dim() > 1}
    left = table[(table.decomp == "dense") | (table.decomp == "grouped")]
    return {
        "decomposed": sum(isinstance(each, Decomposed) for each in small.modules()),
        "parameters": sum(each.numel() for each in net.parameters()),
        "kept": sum(each.numel() for each in small.parameters()) / sum(each.numel() for each in net.parameters()),
        "same_shape": [each.shape for each in ours] == before,
        "densify_apart": apart,
        "unmoved": " ".join(sorted(lost)),
        "all_listed": listed == sum(weights.values()) and bool(left.left.str.len().gt(0).all()),
        "left": ", ".join(sorted({reason.partition(",")[0] for reason in left.left if reason})),
    }


def went_through(table: pd.DataFrame) -> pd.Series:
    """Whether all that is asked of a network holds."""
    return table.same_shape.eq(True) & (table.densify_apart < 1e-2) & table.unmoved.eq("") & table.all_listed.eq(True)


def row_of(name: str, make: Callable[[], tuple[nn.Module, Any]]) -> dict[str, Any]:
    try:
        row = {"network": name, "fault": ""} | tested(make)
    except Exception as error:  # which the row tells
        row = {"network": name, "fault": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    print({key: value for key, value in row.items() if value != ""}, flush=True)
    return row


def main(part: str = "") -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pd.DataFrame([row_of(name, make) for name, make in architectures().items() if part in name])
    good = went_through(table)
    print(f"{machine()}: {good.sum()} of {len(table)} go through whole; not: {', '.join(table.network[~good])}")
    if not part:
        store(table, "architectures", PACKAGES, **SETTING)


if __name__ == "__main__":
    main(*sys.argv[1:])
