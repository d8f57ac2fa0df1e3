"""Methods: which three parts a name stands for, as data.

A method is a row of three parts; each can be replaced or switched off. There
is no class for a combination: what is off is `None`.

| method     | architecture        | augmentation       | hyperparameters      |
|------------|---------------------|--------------------|----------------------|
| auto       | DSNAS               | influence          | hypergradient        |
| autohas    | Reinforce           |                    | AutoHAS              |
| darts      | DARTS               |                    |                      |
| dha        | ISTA                | pairs, DHA's loss  | one-step             |
| diffautoml | DSNAS               | relaxed            | one-step             |
| dsnas      | DSNAS               |                    |                      |
| gdas       | GDAS                |                    |                      |

Those of the papers do what the papers do, as far as one run that delivers its
weights allows. What all of them have otherwise than published: step sizes of
what is searched suit a run of some thousand steps, where published ones are
for some hundred thousand (DHA: Adam at 3e-4 for codes, SGD at 1e-8 for the
hyperparameters; DSNAS: Adam at 1e-3); Adam on the architecture remembers nine
tenths of its mean per step, where DARTS, DSNAS and DHA keep a half, and there
is no weight decay on it, where DARTS and DHA have 1e-3; learning rate and decay
have the bounds that suit the optimizer, and the rate starts where a range test
says and is a factor of the base schedule; where DHA and DiffAutoML go along the
hypergradient itself, the rate follows its cosine and decay Adam's direction of
it; policies that move by Adam are drawn back to where they began, and weight
decay to the middle of its range; the search split is disjoint from what trains
the weights, which the code of DHA does not see to.

`"auto"` searches by DSNAS. Each choice is drawn at half of the steps of a
longer search, and is what leads at the others, whose training is not lost. It
augments fewer and fewer images in the last three tenths of a run
(`keras_dha.augmentation.learned`), and learns nothing but weights there. None
of the papers' methods does either.

`"dsnas"`: Hu et al., "DSNAS", CVPR 2020. It searches for a fifth of a run,
where the paper has a third: `strategy=keras_dha.strategies.DSNAS(until=1 / 3)`.

`"autohas"`: Dong et al., "AutoHAS", arXiv 2006.03656, 2020. Outer steps at
every step. The paper trains what it found anew; here training goes on.

`"darts"`: Liu et al., "DARTS", ICLR 2019, first order. Outer steps at every
eighth step and a search split of a twentieth, where the paper has every step
and a half (`outer_every=1`, `search_split=0.5`): more is left for the weights,
which are kept. The space of that name has no operation "none" unless asked for
(`keras_dha.spaces.darts(..., none=True)`).

`"dha"`: Zhou et al., "DHA", TMLR 2022, and its code. Codes of 7 numbers,
measured by uniform matrices, follow the training loss. In the first tenth,
before they move, anything is tried, and later nothing beside what is kept; in
the code of DHA that is so from the start. A policy over the ordered pairs of 14
operations, at random magnitudes, goes by its loss and the published numbers,
by which it stays about even (`keras_dha.augmentation.estimators.DHA`).
A decision is made when its code has rested for three hundredths of a run, where
the paper compares the ends of two epochs. An identity in the space `"darts"`
has no normalisation behind it, where theirs has one. Hyperparameters
follow the one-step hypergradient at every step. Sub-policies are drawn from
the policy itself, where the code draws them from a relaxed sample of it at a
temperature of 2. Left out: the fixed Cutout behind the policy, magnitudes that
are weaker in the search, the auxiliary head, and what an optimizer of Keras
brings, clipping by `global_clipnorm` and decay of all weights by
`weight_decay`.

`"gdas"`: Dong & Yang, "GDAS", CVPR 2019. Outer steps and search split as for
`"darts"`, where the paper has every step and a half.

`"diffautoml"`: "DiffAutoML", ICLR 2021 submission. DSNAS as published, with
a margin of 0.3 and a search of a third of the run (80 of 240 epochs), a
relaxed policy, and the one-step hypergradient at every step. The relaxed
policy follows the search loss after the step; the paper's follows the
training loss, which would choose what is easy.
"""

from typing import NamedTuple

from keras_dha import outer_steps
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import GDAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.architecture.strategies import Reinforce
from keras_dha.architecture.strategies import Strategy
from keras_dha.augmentation import is_policy_layer
from keras_dha.hyperparameters.autohas import AutoHAS
from keras_dha.hyperparameters.hypergradient import DISCOUNTED
from keras_dha.hyperparameters.hypergradient import HORIZONS
from keras_dha.hyperparameters.hypergradient import ONE_STEP
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.quantities import listed
from keras_dha.hyperparameters.quantities import validated


class Parts(NamedTuple):
    """What is learned beside the weights; `None` is off.

    Attributes:
        strategy: `Strategy` of the architecture search.
        augmentation: `"auto"`, arguments of a `DifferentiableAugmentation`
            as a dict, or the layer itself.
        hyperparameters: Dict from name to number or `Range`; `"auto"` for
            what suits the optimizer; or an `AutoHAS` that holds these.
        horizon: `hypergradient.Horizon` by which they are learned.
        outer_every: Integer, steps from one outer step to the next; `"auto"`
            for a number of them in a run (`keras_dha.outer_steps`).
        refinement: Float in [0, 1), the last share of a run, over which fewer
            and fewer images are augmented, and nothing but weights is learned.
    """

    strategy: object
    augmentation: object
    hyperparameters: object
    horizon: Horizon = DISCOUNTED
    outer_every: int | str = outer_steps.CLOSEST
    refinement: float = 0.0

    @property
    def values(self):
        """What is asked of the hyperparameters, whoever learns them."""
        asked = self.hyperparameters
        return asked.values if isinstance(asked, AutoHAS) else asked


