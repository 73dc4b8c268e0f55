"""What a user sees in place of a traceback: one line, whatever was given, that says what can be done."""

import re
from functools import partial, wraps

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.errors import (
    LONGEST,
    InputError,
    check_functions,
    printable,
    refuse_unknown,
    whole_number,
)


def test_a_notebook_shows_the_line_instead_of_a_traceback():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    with capture_output() as shown:
        InteractiveShell.instance().run_cell("from lowrank.config import Config; Config(dims=1)")
    assert shown.stdout.strip() == "InputError: dims=1; allowed: 2 to 32"


@given(st.text(st.characters()), st.sampled_from([1, 3 * LONGEST]))
@settings(deadline=None)
def test_whatever_is_in_a_message_it_is_one_line_that_can_be_printed_and_keeps_both_its_ends(text, times):
    line, whole = str(InputError(text * times)), printable(" ".join((text * times).splitlines()))
    line.encode()
    assert len(line.splitlines()) <= 1 and len(line) <= LONGEST
    half = LONGEST // 2 - 5
    assert line == whole if len(whole) <= LONGEST else (line[:half], line[-half:]) == (whole[:half], whole[-half:])


@pytest.mark.parametrize("value", [2, 9, np.int64(5), np.uint8(2)])
def test_a_whole_number_within_its_bounds_is_an_int(value):
    found = whole_number("dims", value, 2, 9)
    assert type(found) is int and found == value


@pytest.mark.parametrize("value", [1, 10, True, 2.0, "3", None, np.float64(3)], ids=repr)
def test_what_is_no_whole_number_within_its_bounds_is_refused(value):
    with pytest.raises(InputError, match=f"^dims={re.escape(repr(value))}; allowed: an int, 2 to 9$"):
        whole_number("dims", value, 2, 9)


def test_a_name_that_there_is_not_is_answered_by_the_nearest_or_by_all():
    refuse_unknown({"dims": 3}, ["dims", "width"])
    with pytest.raises(InputError, match="^dimz=3: there is no such parameter; did you mean dims[?]$"):
        refuse_unknown({"dims": 3, "dimz": 3}, ["dims", "width"])
    with pytest.raises(InputError, match="^q=3: there is no such parameter; allowed are dims, width$"):
        refuse_unknown({"q": 3}, ["dims", "width"])


def one(line, more=1):
    """Takes one argument."""


def two(line, more):
    """Takes two."""


GOOD = [print, one, [].append, partial(two, more=1), lambda *lines: None, wraps(two)(lambda line: None)]
WRONG = [5, two, lambda: None, partial(two), lambda *, line=1: None, wraps(one)(lambda line, more: None)]


@pytest.mark.parametrize("function", GOOD)
def test_a_function_of_one_argument_is_taken(function):
    check_functions(log=function)


@pytest.mark.parametrize("function", WRONG)
def test_what_cannot_be_called_with_one_argument_is_refused(function):
    with pytest.raises(InputError, match="^log=.*; allowed: a function of one argument$"):
        check_functions(log=function)
