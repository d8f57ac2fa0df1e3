"""The command line: `keras-dha fit`, `estimate`, `evaluate` and so on.

TensorFlow is loaded after the flags are understood, and told to keep what it
says about itself to itself.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

from keras_dha import commands
from keras_dha.cli_flags import CommandFlags
from keras_dha.cli_flags import UsageError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        flags: Function that returns its `CommandFlags`.
        run: Function of the flags' values and an output stream.
    """

    flags: Callable
    run: Callable


def main(argv=None, out=None):
    """Runs a command; returns 0, or 1 after a failure, or 2 for bad usage.

    Args:
        argv: List of arguments, by default those of the process.
        out: Stream for the output, by default standard output.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    out = out or sys.stdout
    if not argv or argv[0] in _HELP:
        out.write(_overview())
        return 0 if argv else USAGE
    name, *arguments = argv
    if name not in COMMANDS:
        expected = ", ".join(COMMANDS)
        return _complain(f"{name!r} is no command, use {expected}", USAGE)
    flags = COMMANDS[name].flags()
    flags.switch("debug", "Show where an error came from.")
    if _HELP & set(arguments):
        out.write(flags.help())
        return 0
    return _run(COMMANDS[name], flags, arguments, out)


def _run(command, flags, arguments, out):
    debug = False
    try:
        values = flags.parse(arguments)
        debug = values.debug
        with commands.muffled():
            import keras_dha.auto_model  # noqa: F401
        command.run(values, out)
    except UsageError as error:
        return _complain(error, USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        return _complain(error, FAILURE)
    return 0


def _complain(error, code):
    message = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(f"keras-dha: {message}\n")
    return code


def _overview():
    lines = ["usage: keras-dha COMMAND [--flag=value ...]", ""]
    lines += [
        f"  {name:<9} {command.flags().summary}"
        for name, command in COMMANDS.items()
    ]
    lines += ["", "keras-dha COMMAND --help lists the flags of a command.", ""]
    return "\n".join(lines)


def _fit_flags():
    flags = CommandFlags(
        "fit", "Train a model; learn how to train it in the same run."
    )
    _dataset_flags(flags, "What to train on", needed=True)
    flags.text("output", "Folder for the files; by default the dataset's name.")
    flags.switch("overwrite", "Replace what an earlier run left there.")
    flags.text(
        "directory",
        "Folder for checkpoints: a run that was killed goes on from them when "
        "it is called again with the same flags.",
    )
    flags.seconds("time_limit", "Seconds to train for, in place of --epochs.")
    _run_flags(flags)
    flags.count("seed", "For a reproducible run.", least=0, most=2**31 - 1)
    flags.choice(
        "verbose",
        "Progress: 0 none, 1 a bar, 2 a line for each epoch.",
        ["auto", "0", "1", "2"],
    )
    return flags


def _estimate_flags():
    flags = CommandFlags(
        "estimate", "Say what a run would take, from a few steps of it."
    )
    _dataset_flags(flags, "What would be trained on", needed=True)
    _run_flags(flags)
    return flags


def _run_flags(flags):
    """Adds what a run is asked for."""
    flags.count("limit", "Train on a random subset of so many images.")
    flags.count("epochs", "Passes over the training images, by default 30.")
    flags.count("batch_size", "By default 16 to 128, by the amount of data.")
    flags.text(
        "search_space",
        "auto (resnet for images), or resnet, mobile, shufflenet, "
        "nas_bench_201 or darts.",
        default="auto",
    )
    flags.text(
        "method",
        "What is learned, and how: auto, dha or diffautoml for all; autohas "
        "for architecture and hyperparameters; darts, dsnas or gdas for the "
        "architecture.",
        default="auto",
    )
    for name, what in (
        ("architecture", "the architecture"),
        ("augmentation", "how images are augmented"),
        ("hyperparameters", "learning rate and weight decay"),
    ):
        flags.choice(name, f"Whether to learn {what}.", ["auto", "none"])


def _evaluate_flags():
    flags = CommandFlags(
        "evaluate", "Measure a trained model on a dataset's test images."
    )
    _model_flag(flags)
    _dataset_flags(
        flags,
        "What to test on, with some of the model's classes by their names if "
        "the result.json of fit is beside the model, else with all of them",
        needed=True,
    )
    return flags


def _export_flags():
    flags = CommandFlags(
        "export", "Write a trained model for TF Serving, LiteRT or ONNX."
    )
    _model_flag(flags)
    flags.text(
        "output",
        "Where to write: a folder such as NAME/1 for a SavedModel, a file "
        "such as NAME.tflite for litert and NAME.onnx for onnx.",
        needed=True,
    )
    flags.switch("overwrite", "Replace what is there.")
    flags.choice(
        "format",
        "Kind of file; onnx needs the extra onnx.",
        ["tf_saved_model", "litert", "onnx"],
    )
    flags.choice(
        "quantize",
        "For litert: store smaller numbers; int8 computes with them too and "
        "needs --dataset.",
        ["none", "float16", "int8"],
    )
    _dataset_flags(flags, "For int8, images as they come in use")
    return flags


def _report_flags():
    flags = CommandFlags(
        "report", "Show what a run found, as one page of HTML."
    )
    flags.argument(
        "run",
        "What a run left: its result.json, or a .keras file that "
        "`AutoModel.save` wrote.",
    )
    flags.text(
        "output",
        "Where to write, a file such as report.html; what is there is "
        "replaced.",
        default="report.html",
    )
    return flags


def _model_flag(flags):
    flags.text("model", "A trained model, a .keras file.", needed=True)


def _dataset_flags(flags, use, needed=False):
    flags.text(
        "dataset",
        f"{use}: digits, fashion_mnist, tfds:NAME, or the path of a folder "
        "with a subfolder of images for each class.",
        needed=needed,
    )
    flags.count(
        "image_size",
        "Height and width to resize images to; needed for folders, but where "
        "there is a model, whose size is the default.",
    )


_HELP = {"help", "-h", "-help", "--help"}

COMMANDS = {
    "fit": Command(_fit_flags, commands.fit),
    "estimate": Command(_estimate_flags, commands.estimate),
    "evaluate": Command(_evaluate_flags, commands.evaluate),
    "export": Command(_export_flags, commands.export),
    "report": Command(_report_flags, commands.report),
}
