"""Independent references: NumPy and finite differences, none of our code."""


def central_difference(function, at, eps=1e-6):
    """(f(at + eps) - f(at - eps)) / (2 eps), in float64."""
    return (function(at + eps) - function(at - eps)) / (2.0 * eps)


def numpy_sgd(w, b, g, rate, decay, momentum, schedule=1.0):
    """One step of SGD with coupled decay and momentum, the long way."""
    b = momentum * b + g + decay * w
    return w - schedule * rate * b, b
