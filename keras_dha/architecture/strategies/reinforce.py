"""Reinforce: one sampled path, credited by what it is worth when tried.

    r             = accuracy on the search split, after a temporary step
    dE[r]/dlogits = E[(r - baseline) (onehot - p)],   p = softmax(logits)

(Dong et al., "AutoHAS", arXiv 2006.03656, 2020.) The mean over paths is the
gradient of the expected reward, without bias and with the noise of a score
function. The temporary step and its reward, which hyperparameters may share,
are in `keras_dha.temporary_step`; here is the path's score.
"""

import keras
from keras import ops

from keras_dha.architecture.strategies.strategy import SinglePath
from keras_dha.reward import checked as checked_reward


@keras.saving.register_keras_serializable("keras_dha")
class Reinforce(SinglePath):
    """Samples single paths and follows their reward on the search split.

    On the steps that see the search split (`outer_every` of
    `keras_dha.AutoModel`, 8 by default; 1 as in the paper) one sampled path
    takes one step on a copy of the weights. How well that copy does on a
    search batch is the reward, and the copy is discarded. The step that
    follows trains the weights of another sample. So an outer step costs about
    twice a plain one, and nothing has to be differentiable by the
    architecture.

    Args:
        learning_rate: Float, step size of Adam on the logits.
        margin: Float in (0, 1]. A decision freezes when what it keeps leads
            the rest by this much; `None`: at the end of the search only.
        warmup: Float in [0, 1), share of all steps before logits move.
        until: Float in (warmup, 1], share of all steps by which every
            decision is frozen.
        reward: `"accuracy"` on the search split, as in the paper, or
            `"loss"`, the search loss with its sign turned.

    Example:

    >>> model = keras_dha.AutoModel(
    ...     strategy=keras_dha.strategies.Reinforce(), outer_every=1
    ... )

    Reference:
        Dong et al., "AutoHAS: Efficient Hyperparameter and Architecture
        Search", arXiv 2006.03656, 2020.
    """

    is_rewarded = True

    def __init__(
        self,
        learning_rate=0.02,
        margin=0.5,
        warmup=0.1,
        until=0.5,
        reward="accuracy",
    ):
        super().__init__(learning_rate, margin, warmup, until)
        self.reward = checked_reward(reward)

    def credit(self, logits, index, uniform):
        # What runs says nothing; its reward does.
        del index, uniform
        return ops.zeros(logits.shape[:1])

    def score(self, decision):
        """Returns grad log p of what is sampled, float32 `(K,)`.

        Args:
            decision: `keras_dha.Decision`.
        """
        table = ops.softmax(decision.table(decision.logits))
        index = ops.reshape(decision.sampled, (decision.edges,))
        onehot = ops.one_hot(index, decision.operations, dtype=table.dtype)
        return ops.reshape(onehot - table, (-1,))

    def get_config(self):
        return {**super().get_config(), "reward": self.reward}