# The fourteen of the code of DHA. Not its magnitudes, which are not monotone.
DHA_POLICY = {
    "operations": (
        *("AutoContrast", "Equalize", "Identity", "Rotate", "Posterize"),
        *("Solarize", "Color", "Contrast", "Brightness", "Sharpness"),
        *("ShearX", "ShearY", "TranslateX", "TranslateY"),
    ),
    "length": 2,
    "shift": None,
    "clean": 0.0,
    "estimator": "dha",
}


METHODS = {
    "auto": lambda: Parts(
        *(DSNAS(until=0.4, exploration=0.5), "auto", "auto"),
        outer_every="auto",
        refinement=0.3,
    ),
    "autohas": lambda: Parts(Reinforce(), None, AutoHAS(), outer_every=1),
    "darts": lambda: Parts(DARTS(), None, None),
    "dha": lambda: Parts(
        ISTA(measurement="uniform", exploration=0.0),
        DHA_POLICY,
        "auto",
        ONE_STEP,
        outer_every=1,
    ),
    "diffautoml": lambda: Parts(
        DSNAS(until=1 / 3),
        {"estimator": "relaxed"},
        "auto",
        ONE_STEP,
        outer_every=1,
    ),
    "dsnas": lambda: Parts(DSNAS(), None, None),
    "gdas": lambda: Parts(GDAS(), None, None),
}


def parts(
    method,
    strategy,
    augmentation,
    hyperparameters,
    horizon="auto",
    outer_every="auto",
):
    """Returns the `Parts` of a method with the given ones in their place.

    Args:
        method: Name of a method.
        strategy, augmentation, hyperparameters, horizon, outer_every: As
            `keras_dha.AutoModel` takes them; `"auto"` keeps the method's.
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {sorted(METHODS)}. "
            f"Received: method={method!r}"
        )
    row = METHODS[method]()
    if strategy != "auto":
        row = row._replace(strategy=_checked_strategy(strategy))
    if not isinstance(augmentation, str) or augmentation != "auto":
        row = row._replace(
            augmentation=_checked_augmentation(augmentation),
            # A layer of the user's is carried out as it is, to the end.
            refinement=row.refinement if augmentation is None else 0.0,
        )
    row = row._replace(
        hyperparameters=_checked_hyperparameters(
            row.hyperparameters, hyperparameters
        )
    )
    if horizon != "auto":
        row = row._replace(horizon=_checked_horizon(row, horizon))
    if outer_every != "auto":
        row = row._replace(outer_every=outer_every)
    elif row.horizon.restart:
        # An outer step in between would look back over fewer steps.
        row = row._replace(outer_every=row.horizon.restart)
    elif _needs_many_outer_steps(row) and row.outer_every == "auto":
        row = row._replace(outer_every=outer_steps.CLOSEST)
    return row


def _needs_many_outer_steps(row):
    """Whether an architecture, or all values, move by these steps alone."""
    judged = row.strategy is not None and row.strategy.follows_search_split
    return judged or isinstance(row.hyperparameters, AutoHAS)


def _checked_hyperparameters(of_method, given):
    """Returns what is given; a method keeps its engine for other values."""
    if isinstance(given, AutoHAS):
        return given
    if isinstance(given, str) and given == "auto":
        return of_method
    if given is not None and not isinstance(given, dict):
        raise ValueError(
            "`hyperparameters` must be 'auto', None, a dict or a "
            f"`keras_dha.AutoHAS`. Received: hyperparameters={given!r}"
        )
    values = validated(given or {})
    if values and isinstance(of_method, AutoHAS):
        return of_method.with_values(values)
    return values or None


def _checked_horizon(row, horizon):
    if isinstance(row.hyperparameters, AutoHAS):
        raise ValueError(
            "AutoHAS learns by reward and has no horizon: leave "
            "horizon='auto', or give `hyperparameters` as a dict to a "
            f"method with hypergradients. Received: horizon={horizon!r}"
        )
    if row.hyperparameters is None:
        raise ValueError(
            "A horizon is of hyperparameters that are learned: leave "
            "horizon='auto', or give `hyperparameters`. "
            f"Received: horizon={horizon!r}, hyperparameters=None"
        )
    if isinstance(row.hyperparameters, dict) and not any(
        quantity.is_learned for quantity in listed(row.hyperparameters)
    ):
        raise ValueError(
            "A horizon is of hyperparameters that are learned: leave "
            "horizon='auto', or give one of them a `keras_dha.Range`. "
            f"Received: horizon={horizon!r}, "
            f"hyperparameters={row.hyperparameters!r}"
        )
    if isinstance(horizon, Horizon):
        return horizon
    if horizon not in HORIZONS:
        raise ValueError(
            f"`horizon` must be 'auto' or one of {sorted(HORIZONS)}. "
            f"Received: horizon={horizon!r}"
        )
    return HORIZONS[horizon]


def _checked_strategy(strategy):
    if strategy is None or isinstance(strategy, Strategy):
        return strategy
    raise ValueError(
        "`strategy` must be 'auto', None or an object of "
        f"`keras_dha.strategies`. Received: strategy={strategy!r}"
    )


def _checked_augmentation(augmentation):
    if augmentation is None or is_policy_layer(augmentation):
        return augmentation
    raise ValueError(
        "`augmentation` must be 'auto', None or a "
        "`keras_dha.DifferentiableAugmentation`. "
        f"Received: augmentation={augmentation!r}"
    )
