"""GDAS: one sampled path a step, credited through the Gumbel softmax.

With g Gumbel noise, p = softmax(logits) and a temperature tau

    p~ = softmax((log p + g) / tau),   k = argmax p~     a draw of p
    h  = onehot(k) - sg(p~) + p~                         straight through

the output is sum_i h_i y_i. All h_i but h_k have value 0, so only candidate k
runs, and the gradient goes through h_k alone (Dong & Yang, CVPR 2019, eq. 3
to 7 and their acceleration trick):

    dL/dlogits        = <dL/dy, y_k> dp~_k/dlogits
    dp~_k/dlogits_j   = p~_k (1[j=k] - p~_j) / tau

for log p + g differs from logits + g by a constant. L is the search loss after
the step (algorithm 1), along the path that the step was sampled for, and the
weights count as constant.
"""

import keras
from keras import ops

from keras_dha.architecture.strategies.strategy import SinglePath
from keras_dha.architecture.strategies.strategy import gumbel
from keras_dha.architecture.strategies.strategy import pick


@keras.saving.register_keras_serializable("keras_dha")
class GDAS(SinglePath):
    """Gumbel search: samples single paths under a falling temperature.

    Only the sampled candidate runs; of a `keras_dha.NodeChoice` one on each
    edge. The weights follow the training loss, the logits the search loss, on
    the steps that see the search split (`outer_every` of
    `keras_dha.AutoModel`, 8 by default; the paper has 1 and a
    `search_split` of 0.5). Scale and offset of a normalisation that a
    candidate ends in rest while its decision is free, as in the code of the
    paper.
    Where a choice's output goes straight into a convolution with batch
    normalisation the credit vanishes, as for `DSNAS`.

    Args:
        learning_rate: Float, step size of Adam on the logits.
        temperatures: Pair of positive floats; the temperature falls from
            the first to the second, linearly over the search.
        margin: Float in (0, 1]. A decision freezes when what it keeps leads
            the rest by this much; `None`: at the end of the search only, as
            in the paper.
        warmup: Float in [0, 1), share of all steps before logits move.
        until: Float in (warmup, 1], share of all steps by which every
            decision is frozen.
        levels: 2 as in the paper. 1: the logits follow the training loss, at
            every step, and no data are held out for them.

    Example:

    >>> model = keras_dha.AutoModel(
    ...     strategy=keras_dha.strategies.GDAS(until=0.5)
    ... )

    Reference:
        Dong & Yang, "Searching for a Robust Neural Architecture in Four GPU
        Hours", CVPR 2019.
    """

    rests_scales = True

    def __init__(
        self,
        learning_rate=0.05,
        temperatures=(10.0, 0.1),
        margin=None,
        warmup=0.05,
        until=0.5,
        levels=2,
    ):
        super().__init__(learning_rate, margin, warmup, until)
        if levels not in (1, 2):
            raise ValueError(
                f"`levels` must be 1 or 2. Received: levels={levels}"
            )
        self.levels = levels
        temperatures = tuple(temperatures)
        if len(temperatures) != 2 or not all(t > 0 for t in temperatures):
            raise ValueError(
                "`temperatures` must be two positive numbers, the first and "
                f"the last. Received: temperatures={temperatures}"
            )
        self.temperatures = temperatures

    @property
    def is_bilevel(self):
        return self.levels == 2

    def temperature(self):
        """Returns the temperature now, a float32 scalar."""
        first, last = self.temperatures
        progress = ops.convert_to_tensor(self.progress, "float32")
        return first + (last - first) * progress

    def credit(self, logits, index, uniform):
        relaxed = ops.softmax((logits + gumbel(uniform)) / self.temperature())
        probability = pick(relaxed, index)
        return probability - ops.stop_gradient(probability)

    def get_config(self):
        return {
            **super().get_config(),
            "temperatures": list(self.temperatures),
            "levels": self.levels,
        }
