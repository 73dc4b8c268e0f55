"""What a record may say: every number that a run can have had or measured, and no other."""

import math

import pytest

from lowrank.fields import MEASURED, TYPES, check_fields, is_of_epoch, is_possible

NUMBERS = [name for name, kind in TYPES.items() if kind in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_negative_infinite_or_none(name):
    assert not any(is_possible(name, value) for value in (-1, -math.inf, math.inf, math.nan))


@pytest.mark.parametrize("name", [name for name in MEASURED if name in NUMBERS])
def test_what_was_measured_lies_between_nothing_and_what_float32_holds(name):
    assert is_possible(name, 0) and is_possible(name, 1)
    assert is_possible(name, 3e38) is not name.endswith("accuracy") and not is_possible(name, 1e39)


def test_only_the_history_of_a_run_that_diverges_has_no_number():
    assert is_of_epoch("train_loss", math.nan) and is_of_epoch("train_loss", math.inf)
    assert not is_of_epoch("train_loss", -math.inf) and not is_of_epoch("epoch", 1.5)


def test_a_field_is_named_with_what_is_wrong_with_it():
    check_fields({"dims": 3, "test_accuracy": None, "mine": -5})
    with pytest.raises(ValueError, match="^dims='3' is not int$"):
        check_fields({"dims": "3"})
    with pytest.raises(ValueError, match="^test_accuracy=1.5 is out of range$"):
        check_fields({"test_accuracy": 1.5})
