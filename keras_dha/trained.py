"""What a model is for once it was fitted: predictions, results and files."""

import warnings

import tensorflow as tf

from keras_dha import arguments
from keras_dha import data
from keras_dha import evaluable_data
from keras_dha import export as exporting
from keras_dha import label_facts
from keras_dha import report
from keras_dha import small_images
from keras_dha import stock
from keras_dha.architecture.derive import derive
from keras_dha.architecture.genotype import genotype
from keras_dha.hyperparameters import dropout


class Trained:
    """The part of `keras_dha.AutoModel` that asks and hands out.

    Attributes:
        joint: The `JointModel`, `None` before the first `fit`.
        found: The genotype that its network was derived by; `{}` before, and
            where there was nothing to choose.
    """

    def __init__(self):
        self.joint = None
        self.found = {}
        self._spec = None
        self._result = None
        # During `fit`, a function that returns what is found so far.
        self._so_far = None

    def __reduce__(self):
        # What is asked of `pickle`, and of `copy`: inside are functions that
        # TensorFlow has compiled.
        raise TypeError(
            "An `AutoModel` is neither copied nor pickled: write it with "
            "`save` and read it with `AutoModel.load`, or build another one. "
            f"Received: {type(self).__name__}"
        )

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose=0,
        return_dict=False,
        steps=None,
        callbacks=None,
        **unknown,
    ):
        """Returns loss and metrics on clean data.

        Args:
            x: Array, or `tf.data.Dataset` of (image, label); several inputs
                as given to `fit`.
            y: Labels, as given to `fit`.
            batch_size: Integer, default 256; a batched dataset has its own.
            verbose: As in Keras, but for the default of 0.
            return_dict: Whether to return a dict rather than a list.
            steps: Integer, how many batches to evaluate on; by default all.
            callbacks: List of Keras callbacks, whose `model` is the network.
        """
        arguments.refuse_unknown(unknown, where="evaluate")
        self._check_fitted("evaluate")
        if steps is not None:
            steps = arguments.checked_count("steps", steps)
        x, y = evaluable_data.evaluable(
            x, y, self._spec, self.joint.form, batch_size, steps
        )
        return self._evaluated(
            *(x, y, batch_size),
            verbose=verbose,
            return_dict=return_dict,
            steps=steps,
            callbacks=callbacks,
        )

    def predict(
        self,
        x,
        batch_size=None,
        verbose=0,
        steps=None,
        callbacks=None,
        **unknown,
    ):
        """Returns what the network gives, float32 `(n, classes)`.

        Class probabilities, or logits if it ends without a softmax. Of several
        outputs it returns what `keras.Model.predict` does, a list or a dict of
        them.

        Args:
            x: Array of examples, or `tf.data.Dataset` of examples or of
                (image, label), batched or not. Several inputs are a dict or
                a tuple of arrays; a dataset has them as a dict, or with
                tuples as the first part of a tuple.
            batch_size: Integer, default 256; a batched dataset has its own.
            verbose: As in Keras, but for the default of 0.
            steps: Integer, how many batches to predict for; by default all.
            callbacks: List of Keras callbacks, whose `model` is the network.
        """
        arguments.refuse_unknown(unknown, where="predict")
        self._check_fitted("predict")
        if steps is not None:
            steps = arguments.checked_count("steps", steps)
        x = evaluable_data.predictable(
            x, self._spec, self.joint.form, batch_size, steps
        )
        if not isinstance(x, tf.data.Dataset):
            # A tuple of one: several inputs would be taken for labels, too.
            x = (x,)
        return self.joint.network.predict(
            _batches(x, batch_size),
            verbose=verbose,
            steps=steps,
            callbacks=callbacks,
        )

    def _evaluated(self, x, y, batch_size=None, **options):
        given = x if y is None else (x, y)
        with label_facts.explained():
            found = self.joint.network.evaluate(
                _batches(given, batch_size), **options
            )
        # A loss alone is a number, which may be 0.
        if isinstance(found, (dict, list)) and not found:
            raise ValueError(
                "There was nothing to evaluate on: a dataset must hold "
                "examples each time that it is read, so let the function of "
                "`from_generator` return a new generator each time. "
                "Received: a dataset that gave no batches"
            )
        return found

    def _validation_logs(self, x, y, batch_size, callbacks):
        x, y = self.joint.form.arranged(x, y)
        logs = self._evaluated(
            x, y, batch_size, verbose=0, return_dict=True, callbacks=callbacks
        )
        return {f"val_{name}": float(logs[name]) for name in logs}

    def summary(self):
        """Prints the network; a `Choice` counts all of its candidates."""
        self._check_fitted("summary")
        self.joint.network.summary()

    @property
    def result(self):
        """What the run found, a `keras_dha.SearchResult`.

        To a callback, during `fit`, what is found up to the last epoch.
        """
        self._check_fitted("result")
        if self._so_far is not None:
            return self._so_far()
        if self._result is None:
            raise ValueError(
                "`result` is there once `fit` has ended; that of this model "
                "was interrupted, or the model saved in the middle of it. "
                "Call `fit` to go on. Received: an unfinished run"
            )
        return self._result

    def export_model(self):
        """Returns the trained plain `keras.Model`, of Keras' own layers.

        And yours; those that make layers of this library themselves keep them.

        Where layers of this library had to be replaced, as in all search
        spaces that have a name, it is a copy: a further `fit` leaves it as it
        is. Else it is the network itself, yours if you gave one.
        """
        self._check_fitted("export_model")
        self._check_searched()
        if self.joint.is_shrunk:
            warnings.warn(
                "The run has shown small images only so far, and this network "
                "looks at whole ones, which it is less accurate on. Call `fit` "
                "to go on",
                stacklevel=2,
            )
        learned = self.joint.hyperparameters
        rate = None
        if dropout.RATE in learned.quantities:
            rate = float(learned.current(dropout.RATE))
        network = small_images.whole(derive(self.joint.network))
        return stock.stock(network, rate)

    def export(
        self,
        path,
        format="tf_saved_model",
        quantize=None,
        representative_data=None,
        overwrite=False,
    ):
        """Writes the trained model for deployment.

        Args:
            path: Where to write. For TF Serving `<name>/<version>`; for
                LiteRT a file that ends in `.tflite`, for ONNX in `.onnx`.
            format: `"tf_saved_model"`, `"litert"` or `"onnx"`, which needs
                the extra of that name.
            quantize: `None`, or for LiteRT `"float16"` or `"int8"`.
            representative_data: Array of some training examples, which
                `"int8"` needs to find the ranges of activations.
            overwrite: Whether what is there may be replaced.
        """
        exporting.export_model(
            self.export_model(),
            path,
            format=format,
            quantize=quantize,
            representative_data=representative_data,
            overwrite=overwrite,
        )

    def report(self, filepath):
        """Writes what the run found as one page of HTML, readable offline.

        It needs the extra `report`. `keras_dha.SearchReport` is a callback
        that writes the page after each epoch.

        Args:
            filepath: Path that ends in `.html`; what is there is replaced.
        """
        report.write(self.result, filepath)

    def get_weights(self):
        """Returns the network's weights, as `keras.Model` does."""
        self._check_fitted("get_weights")
        return self.joint.network.get_weights()

    def set_weights(self, weights):
        """Sets the network's weights, as `keras.Model` does."""
        self._check_fitted("set_weights")
        self.joint.network.set_weights(weights)

    @property
    def genotype(self):
        """The architecture as it is now, see `SearchResult.genotype`.

        While it is searched that of the moment, and then what was found.
        """
        self._check_fitted("genotype")
        return genotype(self.joint.network) or self.found

    @property
    def metrics(self):
        """The network's metrics, as `keras.Model` has them.

        Callbacks ask them whether more is better. Empty before `fit`.
        """
        return [] if self.joint is None else self.joint.network.metrics

    def _check_searched(self):
        """Says that a search has not ended; refuses it if it has a target."""
        if not self.joint.architecture.is_searched:
            return
        if self.joint.target is not None:
            raise ValueError(
                "The search has not ended, and what it leads to may not be "
                "within the target: call `fit` to go on. "
                f"Received: target with {self.joint.target.limits}"
            )
        warnings.warn(
            "The search has not ended: this is the network that leads now, "
            "whose weights were trained beside others. Call `fit` to go on",
            stacklevel=3,
        )

    def _check_fitted(self, name):
        if self.joint is None:
            raise ValueError(
                f"`{name}` needs a model that was fitted or loaded; call "
                "`fit` first. Received: a model that was not fitted"
            )


def _batches(given, batch_size):
    """Returns a dataset that nobody waits for.

    Args:
        given: Batched `tf.data.Dataset`, or a tuple of arrays: what Keras
            makes of these is autotuned.
        batch_size: Integer, of arrays; default `data.BATCH_SIZE`.
    """
    if not isinstance(given, tf.data.Dataset):
        # All of the data would be in a GPU's memory, where a batch is enough.
        with tf.device("CPU:0"):
            made = tf.data.Dataset.from_tensor_slices(given)
        given = made.batch(batch_size or data.BATCH_SIZE)
    return data.untuned(given)
