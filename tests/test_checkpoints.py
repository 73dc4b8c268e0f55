"""Whatever becomes of a checkpoint or of weights: a line names the file and why, it is kept, and the run goes on."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lowrank
from lowrank.checkpoints import SEALED, Damaged, read_tensors, save_checkpoint, save_tensors
from lowrank.config import Config
from lowrank.errors import InputError
from lowrank.train import State

SMALL = {"dataset": "digits", "width": 1, "epochs": 2, "batch_size": 512, "precision": "float32", "budget": 1.0}


class Stop(Exception):
    pass


def stop(history):
    raise Stop


def stopped(runs: Path, **parameters) -> Path:
    """The checkpoint of a run that was stopped after its first epoch."""
    with pytest.raises(Stop):
        lowrank.run(log=lambda line: None, watch=stop, runs=str(runs), **SMALL | parameters)
    [checkpoint] = runs.glob("*/checkpoint.pt")
    return checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return stopped(tmp_path_factory.mktemp("runs")).read_bytes()


def flipped(content: bytes, place: float) -> bytes:
    at = int(place * (len(content) - 1))
    return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("something")


def replaced_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_another_runs(path: Path) -> None:
    shutil.copy(stopped(path.parent / "other", seed=1), path)
    shutil.rmtree(path.parent / "other")


def replaced_by_another_networks(path: Path) -> None:
    other = lowrank.build(Config(width=2, decomp="dense"), classes=10)
    save_checkpoint(path, path.parent.name, State(1, [], {"network": other.state_dict()}))


def state_of(path: Path) -> State:
    return State(**{name: value for name, value in read_tensors(path, "cpu").items() if name != "run"})


def replaced_by_another_codes(path: Path) -> None:
    """Whose optimiser had other groups."""
    state = state_of(path)
    state.tensors["optimiser"]["param_groups"].append({"params": [0]})
    save_checkpoint(path, path.parent.name, state)


def without_its_history(path: Path) -> None:
    save_checkpoint(path, path.parent.name, replace(state_of(path), history=[]))


def with_other_fields(path: Path) -> None:
    save_checkpoint(path, path.parent.name, replace(state_of(path), history=3, tensors=[]))


def with_state(path: Path, **fields) -> None:
    save_checkpoint(path, path.parent.name, replace(state_of(path), **fields))


def with_tensors(path: Path, **parts) -> None:
    with_state(path, tensors=state_of(path).tensors | parts)


def with_momentum(path: Path, make) -> None:
    """Whose buffers are others, as if torch had stored them in another order."""
    optimiser = state_of(path).tensors["optimiser"]
    optimiser["state"] = {
        k: {"momentum_buffer": make(each["momentum_buffer"])} for k, each in optimiser["state"].items()
    }
    with_tensors(path, optimiser=optimiser)


def with_groups(path: Path, **values) -> None:
    optimiser = state_of(path).tensors["optimiser"]
    optimiser["param_groups"] = [each | values for each in optimiser["param_groups"]]
    with_tensors(path, optimiser=optimiser)


def replaced_by_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut off early": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "a text": lambda path: path.write_text("hello\n" * 100),
    "other tensors": lambda path: save_tensors(path, {"epochs": 1}),
    "without a checksum": lambda path: path.write_bytes(path.read_bytes()[:-SEALED]),
    "code": lambda path: torch.save({"epochs": Path}, path),
    "a folder": replaced_by_folder,
    "a fifo": replaced_by_fifo,
    "a circle": replaced_by_a_circle,
    "another run's": replaced_by_another_runs,
    "another network's": replaced_by_another_networks,
    "another code's": replaced_by_another_codes,
    "without its history": without_its_history,
    "with other fields": with_other_fields,
}
CONTENTS = {
    "momentum of another shape": lambda path: with_momentum(path, lambda each: torch.zeros(1)),
    "momentum that is no tensor": lambda path: with_momentum(path, lambda each: 5),
    "momentum in one number": lambda path: with_momentum(path, lambda each: torch.zeros(()).expand(each.shape)),
    "no momentum": lambda path: with_momentum(path, lambda each: None),
    "another sign": lambda path: with_groups(path, maximize=True),
    "another decay": lambda path: with_groups(path, weight_decay=-3.0),
    "epochs in a tensor": lambda path: with_state(path, epochs=torch.tensor([1, 1])),
    "epochs as a float": lambda path: with_state(path, epochs=1.0),
    "impossible seconds": lambda path: with_state(path, history=[state_of(path).history[0] | {"seconds": -1e300}]),
    "a huge number": lambda path: with_state(path, history=[state_of(path).history[0] | {"seconds": 10**400}]),
    "a name too many": lambda path: with_state(path, history=[state_of(path).history[0] | {"\ud800": 1}]),
    "sparse momentum": lambda path: with_momentum(path, torch.Tensor.to_sparse),
    "momentum in words": lambda path: with_groups(path, momentum="x"),
    "another group": lambda path: with_groups(path, other=1),
    "a part too many": lambda path: with_tensors(path, other={}),
    "a scaler that is none": lambda path: with_tensors(path, scaler=5),
    "a row that is none": lambda path: with_state(path, history=[5]),
    "a row without seconds": lambda path: with_state(path, history=[{"epoch": 1, "train_loss": 1.0}]),
    "a row in words": lambda path: with_state(path, history=[state_of(path).history[0] | {"seconds": "x"}]),
    "too many epochs": lambda path: with_state(path, epochs=9, history=9 * state_of(path).history),
    "diverged in words": lambda path: with_state(path, diverged="x"),
    "a number for images": lambda path: with_state(path, correct=5),
}
OF_CHECKPOINTS = {
    "cut off", "another run's", "another code's", "without its history", "with other fields", *CONTENTS,
}  # fmt: skip
DAMAGE |= CONTENTS


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_that_is_none_is_named_and_set_aside_and_the_run_begins_anew(tmp_path, damage):
    checkpoint = stopped(tmp_path)
    damage(checkpoint)
    there = os.lstat(checkpoint)
    checkpoint.with_name("checkpoint.pt.damaged").write_text("of an earlier time")
    lines = []
    record = lowrank.run(log=lines.append, runs=str(tmp_path), **SMALL)
    [line] = [line for line in lines if "checkpoint.pt" in line]
    assert line.startswith(f"{checkpoint} cannot be gone on from (") and "\n" not in line
    assert "it is now checkpoint.pt.damaged-2, and the run begins anew" in line
    assert record["status"] == "done" and len(lowrank.history(tmp_path, record["run"])) == SMALL["epochs"]
    assert os.lstat(checkpoint.with_name("checkpoint.pt.damaged-2")).st_ino == there.st_ino
    assert checkpoint.with_name("checkpoint.pt.damaged").read_text() == "of an earlier time"
    assert not checkpoint.exists()


@pytest.mark.parametrize("older", [set(), {"classes", "network"}], ids=["checkpoint", "weights"])
def test_no_flipped_bit_gives_tensors(tmp_path, whole, older):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole)
    assert read_tensors(path, "cpu", older)["tensors"]["network"]
    for k in range(101):
        path.write_bytes(flipped(whole, k / 100))
        with pytest.raises(Damaged) as caught:
            read_tensors(path, "cpu", older)
        assert "\n" not in str(caught.value)


def test_a_sound_checkpoint_is_gone_on_from(tmp_path):
    stopped(tmp_path)
    lines = []
    record = lowrank.run(log=lines.append, runs=str(tmp_path), **SMALL)
    assert "going on after epoch 1" in lines and "damaged" not in " ".join(lines)
    anew = lowrank.run(log=lines.append, runs=str(tmp_path / "anew"), **SMALL)
    assert record["train_loss"] == anew["train_loss"]


# --- weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    lowrank.run(log=lambda line: None, runs=str(runs), save_weights=True, **SMALL | {"epochs": 1})
    return runs


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - OF_CHECKPOINTS))
def test_weights_that_are_none_are_one_line(trained, tmp_path, damage):
    shutil.copytree(trained, tmp_path / "runs")
    [path] = (tmp_path / "runs").glob("*/weights.pt")
    DAMAGE[damage](path)
    with pytest.raises(InputError) as caught:
        lowrank.load(path.parent.name, tmp_path / "runs")
    line = str(caught.value)
    assert line.startswith(f"{path}: damaged weights (")
    assert "\n" not in line and len(line) < 400


def test_weights_from_before_there_were_checksums_are_read(trained):
    [path] = trained.glob("*/weights.pt")
    net, content = lowrank.load(path.parent.name, trained), path.read_bytes()
    try:
        torch.save({"classes": 10, "network": net.state_dict()}, path)
        older = lowrank.load(path.parent.name, trained)
    finally:
        path.write_bytes(content)
    assert all(map(torch.equal, net.state_dict().values(), older.state_dict().values()))
    torch.load(path, weights_only=True)  # what torch alone makes of it


@pytest.mark.parametrize("device", ["cuda:99", "gpu", 2.5, ""])
def test_a_device_that_is_not_there_is_not_taken_for_damage(trained, device):
    [path] = trained.glob("*/weights.pt")
    with pytest.raises(InputError, match=f"^device={device!r}; allowed: a device of this machine"):
        lowrank.load(path.parent.name, trained, device)
    assert lowrank.load(path.parent.name, trained, "cpu:0")


@pytest.mark.parametrize("run", ["x" * 300, "a\0b", "..", "nowhere"])
def test_weights_of_a_run_that_cannot_be_are_one_line(trained, run):
    with pytest.raises(InputError, match="there is no such run in runs="):
        lowrank.load(run, trained)
    with pytest.raises(InputError, match="there is no|cannot be"):
        lowrank.history(trained, run)
