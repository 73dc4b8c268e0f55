"""Decomposed and densified networks leave torch: as an exported program and as ONNX, with the same outputs."""

import pytest
import torch
from torch import nn

from lowrank import decompose, densify
from lowrank.formats import FORMATS


class Small(nn.Module):
    """Convolutions of one and two dimensions, a transposed one, attention and linear layers: [B, 3, 8, 8] -> [B, 5]."""

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix, self.head = nn.Conv1d(8, 6, 1), nn.Linear(6, 5)

    def forward(self, images):
        x = torch.relu(self.up(torch.relu(self.conv(images)))).flatten(2).transpose(1, 2)  # [B, 64, 8]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(torch.relu(self.mix(x.transpose(1, 2))).mean(2))  # [B, 5]


def small(decomp: str) -> nn.Module:
    torch.manual_seed(0)
    return decompose(Small(), decomp=decomp, rank_scale=0.5, init="random", skip="attention.in_proj_weight").eval()


NETWORKS = {decomp: lambda decomp=decomp: small(decomp) for decomp in FORMATS} | {
    "densified": lambda: densify(small("tt"))
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_program_and_onnxruntime_give_the_same(name, tmp_path):
    net, images = NETWORKS[name](), torch.randn(5, 3, 8, 8)
    program = torch.export.export(net, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.export.save(program, tmp_path / "net.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(images), net(images))
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    torch.onnx.export(program, f=tmp_path / "net.onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(given), net(images).detach(), rtol=1e-4, atol=1e-5)
