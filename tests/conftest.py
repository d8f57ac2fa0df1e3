"""Two logical devices on one processor, for tests of distribution.

They must exist before TensorFlow is first used. Code that does not ask for
them runs on the first, as ever.
"""

import tensorflow as tf


def pytest_configure():
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, 2 * [tf.config.LogicalDeviceConfiguration()]
    )
