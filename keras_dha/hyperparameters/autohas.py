"""AutoHAS: hyperparameters that are sampled from a basis, and rewarded.

Each `Range` becomes a categorical basis, m points B_1 ... B_m evenly on its
scale, with logits theta and P = softmax(theta). Its value is a combination of
them, on that scale:

    while it is tried      sum_k C_k B_k,  C a one-hot sample of P
    what has come of it    sum_k P_k B_k,  the expected value

so for a log range the latter is the geometric mean exp(sum_k P_k log B_k).
The arithmetic one would be ruled by the largest element: with even P over
1e-4 ... 1 it is 0.22 (m = 5), where the middle of the range is 0.01.

A sample is tried in a temporary step (`keras_dha.temporary_step`), and the
logits move along (r - baseline)(C - P), with r its reward. One step on a small
search batch says little, so the rewards are mostly noise, which moves logits
at random. As for policies (`keras_dha.augmentation.learned`) steps shrink,
a_t = a / sqrt(1 + t / 100): signal adds up as sqrt(t), noise as sqrt(log t).

What the weights are trained by: while an architecture is searched a sample of
its own, as in the paper, for those weights are shared by all that is sampled.
Before that, and once the network is plain, the expected value: these weights
are the ones that are delivered.
"""

import keras
import numpy as np
from keras import ops

from keras_dha.arguments import checked_count
from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters import quantities
from keras_dha.hyperparameters.engine import Engine
from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam
from keras_dha.reward import checked as checked_reward

# After so many updates the steps are down to 0.7 of the first.
_STEADY = 100.0
# How near to an end, in parts of the basis' spacing, a start may be: nearer
# to it nothing but the end would ever be tried,
_NEAREST = 0.1
# and from where on a quantity counts as being at its bound.
_AT_BOUND = 0.5


