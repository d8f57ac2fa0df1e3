"""Superkernels: convolutions that are parts of one another.

Candidates that differ in kernel and in width can have their weights in common:
a 3x3 kernel is the middle of a 5x5 one, and a narrow one the first channels of
a wide one (Stamoulis et al., "Single-Path NAS", ECML-PKDD 2019). A step on one
of them trains what it has in common with the others. So little is lost of the
steps of a search on candidates that are not kept, and none falls behind because
it was sampled less often.

What a step leaves out of a superkernel has a gradient of zero there: momentum
and weight decay act on it as they do on any weight.

Deriving the network (`keras_dha.architecture.derive`) puts a `Conv2D` in the
place of the slice that was chosen.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops

from keras_dha.architecture.custom_gradient import custom_gradient
from keras_dha.arguments import checked_count


@keras.saving.register_keras_serializable("keras_dha")
class SuperKernel(layers.Layer):
    """The weights that `keras_dha.SlicedConvolution` layers are slices of.

    It is not called itself. Its weights begin as those of the smallest slice
    would in a layer of its own, by He's initialiser; so larger ones need a
    normalisation behind them.

    Args:
        kernel_size: Integer, the largest side of a kernel.
        inputs: Integer, the most input channels.
        filters: Integer, the most output channels.
        smallest: Pair (kernel size, input channels) of the smallest slice, by
            default those of the whole.
        **kwargs: Base layer arguments, such as `name`.

    Example, of candidates that differ in kernel and in width:

    >>> wide = keras_dha.SuperKernel(5, 16, 32, smallest=(3, 16))
    >>> narrow = keras_dha.SuperKernel(3, 32, 16, smallest=(3, 16))
    >>> choice = keras_dha.Choice([
    ...     keras.Sequential([
    ...         keras_dha.SlicedConvolution(wide, filters, kernel_size),
    ...         keras_dha.FusedBatchNormalization(),
    ...         keras.layers.ReLU(),
    ...         keras_dha.SlicedConvolution(narrow, 16, 3),
    ...         keras_dha.FusedBatchNormalization(),
    ...     ])
    ...     for filters, kernel_size in ((16, 3), (16, 5), (32, 3))
    ... ])

    Reference:
        Stamoulis et al., "Single-Path NAS: Designing Hardware-Efficient
        ConvNets in less than 4 Hours", ECML-PKDD 2019; the widths as in Yu et
        al., "Slimmable Neural Networks", ICLR 2019.
    """

    def __init__(self, kernel_size, inputs, filters, smallest=None, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size = checked_count(
            "kernel_size", kernel_size
        )
        self.inputs = inputs = checked_count("inputs", inputs)
        self.filters = filters = checked_count("filters", filters)
        self.smallest = self._checked_smallest(smallest)
        fan_in = self.smallest[0] ** 2 * self.smallest[1]
        # He's initialiser for other shapes than that of this fan.
        initializer = keras.initializers.VarianceScaling(
            2.0 * kernel_size**2 * inputs / fan_in
        )
        self.kernel = self.add_weight(
            shape=(kernel_size, kernel_size, inputs, filters),
            initializer=initializer,
            name="kernel",
        )
        self.built = True

    def _checked_smallest(self, smallest):
        largest = self.kernel_size, self.inputs
        if smallest is None:
            return largest
        is_pair = isinstance(smallest, (list, tuple)) and len(smallest) == 2
        if is_pair:
            found = tuple(checked_count("smallest", n) for n in smallest)
            if all(n <= most for n, most in zip(found, largest, strict=True)):
                return found
        raise ValueError(
            "`smallest` must be a pair of a kernel size and a number of input "
            f"channels, at most {largest}. Received: smallest={smallest}"
        )

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "inputs": self.inputs,
            "filters": self.filters,
            "smallest": self.smallest,
        }


@keras.saving.register_keras_serializable("keras_dha")
class SlicedConvolution(layers.Layer):
    """A convolution by the middle and the first channels of a superkernel.

    As `keras.layers.Conv2D` without a bias, of padding `"same"`. In the derived
    network there is one in its place.

    Args:
        whole: `SuperKernel`. Saving a model keeps it shared by the candidates
            of a `Choice`; `keras.models.clone_model` gives each a copy.
        filters: Integer, output channels.
        kernel_size: Integer, as odd or even as that of the whole.
        strides: Integer of at least 1.
        **kwargs: Base layer arguments, such as `name`.

    Call arguments:
        inputs: A tensor of shape `(n, h, w, c)` with at most as many channels
            as the whole has input channels.

    Raises:
        ValueError: It is no slice of the whole.

    Example:

    >>> whole = keras_dha.SuperKernel(5, 16, 32)
    >>> layer = keras_dha.SlicedConvolution(whole, filters=16, kernel_size=3)
    >>> layer(keras.Input((28, 28, 16))).shape
    (None, 28, 28, 16)
    """

    def __init__(self, whole, filters, kernel_size, strides=1, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(whole, SuperKernel):
            raise ValueError(
                "`whole` must be a `keras_dha.SuperKernel`. "
                f"Received: whole={whole}"
            )
        filters = checked_count("filters", filters)
        kernel_size = checked_count("kernel_size", kernel_size)
        difference = whole.kernel_size - kernel_size
        if filters > whole.filters or difference < 0 or difference % 2:
            raise ValueError(
                "A slice is the middle of its superkernel: of kernels that are "
                f"smaller by an even number than {whole.kernel_size}, with at "
                f"most {whole.filters} filters. Received: "
                f"kernel_size={kernel_size}, filters={filters}"
            )
        self.whole = whole
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = checked_count("strides", strides)

    def build(self, input_shape):
        self.inputs = input_shape[-1]
        if self.inputs > self.whole.inputs:
            raise ValueError(
                f"The superkernel has {self.whole.inputs} input channels. "
                f"Received: inputs of shape {input_shape}"
            )
        self.built = True

    @property
    def kernel_shape(self):
        """The shape of its weights, `(k, k, input channels, filters)`."""
        size = self.kernel_size
        return size, size, self.inputs, self.filters

    def call(self, inputs):
        return ops.conv(
            inputs,
            self._slice(self.whole.kernel),
            strides=self.strides,
            padding="same",
            data_format="channels_last",
        )

    def compute_output_shape(self, input_shape):
        count, height, width, _ = input_shape
        sides = (
            side and math.ceil(side / self.strides) for side in (height, width)
        )
        return count, *sides, self.filters

    def positions(self):
        """Returns where its weights stand in the whole, flat, a NumPy array."""
        kernel = self.whole.kernel
        every = np.arange(math.prod(kernel.shape)).reshape(kernel.shape)
        return ops.convert_to_numpy(self._slice(every)).ravel()

    def convolution(self):
        """Returns a new `Conv2D` that has the weights of the slice."""
        layer = layers.Conv2D(
            self.filters,
            self.kernel_size,
            strides=self.strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            data_format="channels_last",
            trainable=self.trainable and self.whole.trainable,
            dtype=self.dtype_policy,
            name=self.name,
        )
        layer.build((None, None, None, self.inputs))
        layer.kernel.assign(self._slice(self.whole.kernel))
        return layer

    def _slice(self, kernel):
        begin = (self.whole.kernel_size - self.kernel_size) // 2
        return _part(kernel, (begin, begin, 0, 0), self.kernel_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "whole": keras.saving.serialize_keras_object(self.whole),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
        }

    @classmethod
    def from_config(cls, config):
        whole = keras.saving.deserialize_keras_object(config["whole"])
        return cls(**{**config, "whole": whole})


def _part(whole, begin, shape):
    """Returns a slice of a tensor.

    The derivative of brackets takes several times as long. That of `tf.slice`
    is of a shape that is not known where it is traced, and so is computed once
    more where it is differentiated itself.
    """
    around = [
        (first, size - first - part)
        for first, part, size in zip(begin, shape, whole.shape, strict=True)
    ]

    @custom_gradient
    def part(tensor):
        return tf.slice(tensor, begin, shape), padded

    @custom_gradient
    def padded(tensor):
        return tf.pad(tensor, around), part

    return part(tf.convert_to_tensor(whole))
