"""Files and folders that appear whole, whatever happens while they do."""

import os
import signal
import subprocess
import sys

import pytest

from keras_dha import atomic


class Interrupted(BaseException):
    """What no code expects."""


def write(path, text):
    """Writes a file, or a folder with a file in it."""
    with atomic.written_beside(path) as half:
        if path.suffix:
            half.write_text(text)
        else:
            half.mkdir()
            (half / "content").write_text(text)


def read(path):
    return (path if path.suffix else path / "content").read_text()


# The name of a folder may be any, those inside the scratch folder as well.
both_kinds = pytest.mark.parametrize(
    "name", ["file.txt", "folder", "old-folder"]
)


@both_kinds
def test_what_is_there_is_replaced(tmp_path, name):
    path = tmp_path / "parent" / name
    for text in ("first", "second"):
        write(path, text)
        assert read(path) == text
        assert list(path.parent.iterdir()) == [path]


@both_kinds
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, name):
    path = tmp_path / name
    write(path, "first")
    with pytest.raises(Interrupted), atomic.written_beside(path):
        raise Interrupted
    assert read(path) == "first"
    assert list(tmp_path.iterdir()) == [path]


@both_kinds
@pytest.mark.parametrize("error", [OSError, Interrupted])
def test_a_failure_to_rename_leaves_what_was_there(
    tmp_path, monkeypatch, name, error
):
    path = tmp_path / name
    write(path, "first")

    def failing(*args):
        raise error("at the end")

    monkeypatch.setattr(atomic.os, "replace", failing)
    with pytest.raises(error, match="at the end"):
        write(path, "second")
    assert read(path) == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_behind_the_renaming_changes_nothing(
    tmp_path, monkeypatch
):
    path, replace = tmp_path / "folder", os.replace
    write(path, "first")

    def late(*args):
        replace(*args)
        raise Interrupted

    monkeypatch.setattr(atomic.os, "replace", late)
    with pytest.raises(Interrupted):
        write(path, "second")
    assert read(path) == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_folder_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "content").write_text("first")
    link = tmp_path / "link"
    link.symlink_to("real")

    def failing(*args):
        raise OSError("at the end")

    monkeypatch.setattr(atomic.os, "replace", failing)
    with pytest.raises(OSError, match="at the end"):
        write(link, "second")
    assert link.is_symlink() and read(link) == "first"
    assert sorted(tmp_path.iterdir()) == [link, tmp_path / "real"]


def test_an_old_one_that_cannot_be_put_back_is_not_deleted(
    tmp_path, monkeypatch
):
    path, rename = tmp_path / "folder", type(tmp_path).rename
    write(path, "first")

    def failing(*args):
        raise OSError("no place")

    def only_away(source, target):
        if target == path:
            failing()
        return rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", failing)
    monkeypatch.setattr(type(tmp_path), "rename", only_away)
    with pytest.raises(OSError, match="no place"):
        write(path, "second")
    (kept,) = tmp_path.glob(".folder-*/old-folder")
    assert read(kept) == "first"


KILLED = """
import os, pathlib, signal
from keras_dha import atomic

with atomic.written_beside(pathlib.Path({path!r})) as half:
    half.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_found_and_swept(tmp_path):
    path = tmp_path / "checkpoint-0007.keras"
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(path=str(path))], timeout=100
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert atomic.leftovers(tmp_path, "other.json") == []
    assert atomic.leftovers(tmp_path, "checkpoint-*.keras") == [left]
    atomic.sweep(tmp_path, "checkpoint-*.keras")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "run.keras-a0_b1c2d",
        ".run.keras-mine",
        ".run.keras-a0_b1c2d.old",
        ".other-a0_b1c2d",
        ".RUN.keras-A0_B1C2D",
    ],
)
def test_folders_of_other_names_are_others(tmp_path, name):
    (tmp_path / name).mkdir()
    atomic.sweep(tmp_path, "run.keras")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_files_and_links_are_no_leftovers(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / ".run.keras-a0_b1c2d").write_text("mine")
    (tmp_path / ".run.keras-e3_f4g5h").symlink_to("mine")
    atomic.sweep(tmp_path, "run.keras")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_place_is_tried_without_a_trace(tmp_path):
    folder = tmp_path / "new"
    atomic.refuse_unwritable(folder)
    assert folder.is_dir() and list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Cannot write here.*Received: path="):
        atomic.refuse_unwritable(tmp_path / "file" / "run")


def test_the_folder_that_a_place_is_tried_with_is_found(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(atomic.shutil, "rmtree", lambda *args, **kwargs: None)
        atomic.refuse_unwritable(tmp_path)
    (left,) = tmp_path.iterdir()
    assert atomic.leftovers(tmp_path) == [left]
