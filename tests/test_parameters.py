"""The check of one value: what is meant is taken, in its type, and what is not allowed is said."""

from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
import pytest

from lowrank.config import Config
from lowrank.errors import InputError
from lowrank.parameters import checked, choice


def test_whole_numbers_are_fine_where_a_float_is_meant():
    assert Config(budget=1).budget == 1.0
    assert Config(weight_decay=0) == Config(weight_decay=0.0)


def test_a_recipe_may_be_given_as_the_number_that_papermill_reads():
    assert Config(recipe=2018) == Config(recipe="2018")


NUMPY = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}


def test_numbers_of_numpy_are_numbers():
    """In every field, so that a row of a table can be asked for again; the id stays."""
    plain = Config(decomp="cp", dims=4, budget=0.25, epochs=7, augment=False, seed=2**63 - 1, dataset="digits")
    given = {name: NUMPY[type(value)](value) for name, value in asdict(plain).items()}
    config = Config(**given)
    assert config == plain and config.run_id("pixels") == plain.run_id("pixels")
    assert {type(value) for value in asdict(config).values()} == {bool, int, float, str}
    row = pd.DataFrame([asdict(plain)]).iloc[0]
    assert Config(**row) == plain


def test_a_choice_is_among_what_there_is_now():
    """Formats are registered after the parameter is made."""
    options = {"tt": 1}

    @dataclass
    class Asked:
        form: str = choice("tt", "the form", options, ", or your own")

    [form] = fields(Asked)
    with pytest.raises(InputError, match="^form='mine'; allowed: tt, or your own$"):
        checked(form, "mine")
    options["mine"] = 2
    assert checked(form, "mine") == "mine"
