"""What is said where the packages of an extra are missing."""

import sys

import pytest

from keras_dha import extras


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("no_pen",), "A page needs no_pen, which is not"),
        (("no_pen", "no_ink"), "A page needs no_pen and no_ink, which are not"),
    ],
)
def test_what_is_missing_is_named(missing, said):
    with pytest.raises(ImportError) as refused:
        extras.require(("sys", *missing), "page", "A page")
    assert str(refused.value) == (
        f'{said} installed: run `pip install "keras_dha[page]"`.'
    )


def test_what_is_there_is_not_loaded(tmp_path, monkeypatch):
    (tmp_path / "a_pen.py").write_text("raise RuntimeError")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    extras.require(("a_pen",), "page", "A page")
    assert "a_pen" not in sys.modules
