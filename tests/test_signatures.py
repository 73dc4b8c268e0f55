"""Functions that take any parameter of a run show each of them: to help(), to Tab and in their docstring."""

import inspect
from dataclasses import dataclass

import pytest

import lowrank
from lowrank.config import Config
from lowrank.parameters import parameter
from lowrank.signatures import show_parameters


@pytest.mark.parametrize(
    "function", [lowrank.run, lowrank.sweep, lowrank.status, lowrank.grid], ids=lambda f: f.__name__
)
def test_every_parameter_is_shown_with_its_meaning(function):
    shown, doc = inspect.signature(function), inspect.getdoc(function)
    for name, field in Config.__dataclass_fields__.items():
        assert name in shown.parameters and f"{name} = {field.default!r}" in doc
        assert " ".join(field.metadata["doc"].split()) in " ".join(doc.split())
        assert field.metadata["doc"] in " ".join(inspect.getdoc(Config).split())
    assert not [each for each in shown.parameters.values() if each.kind is each.VAR_KEYWORD]
    assert " at 0x" not in str(shown) and "Ellipsis" not in str(shown)


@pytest.mark.parametrize("jedi", [True, False])
def test_tab_completes_parameters_and_names(jedi):
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.user_ns["lowrank"] = lowrank
    shell.Completer.use_jedi = jedi
    asked = {
        "run(label_": "label_smoothing=",
        "sweep('rates', bud": "budget=",
        "grid(rank_r": "rank_rule=",
        "pred": "predict",
    }
    for text, wanted in asked.items():
        with provisionalcompleter():
            found = [each.text.lstrip(".") for each in shell.Completer.completions(f"lowrank.{text}", 8 + len(text))]
        assert wanted in found


@dataclass
class Asked:
    dims: int = parameter(3, "modes of a weight", "2 to 9", lambda value: 2 <= value <= 9)
    augment: str = parameter("auto", "crop images", "True, False or auto", bool, kinds=(str, bool))


@pytest.mark.parametrize(
    ("given", "listed", "shown"),
    [
        (True, False, "(log=print, *, dims: int = 3, augment: str | bool = 'auto')"),
        (False, False, "(log=print, *, dims: int = ..., augment: str | bool = ...)"),
        (True, True, "(log=print, *, dims: Iterable[int] = 3, augment: Iterable[str | bool] = 'auto')"),
    ],
)
def test_parameters_are_shown_as_they_are_given(given, listed, shown):
    @show_parameters(Asked, given, listed)
    def train(log=print, **parameters):
        """Trains."""

    assert str(inspect.signature(train)).replace("collections.abc.", "") == shown
    assert train.__doc__.startswith("Trains.\n\nParameters of a run, ")
    assert "    dims = 3\n        modes of a weight. Allowed: 2 to 9.\n" in train.__doc__


def test_a_parameter_that_a_function_names_itself_is_shown_once_as_it_names_it():
    @show_parameters(Asked)
    def train(dims=5, **parameters):
        """Trains."""

    assert str(inspect.signature(train)) == "(dims=5, *, augment: str | bool = 'auto')"
