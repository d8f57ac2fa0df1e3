"""The outer tape: derivatives of the training gradient itself.

The backward pass of an inner step gives g = grad_w L_T. What the outer step
asks for are derivatives of <g, v> in some direction v: by unit factors on the
images' losses (their influences), by what acts through the training loss, by
the policy's path, by the architecture, or by the weights (a product with the
Hessian). Each is one derivative of the backward pass, and none needs a second
forward pass.
"""

import contextlib

import tensorflow as tf

from keras_dha import second_derivatives

# In brackets: names of hyperparameters are sources as well.
FACTORS, PATH, ARCHITECTURE, WEIGHTS = (
    "<factors>",
    "<path>",
    "<architecture>",
    "<weights>",
)


class OuterTape:
    """Records how a training gradient comes about.

    Watches only what the step will be asked for, and is no tape at all, and
    costs nothing, if that is nothing.

    Args:
        sources: Dict from name to a tensor or a list of tensors; empty ones
            are left out.
        times: Integer, how often `along` will be called. Once is much
            quicker to trace: TensorFlow then needs no third derivatives of
            what stands in branches.

    Attributes:
        gradient: The recorded g, `(P,)`; to be set once it is there.
    """

    def __init__(self, sources, times):
        self.gradient = None
        self._sources = {
            name: source
            for name, source in sources.items()
            if not (isinstance(source, list) and not source)
        }
        self._times = times
        self._tape = None

    @property
    def records(self):
        """Whether anything will be asked of it."""
        return bool(self._sources)

    @property
    def is_from_above(self):
        """Whether all that it watches, if anything, acts on the losses alone.

        No derivatives are taken then by what layers are given, twice.
        """
        return self._sources.keys() <= {FACTORS}

    @contextlib.contextmanager
    def recording(self):
        """Records what happens inside."""
        if not self.records:
            yield
            return
        with (
            tf.GradientTape(
                persistent=self._times > 1, watch_accessed_variables=False
            ) as self._tape,
            self._rules(),
        ):
            self._tape.watch(tf.nest.flatten(self._sources))
            yield

    def along(self, vector, *names):
        """Returns the derivatives of <g, vector>, a list like the names.

        Args:
            vector: Tensor `(P,)`.
            *names: Names of sources.

        Returns:
            List of tensors, or lists of them, shaped as the sources;
            for a source that was left out an empty list.

        Raises:
            ValueError: TensorFlow does not know a derivative that it takes.
        """
        asked = {n: self._sources[n] for n in names if n in self._sources}
        found = self._derivatives(asked, vector) if asked else {}
        return [found.get(name, []) for name in names]

    def _derivatives(self, sources, vector):
        with self._rules():
            return self._tape.gradient(
                self.gradient,
                sources,
                output_gradients=vector,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

    @contextlib.contextmanager
    def _rules(self):
        """The rules by which derivatives of backward passes are made.

        Of candidates they are made where these run, of all else where they are
        asked for.
        """
        rules = second_derivatives.exact_statistics()
        if self.is_from_above:
            rules = second_derivatives.by_what_comes_from_above()
        try:
            with rules, second_derivatives.put_right():
                yield
        except LookupError as error:
            if "gradient registry" not in str(error):
                raise
            raise ValueError(
                "What is learned here takes second derivatives of all layers, "
                "and TensorFlow has none of an operation of this network: "
                "leave it out; or learn no policy (augmentation=None, or a "
                "layer with trainable=False), give what acts through the loss "
                "as numbers, and take a method or horizon without second "
                f"derivatives. Received: {error}"
            ) from error
