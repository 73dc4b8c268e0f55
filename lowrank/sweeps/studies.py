"""The named studies, as plain data: lists of parameters, at three scales.

`smoke` is a rehearsal (small networks, most of which learn the built-in digits beyond 90%, seconds a run), `cpu`
answers (a network of width 16, 30 epochs by the fast recipe, 10 to 14 minutes a run and core), `gpu` is the study at
full width. At `cpu` a tenth of the training images is kept apart: rates, modes and rank rules are chosen on it, and the
test accuracy of what was chosen is reported. A study of your own is a list:

    from lowrank import grid, sweep
    mine = grid(decomp=["tt", "ring"], dims=[3, 4], budget=[0.1, 0.3], dataset=["digits"], epochs=[4])
    sweep(mine, seeds=3)

In a list `start` may be the parameters of the run to start from, as far as they differ from those of the run itself:
that one is then trained first, and keeps its weights.

How many seeds: SEEDS of every setting, more if a run says `seed` itself. A contest that is open after those (the
simultaneous 95% interval holds 0 and reaches beyond 1 point) gets two seeds more on both sides, at most three times;
intervals are then those of three looks at the data (Bonferroni), and nothing else decides when to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice, product
from math import prod
from typing import Any

from ..config import PLAIN, Config, InputError
from ..errors import refuse_unknown
from ..signatures import show_parameters

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "dataset": "digits",
        "width": 8,
        "epochs": 6,
        "batch_size": 32,
        "learning_rate": 0.1,
        "precision": "float32",
    },
    "cpu": {"dataset": "cifar10", "width": 16, "epochs": 30, "batch_size": 512, "recipe": "fast", "validation": 0.1},
    "gpu": {"dataset": "cifar10", "width": 64, "epochs": 24, "batch_size": 512, "precision": "bfloat16"},
}
MOST_RUNS = 1_000_000  # of a grid
SEEDS = {"smoke": 2, "cpu": 3, "gpu": 5}
DIMS = {"smoke": [2, 3], "cpu": [2, 3, 4, 6], "gpu": [2, 3, 4, 5, 6, 7, 8, 9]}
BUDGETS = {"smoke": [0.1, 0.5], "cpu": [0.05, 0.1, 0.25], "gpu": [0.02, 0.05, 0.1, 0.2, 0.4, 0.7]}
HALF_OR_FULL = {"smoke": ["float32"], "cpu": ["float32", "bfloat16"], "gpu": ["float32", "bfloat16", "float16"]}
FORMS = ["bottleneck", "tt", "tucker", "tucker_tt", "cp", "ring"]
MODES = {"tt": 4, "tucker": 3, "tucker_tt": 3, "cp": 4, "ring": 3}  # the best of each, by runs of 2 epochs
RULES = ["useful", "root", "uniform"]
# Plain networks of these widths are as large as decomposed ones of 16 and 32 channels at the budgets of `cpu`.
NARROW = {"smoke": [4, 6], "cpu": [5, 6, 7, 9, 10, 12, 17], "gpu": [16, 20, 26, 36, 44, 54]}

# Budgets to which trained networks are decomposed, epochs that they are then trained on, and the widths of the plain
# networks that are as large, in the order of the budgets.
COMPRESSED: dict[str, dict[str, list[Any]]] = {
    "smoke": {"budget": [0.25], "epochs": [0, 1], "separable": [5], "dense": [4]},
    "cpu": {"budget": [0.05, 0.1, 0.25], "epochs": [0, 2, 6], "separable": [6, 7, 9], "dense": [4, 5, 8]},
    "gpu": {"budget": [0.05, 0.1, 0.25], "epochs": [0, 2, 6], "separable": [18, 23, 33], "dense": [14, 20, 32]},
}
PARENTS = {"smoke": 6, "cpu": 24, "gpu": 24}  # their epochs: at `cpu`, 24 and 6 more are as long as all other runs
SLOWER = {"smoke": [], "cpu": [0.1, 0.2], "gpu": []}  # rates of training on, beside that of all: chosen on validation

# A bottleneck of rank channels // k holds 2 / k of the weights of a square layer: that is the budget of k.
FRACTIONS = {"smoke": [2, 31], "cpu": [10, 31], "gpu": [2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 31]}
LONG = {"epochs": 128, "schedule": "cosine", "learning_rate": 0.2}  # the log's other recipe
CAPPED = {"smoke": 0.2, "cpu": 0.12, "gpu": 0.05}  # budgets at which the caps of 2019 bind a tensor train of 4 modes
# In 2019 a loss summed over 512 images met the decay: in today's units it was that many times weaker. The group of the
# decomposed weights followed no schedule and kept the rate that the optimiser had been given.
FAULTS: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": "constant", "learning_rate": 0.2},
    "decay": {"weight_decay": 5e-4 / 512},
    "rank rule": {"rank_rule": "original"},
    "initialisation": {"init": "decompose"},
}


@show_parameters(Config, given=False, listed=True)
def grid(**lists: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination of the listed values, one dictionary a run.

    Raises InputError if a name is no parameter of `lowrank.run`, or a value is no list.

    >>> lowrank.grid(decomp=["tt", "cp"], dims=[3, 4])[:2]
    [{'decomp': 'tt', 'dims': 3}, {'decomp': 'tt', 'dims': 4}]
    """
    refuse_unknown(lists, Config.__dataclass_fields__)
    choices = {name: list_values(name, values) for name, values in lists.items()}
    if (size := prod(map(len, choices.values()))) > MOST_RUNS:
        raise InputError(f"a grid of {size:,} runs or more; allowed: {MOST_RUNS:,} at most")
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def list_values(name: str, values: Iterable[Any]) -> list[Any]:
    """The values, but not many more than a grid may have. Raises InputError at one value, and at a text."""
    try:
        if not isinstance(values, str | bytes):
            return list(islice(values, MOST_RUNS + 1))
    except TypeError:
        pass
    raise InputError(f"{name}={values!r}: a grid takes a list of values, {name}=[{values!r}]")


