"""A run that kept its weights comes back as it was, and says of images what it said then."""

import numpy as np
import pytest
import torch

import lowrank
from lowrank.checkpoints import read_tensors, save_tensors
from lowrank.data import load as load_data
from lowrank.errors import InputError

SMALL = {"dataset": "digits", "width": 2, "epochs": 1, "batch_size": 448}
KEPT = SMALL | {"save_weights": True}
ASKED = [
    {"decomp": "tt", "recipe": "2018", "precision": "float32"},
    {"decomp": "separable", "recipe": "fast", "precision": "float32"},
    {"decomp": "cp", "recipe": "fast", "without": "flip at test", "precision": "bfloat16"},
    {"decomp": "dense", "recipe": "fast", "validation": 0.2, "precision": "bfloat16"},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_predictions_are_right_for_the_very_images_that_the_record_says(tmp_path, asked):
    record = lowrank.run(log=lambda line: None, runs=str(tmp_path), **KEPT | asked)
    data, net = load_data("digits"), lowrank.load(record, runs=str(tmp_path))
    logits = lowrank.predict(record, data.test_images, runs=str(tmp_path))
    right = (logits.argmax(1) == data.test_labels).numpy()
    assert right.mean() == record["test_accuracy"]
    again = lowrank.predict(net.train(), data.test_images.numpy())
    assert torch.equal(again, logits) and net.training
    torch.testing.assert_close(lowrank.predict(net.double(), data.test_images), logits, atol=0.1, rtol=0)
    rough = lowrank.predict(net.bfloat16(), data.test_images)
    assert rough.dtype == torch.float32 and (rough.argmax(1) == logits.argmax(1)).float().mean() > 0.9
    net.float()
    dense = lowrank.predict(lowrank.densify(net), data.test_images)
    tolerance = 1e-4 if asked["precision"] == "float32" else 0.1
    torch.testing.assert_close(dense, logits, atol=tolerance, rtol=0)


def test_weights_that_do_not_say_how_to_normalise_and_what_is_no_image_are_refused_in_a_line(tmp_path):
    record = lowrank.run(log=lambda line: None, runs=str(tmp_path), precision="float32", **KEPT)
    net = lowrank.load(record, runs=str(tmp_path))
    path, images = tmp_path / record["run"] / "weights.pt", torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    unlike = images.float(), images[0], np.zeros((2, 32, 32, 3), np.uint8), images.to_sparse(), images.to("meta")
    for wrong in unlike:
        with pytest.raises(lowrank.InputError, match=r"^images=.*; allowed: uint8 \[B, 3, 32, 32\]$"):
            lowrank.predict(net, wrong)
    torch.save({"classes": 10, "network": net.state_dict()}, path)  # as they were kept before
    for older in (record, record["run"], lowrank.load(record["run"], str(tmp_path)), torch.nn.Linear(2, 2)):
        with pytest.raises(lowrank.InputError, match="does not say how its images were normalised"):
            lowrank.predict(older, images, runs=str(tmp_path))


OTHERS = {
    "mean": [5, "x", None, torch.zeros(3), torch.full((1, 3, 1, 1), torch.nan)],
    "deviation": [torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), torch.inf), torch.ones(1, 3, 1, 1) + 1j],
    "precision": ["bogus", 5, None, ["float32"]],
    "mirror": [torch.ones(2), None, 1],
    "classes": [-1, 0, 10**9, 2.0, None],
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_weights_with_other_contents_are_damaged(tmp_path):
    record = lowrank.run(log=lambda line: None, runs=str(tmp_path), precision="float32", **KEPT)
    path = tmp_path / record["run"] / "weights.pt"
    kept = read_tensors(path, "cpu")
    changed = [{name: value} for name, values in OTHERS.items() for value in values]
    for change in (torch.Tensor.double, torch.Tensor.to_sparse, lambda each: each.to("meta"), lambda each: each + 1j):
        changed.append({"network": {name: change(each) for name, each in kept["network"].items()}})
    for each in changed:
        save_tensors(path, kept | each)
        with pytest.raises(lowrank.InputError) as refusal:
            lowrank.predict(record, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), runs=str(tmp_path))
        assert str(refusal.value).startswith(f"{path}: damaged weights ("), each
    save_tensors(path, kept)
    assert lowrank.load(record, tmp_path)


def test_the_trained_network_comes_back(tmp_path):
    asked = SMALL | {"decomp": "tucker", "budget": 0.5, "width": 4, "precision": "float32", "runs": str(tmp_path)}
    lines = []
    first = lowrank.run(log=lines.append, **asked)
    with pytest.raises(InputError, match=f"^run='{first['run']}': it kept no weights"):
        lowrank.load(first["run"], runs=tmp_path)
    record = lowrank.run(log=lines.append, save_weights=True, **asked)
    assert sum("its weights were not saved" in line for line in lines) == 1
    assert record["run"] == first["run"] and record["test_accuracy"] == first["test_accuracy"]
    lowrank.run(log=lines.append, save_weights=True, **asked)
    assert "already done" in lines[-1]
    data = load_data("digits")
    net = lowrank.load(record["run"], runs=tmp_path)
    same = lowrank.load(record, runs=tmp_path).state_dict()  # by its record
    assert all(value.equal(same[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        right = (net(data.normalise(data.test_images)).argmax(1) == data.test_labels).float().mean().item()
    assert right == pytest.approx(record["test_accuracy"])


def test_a_run_that_is_not_in_this_folder_is_refused_with_the_folder(tmp_path):
    with pytest.raises(
        InputError, match=f"^run='none': there is no such run in runs='{tmp_path}'; allowed: its record's folder$"
    ):
        lowrank.load("none", runs=tmp_path)
    with pytest.raises(InputError, match="run=None; allowed: the id of a run, or its record"):
        lowrank.load({"decomp": "tt"}, runs=tmp_path)