@keras.saving.register_keras_serializable("keras_dha")
class AutoHAS:
    """Learns hyperparameters by sampling and reward, in place of gradients.

    Needs no derivative by a hyperparameter, so whatever has a `Range` can be
    learned, together with an architecture (`keras_dha.strategies.Reinforce`,
    by the same samples and rewards) or without one. Each outer step takes a
    temporary step more than a plain one.

    What a sample is worth is seen one step further only: that tells a ruinous
    value from a sound one, but hardly a learning rate that is slow from one
    that is fast. So leave its start to the range test, or give a good one.

    Args:
        values: `"auto"` for what suits the optimizer, or a dict as
            `keras_dha.AutoModel(hyperparameters=...)` takes it.
        basis: Integer m of at least 2, elements of each range's basis.
        learning_rate: Float, first step size of Adam on the logits.
        reward: `"accuracy"` on the search split, as in the paper, or
            `"loss"`, the search loss with its sign turned.

    Raises:
        ValueError: A value that an engine could not take.

    Example:

    >>> model = keras_dha.AutoModel(
    ...     strategy=None,
    ...     augmentation=None,
    ...     hyperparameters=keras_dha.AutoHAS({
    ...         "learning_rate": keras_dha.Range(1e-3, 1.0),
    ...         "label_smoothing": keras_dha.Range(0.0, 0.3, "linear"),
    ...     }),
    ... )

    Reference:
        Dong et al., "AutoHAS: Efficient Hyperparameter and Architecture
        Search", arXiv 2006.03656, 2020.
    """

    def __init__(
        self, values="auto", basis=5, learning_rate=0.05, reward="accuracy"
    ):
        is_auto = isinstance(values, str) and values == "auto"
        if not is_auto and not isinstance(values, dict):
            raise ValueError(
                "`values` must be 'auto' or a dict. "
                f"Received: values={values!r}"
            )
        if not learning_rate > 0:
            raise ValueError(
                "`learning_rate` must be positive. "
                f"Received: learning_rate={learning_rate}"
            )
        self.values = values if is_auto else quantities.validated(values)
        self.basis = checked_count("basis", basis, least=2)
        self.learning_rate = learning_rate
        self.reward = checked_reward(reward)

    def with_values(self, values):
        """Returns the same with other `values`."""
        return AutoHAS(values, self.basis, self.learning_rate, self.reward)

    def engine(self, values):
        """Returns the `SampledHyperparameters` of a run.

        Args:
            values: Dict of all its values, with those of the optimizer.
        """
        return SampledHyperparameters(
            values, self.basis, self.learning_rate, self.reward
        )

    def get_config(self):
        """Returns the constructor's arguments as a JSON-able dict."""
        return {
            "values": keras.saving.serialize_keras_object(self.values),
            "basis": self.basis,
            "learning_rate": self.learning_rate,
            "reward": self.reward,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the object that `get_config` described."""
        values = keras.saving.deserialize_keras_object(config["values"])
        return cls(**{**config, "values": values})


@keras.saving.register_keras_serializable("keras_dha")
class SampledHyperparameters(Engine):
    """All hyperparameters of a run, fixed or sampled and rewarded.

    Args:
        values, horizon, names_checked: As for `Engine`.
        basis, learning_rate, reward: As for `AutoHAS`.
        **kwargs: Base layer arguments.

    Attributes:
        logits: `(n, m)`, theta of each of the n learned quantities.
        combination: `(n, m)`, by which basis elements are combined in the
            step that is taken: one-hot samples, or P.
    """

    def __init__(
        self,
        values=None,
        basis=5,
        learning_rate=0.05,
        reward="accuracy",
        horizon=hypergradient.DISCOUNTED,
        names_checked=False,
        **kwargs,
    ):
        super().__init__(values, horizon, names_checked, **kwargs)
        self.basis = basis
        self.learning_rate = learning_rate
        self.reward = reward

    @property
    def by_reward(self):
        """Keys of what is learned: all of it by reward."""
        return self.learned

    def _allocate(self, positions):
        shape = (len(positions), self.basis)
        self.logits = self._vector("logits", np.zeros(shape))
        self.combination = self._vector("combination", np.zeros(shape))
        self.first = self._vector("first", np.zeros(shape))
        self.second = self._vector("second", np.zeros(shape))
        for index, position in enumerate(positions):
            self._place(index, position)
        self.combination.assign(self.probabilities())

    def _place(self, index, position):
        # The widest distribution with this mean: exponential in the element.
        low, high = (float(end[index]) for end in (self.low, self.high))
        nearest = _NEAREST / (self.basis - 1)
        # The upper bound may have fallen to the lower one.
        share = (position - low) / (high - low) if high > low else 0.5
        share = np.clip(share, nearest, 1 - nearest)
        changed = ops.convert_to_numpy(self.logits).copy()
        changed[index] = _tilt(share, self.basis)
        self.logits.assign(changed)

    def probabilities(self):
        """Returns P, shape `(n, m)`."""
        return ops.softmax(ops.convert_to_tensor(self.logits))

    def _elements(self):
        """Returns the basis elements on their scales, shape `(n, m)`."""
        low = ops.expand_dims(ops.convert_to_tensor(self.low), 1)
        high = ops.expand_dims(ops.convert_to_tensor(self.high), 1)
        shares = np.linspace(0.0, 1.0, self.basis).astype(self.vector_dtype)
        return low + (high - low) * shares

    def _position(self, index):
        return ops.sum(self.probabilities() * self._elements(), axis=-1)[index]

    def _position_in_step(self, index):
        combination = ops.convert_to_tensor(self.combination)
        return ops.sum(combination * self._elements(), axis=-1)[index]

    def sample(self, draw, explores):
        if not self.learned:
            return
        noise = -ops.log(-ops.log(draw(tuple(self.logits.shape))))
        # The largest of logits plus Gumbel noise is a draw of the softmax.
        perturbed = ops.convert_to_tensor(self.logits) + ops.cast(
            noise, self.vector_dtype
        )
        sampled = ops.one_hot(
            ops.argmax(perturbed, axis=-1), self.basis, dtype=self.vector_dtype
        )
        self.combination.assign(
            ops.where(explores, sampled, self.probabilities())
        )

    def follow_reward(self, advantage):
        if not self.learned:
            return
        combination = ops.convert_to_tensor(self.combination)
        score = combination - self.probabilities()
        state = AdamState.of(self)
        moved, following = adam(
            ops.convert_to_tensor(self.logits),
            -advantage * score,
            state,
            self.learning_rate / ops.sqrt(1.0 + state.count / _STEADY),
        )
        self.logits.assign(moved)
        following.keep_in(self)
        along = ops.sum(
            self.probabilities() * np.arange(self.basis, dtype="float32"),
            axis=-1,
        )
        self._count_bounds(
            along < _AT_BOUND, along > self.basis - 1 - _AT_BOUND
        )

    def logs(self):
        """Returns the entropies, 1 if all elements are equally likely."""
        p = ops.convert_to_numpy(self.probabilities()).astype("float64")
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)
        return {
            f"{key}/entropy": float(value / np.log(self.basis))
            for key, value in zip(self.learned, entropy, strict=True)
        }

    def described(self, key):
        """Returns the basis of a learned quantity, and its probabilities."""
        if key not in self.learned:
            return {}
        index = self.learned.index(key)
        elements = ops.convert_to_numpy(self._elements())[index]
        if self.quantities[key].value.scale == "log":
            elements = np.exp(elements)
        p = ops.convert_to_numpy(self.probabilities())[index]
        return {
            "basis": [float(x) for x in elements],
            "probabilities": [float(x) for x in p],
        }

    def get_config(self):
        return {
            **super().get_config(),
            "basis": self.basis,
            "learning_rate": self.learning_rate,
            "reward": self.reward,
        }


def _tilt(mean, size):
    """Returns logits linear in k whose softmax over k/(size-1) has a mean.

    Args:
        mean: Float in (0, 1).
        size: Integer m.
    """
    points = np.linspace(0.0, 1.0, size)
    low, high = -50.0 * size, 50.0 * size
    for _ in range(100):
        slope = (low + high) / 2
        weights = np.exp(slope * (points - (slope > 0)))
        too_low = weights @ points / weights.sum() < mean
        low, high = (slope, high) if too_low else (low, slope)
    return slope * (points - 0.5)
