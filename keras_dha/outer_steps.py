"""Outer steps: which steps of a run are joint ones.

An outer step costs one and a third plain steps beside the inner one, and more
in a supernet. What is learned by them needs a number of them, not a share: a
long run spaces them out.
"""

# So many were enough for rates and policies in runs of minutes.
ENOUGH = 300
# But no two of them are closer together. What is off the mark is put right by
# the first fifty; the next fifty are twice as far apart, and so on.
CLOSEST, CLOSE = 8, 50


def share_of_step(every):
    """Returns how much of a usual step an outer step takes, in (0, 1].

    Step sizes of rates and policies are for outer steps that are `CLOSEST`
    apart. Closer ones go less far each, so that as much is learned in as many
    inner steps, if more evenly.

    Args:
        every: Integer, inner steps for each outer one, or `"auto"`.
    """
    return 1.0 if every == "auto" else min(1.0, every / CLOSEST)


class OuterSteps:
    """Says of each step of a run whether it is an outer one.

    Args:
        every: Integer, inner steps for each outer one; or `"auto"`: as many
            as are `ENOUGH`, spread over the run, and `CLOSEST` steps apart
            where that are more, `2 * CLOSEST` after the first `CLOSE`, and so
            on.
        total: Integer, the position in the run (`keras_dha.pace`) up to which
            there are outer steps.
    """

    def __init__(self, every, total):
        self._every = every
        self._apart = total / ENOUGH
        self._step = self._position = None
        self._taken = 0

    @property
    def every(self):
        """Inner steps for each outer one, at least."""
        return CLOSEST if self._every == "auto" else self._every

    def takes(self, step, position):
        """Whether this is an outer step; asked once for each step.

        Args:
            step: Integer, the step's number.
            position: Integer, where in the run it is.
        """
        if self._every != "auto":
            return step % self._every == 0
        closest = CLOSEST * (1 + self._taken // CLOSE)
        if self._step is not None and (
            step - self._step < closest
            or position - self._position < self._apart
        ):
            return False
        self._step, self._position = step, position
        self._taken += 1
        return True

    def state(self):
        """Returns when the last one was, and how many there were."""
        return [self._step, self._position, self._taken]

    def resume(self, state):
        """Goes on where a run was stopped.

        Args:
            state: As `state` returned it.
        """
        self._step, self._position, self._taken = state
