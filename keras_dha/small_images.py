"""Small images: what a network is shown in the first part of a short run.

What there is to see in small images is learned from them as well, and steps
on them take less time; the rest of the run, on whole images, builds on it. So
in as much time there are more passes over the images.

References:
    Howard, "Training Imagenet in 3 hours for USD 25; and CIFAR10 for USD 0.26",
    fast.ai, 2018 (progressive resizing); Tan and Le, "EfficientNetV2", ICML
    2021; Touvron et al., "Fixing the train-test resolution discrepancy",
    NeurIPS 2019, for why it ends with whole images.
"""

import keras

from keras_dha.nested_layers import cloned
from keras_dha.nested_layers import find_layers

# A side of a small image over that of the whole one: half its pixels. And the
# share of the run that they are shown in.
SIDE, UNTIL = 0.7, 0.5


@keras.saving.register_keras_serializable("keras_dha")
class SmallImages(keras.layers.Layer):
    """Makes images smaller, bilinearly.

    `keras.layers.Resizing` takes a call that does not say whether it is of
    training for one that is, and the layers after it follow. A filter against
    aliasing runs on no GPU (tensorflow/tensorflow#39246), and at 0.7 of a side
    there is little to filter.

    Args:
        height, width: Integers, of the small images.
        **kwargs: Base layer arguments.
    """

    def __init__(self, height, width, **kwargs):
        super().__init__(**kwargs)
        self.height, self.width = height, width

    def call(self, images):
        return keras.ops.image.resize(images, (self.height, self.width))

    def get_config(self):
        size = {"height": self.height, "width": self.width}
        return {**super().get_config(), **size}


def shrunk(network, side=SIDE):
    """Returns a network that makes its images smaller before it looks.

    Args:
        network: A functional `keras.Model` without choices from one image,
            whose layers take images of any size, as with a global pooling at
            the end.
        side: Float in (0, 1), of each side's pixels so many are left.

    Returns:
        A functional `keras.Model` from images of the same shape as before, of
        the same layers, so with the same weights.
    """
    made = []

    def call(layer, x, *args, **kwargs):
        if layer.weights and not made:
            size = [max(1, round(side * pixels)) for pixels in x.shape[1:3]]
            made.append(SmallImages(*size, name="small_images"))
            x = made[0](x)
        return _called(layer, x, *args, **kwargs)

    return cloned(network, clone_function=_itself, call_function=call)


def whole(network):
    """Returns the network of the same layers that looks at whole images.

    Args:
        network: A `keras.Model`; where it was not `shrunk` it is returned.
    """
    if not is_shrunk(network):
        return network

    def call(layer, x, *args, **kwargs):
        if isinstance(layer, SmallImages):
            return x
        return _called(layer, x, *args, **kwargs)

    return cloned(network, clone_function=_itself, call_function=call)


def is_shrunk(network):
    """Whether a network is one that `shrunk` returned."""
    return bool(find_layers(network, SmallImages))


def _itself(layer):
    return layer


def _called(layer, x, *args, **kwargs):
    """Calls a layer; a nested model is built anew for images of x's shape."""
    if isinstance(layer, keras.Model) and len(x.shape) == 4:
        layer = _for_shape(layer, x.shape)
    return layer(x, *args, **kwargs)


def _for_shape(model, shape):
    """Returns a nested model of the same layers for inputs of a shape."""
    inputs = keras.Input(batch_shape=shape)
    if not isinstance(model, keras.Sequential):
        return cloned(
            model,
            input_tensors=inputs,
            clone_function=_itself,
            call_function=_called,
        )
    layers, x = [], inputs
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layer = _for_shape(layer, x.shape)
        layers.append(layer)
        x = layer(x)
    return keras.Sequential([inputs, *layers], name=model.name)