def each(runs: Iterable[Mapping[str, Any]], *variants: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every run in every variant."""
    return [{**run, **variant} for run in runs for variant in variants]


def best(*decomps: str) -> list[dict[str, Any]]:
    """The decompositions at the number of modes that suits each best."""
    return [{"decomp": decomp} | ({"dims": MODES[decomp]} if decomp in MODES else {}) for decomp in decomps]


def plain_networks(*widths: int) -> list[dict[str, Any]]:
    """Separable networks of these widths."""
    return grid(decomp=["separable"], width=widths)


def modes(scale: str, *decomps: str) -> list[dict[str, Any]]:
    """Decompositions over mode counts, at the smallest and the largest budget or, on a GPU, at all."""
    budgets = BUDGETS[scale]
    return grid(decomp=decomps, dims=DIMS[scale], budget=budgets if scale == "gpu" else [budgets[0], budgets[-1]])


def short(scale: str) -> dict[str, Any]:
    """At `cpu`, as long as runs are that choose by validation accuracy what others are trained with."""
    return {"epochs": 4} if scale == "cpu" else {}


def baselines(scale: str) -> list[dict[str, Any]]:
    """The log's networks by its recipe: at `cpu` once and at their full width, on a GPU also by the fast one, and long.

    Bottlenecks of half as many channels hold all weights of a separable network, of a tenth a fifth of them.
    """
    forms = [*grid(decomp=["dense", "separable"]), {"decomp": "bottleneck", "budget": 1.0}]
    if scale == "cpu":
        return each(forms, {"width": 64, "epochs": 24, "recipe": "2018", "validation": 0.0, "seed": 0})
    forms.append({"decomp": "bottleneck", "budget": 0.2})
    recipes = grid(recipe=["2018", "fast"])
    return each(forms, *(each(recipes, {}, LONG) if scale == "gpu" else recipes))


def precision(scale: str) -> list[dict[str, Any]]:
    """Half against full precision (bfloat16 crawls if a processor does not know it)."""
    forms = [*grid(decomp=["separable"]), *each(best("cp"), {"budget": 0.1})]
    return each(forms, *grid(precision=HALF_OR_FULL[scale], seed=range(4)))


def rates(scale: str) -> list[dict[str, Any]]:
    """Short runs that choose a learning rate for every form."""
    forms = [*grid(decomp=["separable"]), *each(best(*FORMS), {"budget": 0.1})]
    return each(each(forms, short(scale)), *grid(learning_rate=[0.2, 0.4, 0.8]))


def tuning(scale: str) -> list[dict[str, Any]]:
    """Short runs, one a setting, that choose where to look: every placement of the ranks for every form."""
    return each(each(best(*FORMS), {"budget": 0.1, "seed": 0} | short(scale)), *grid(rank_rule=RULES))


def weight_decay(scale: str) -> list[dict[str, Any]]:
    """Bottlenecks whose ranks are small under every kind of weight decay."""
    ranks = grid(decomp=["bottleneck"], budget=[round(2 / k, 4) for k in FRACTIONS[scale]])
    kinds = [*grid(decay=["plain", "compression", "frobenius"]), {"decay": "none", "weight_decay": 0.0}]
    return each(each(ranks, *kinds), LONG if scale == "gpu" else {})


def overfitting(scale: str) -> list[dict[str, Any]]:
    """How far each form can fit the training images without augmentation or decay."""
    small, large = BUDGETS[scale][-2:]
    forms = [*grid(decomp=["dense", "separable"]), *plain_networks(NARROW[scale][3 if scale == "cpu" else -1])]
    forms += each(best("bottleneck", "tt", "cp"), {"budget": large}) + each(best("cp"), {"budget": small})
    return each(forms, {"augment": False, "decay": "none", "weight_decay": 0.0})


def shoot_out(scale: str) -> list[dict[str, Any]]:
    """All decompositions at equal budgets, with the plain networks as the ends of the scale."""
    return grid(decomp=["dense", "separable"]) + each(best(*FORMS), *grid(budget=BUDGETS[scale]))


def when_it_pays(scale: str) -> list[dict[str, Any]]:
    """Decompositions beside plain networks that are narrower, for a parent and one twice as wide."""
    budgets, width = BUDGETS[scale], SCALES[scale]["width"]
    small = each(best("tt", "cp", "ring"), {"budget": 0.02}) if scale == "cpu" else []
    wide = each(best("bottleneck", "tt", "cp", "ring"), *grid(budget=budgets, width=[2 * width]))
    parent = each(best("bottleneck", "tt", "cp", "ring"), *grid(budget=budgets))
    return [*plain_networks(*NARROW[scale]), *grid(decomp=["separable"]), *parent, *small, *wide]


def rank_placement(scale: str) -> list[dict[str, Any]]:
    """Where the ranks go: in proportion to the useful ones, to their roots, or all equal."""
    budgets = [BUDGETS[scale][0], BUDGETS[scale][-1]]
    return each(best("bottleneck", "tt", "ring"), *grid(budget=budgets, rank_rule=RULES))


def null_control(scale: str) -> list[dict[str, Any]]:
    """CP and a tensor train of 2 modes are a bottleneck by another name: what differs between the three is chance."""
    return each([{"decomp": "bottleneck"}, *grid(decomp=["tt", "cp"], dims=[2])], {"budget": 0.1})


def horizon(scale: str) -> list[dict[str, Any]]:
    """Whether four times as many epochs change the order of the forms."""
    forms = [*plain_networks(NARROW[scale][2 if scale == "cpu" else -1]), *each(best("tt", "cp"), {"budget": 0.1})]
    return each(forms, {"epochs": 4 * SCALES[scale]["epochs"]})


def compress(scale: str) -> list[dict[str, Any]]:
    """Trained networks decomposed and trained on, beside decomposed and plain narrow ones trained as long altogether.

    By the fast recipe, whose core rates fine-tuning needs: at one rate for all, CP loses what was learned.
    """
    at, whole = COMPRESSED[scale], PARENTS[scale]
    recipe = {"recipe": "fast"} | ({"without": "flip at test"} if scale == "smoke" else {})
    sizes, long = grid(budget=at["budget"]), {"epochs": whole + max(at["epochs"])}
    parent = {"epochs": whole, "learning_rate": SCALES[scale].get("learning_rate", 0.0)}
    on = {form: grid(start=[{"decomp": form, **parent}], epochs=at["epochs"][::-1]) for form in PLAIN}
    forms = best("bottleneck", "tt", "cp")
    few = each(forms, *sizes)
    narrow = [run for form in PLAIN for run in each(grid(decomp=[form], width=at[form]), long)]
    separable = each(each(best(*FORMS), *sizes), *on["separable"])
    longest = on["separable"][0]
    slower = each(each(forms, {"budget": 0.1} | longest), *grid(learning_rate=SLOWER[scale]))
    return each([*separable, *slower, *each(few, long), *narrow, *each(few, *on["dense"])], recipe)


def original_2019(scale: str) -> list[dict[str, Any]]:
    """The 2019 experiments as they were, one run a setting: every fault at once, in float32."""
    scales = {"smoke": [0.5], "cpu": [0.05, 0.95], "gpu": [round(0.05 + 0.1 * k, 2) for k in range(10)]}
    forms = grid(decomp=["tt", "tucker_tt"], dims=DIMS[scale], rank_scale=scales[scale])
    long = {"epochs": 128} if scale == "gpu" else {}
    return each(forms, faulty(FAULTS) | {"precision": "float32", "recipe": "2018", "seed": 0} | long)


def faulty(faults: Iterable[str]) -> dict[str, Any]:
    """The parameters of several faults of 2019 together."""
    return {name: value for fault in faults for name, value in FAULTS[fault].items()}


def then_and_now(scale: str) -> list[dict[str, Any]]:
    """One network with every even number of the faults of 2019: half of all 16 combinations.

    What each fault costs alone is then free of what any two cost together (Box & Hunter 1961, resolution IV).
    """
    halves = [[f for f, has in zip(FAULTS, chosen, strict=True) if has] for chosen in product([0, 1], repeat=4)]
    train = {"decomp": "tt", "dims": 4, "budget": CAPPED[scale], "recipe": "2018"}
    return each([train], *(faulty(faults) for faults in halves if len(faults) % 2 == 0))


MAKERS = {
    "shoot-out": shoot_out,
    "when-it-pays": when_it_pays,
    "rank-placement": rank_placement,
    "tuning": tuning,
    "rates": rates,
    "null-control": null_control,
    "weight-decay": weight_decay,
    "tensor-train": lambda scale: modes(scale, "tt"),
    "cp": lambda scale: modes(scale, "cp"),
    "ring": lambda scale: each(modes(scale, "ring"), short(scale)),
    "tucker": lambda scale: each(modes(scale, "tucker", "tucker_tt"), short(scale)),
    "overfitting": overfitting,
    "then-and-now": then_and_now,
    "original-2019": original_2019,
    "precision": precision,
    "horizon": horizon,
    "compress": compress,
    "baselines": baselines,
}
STUDIES = {name: {scale: make(scale) for scale in SCALES} for name, make in MAKERS.items()}
