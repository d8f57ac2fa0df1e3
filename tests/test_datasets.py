"""Datasets: splits against counting, readers against known content."""

import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_dha import datasets

PIL_Image = pytest.importorskip("PIL.Image")


def test_digits_are_scikit_learns_with_a_fifth_held_out():
    from sklearn.datasets import load_digits

    truth = load_digits()
    data = datasets.load("digits")
    assert data.name == "digits"
    assert data.class_names == tuple("0123456789")
    assert data.x_train.dtype == np.float32
    assert data.x_train.shape[1:] == (8, 8, 1)
    assert (data.x_train.min(), data.x_train.max()) == (0, 16)
    x = np.concatenate([data.x_train, data.x_test])[..., 0]
    y = np.concatenate([data.y_train, data.y_test])
    together = {(a.tobytes(), b) for a, b in zip(x, y, strict=True)}
    images = truth.images.astype("float32")
    expected = {
        (a.tobytes(), b) for a, b in zip(images, truth.target, strict=True)
    }
    assert together == expected and len(y) == 1797
    for label in range(10):
        share = (data.y_test == label).sum() / (y == label).sum()
        assert abs(share - 0.2) < 0.004


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("digits", "sklearn"),
        ("tfds:mnist", "tensorflow_datasets"),
        ("pictures", "PIL"),
    ],
)
def test_missing_packages_are_asked_for(tmp_path, monkeypatch, name, module):
    for kind in ("cat", "dog"):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        PIL_Image.new("L", (4, 4)).save(tmp_path / "pictures" / kind / "1.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    needed = rf"needs {module}, which is .*keras_dha\[datasets\]"
    with pytest.raises(ImportError, match=needed):
        datasets.load(name, image_size=4)


def test_the_held_out_part_is_fixed_by_the_seed():
    a, b = datasets.load("digits", seed=3), datasets.load("digits", seed=3)
    other = datasets.load("digits", seed=4)
    np.testing.assert_array_equal(a.x_test, b.x_test)
    assert not np.array_equal(a.x_test, other.x_test)


def test_held_out_leaves_every_class_on_both_sides():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 2)
    test = datasets.held_out(labels, 0.2, seed=0)
    assert [test[labels == k].sum() for k in range(3)] == [10, 1, 1]


@pytest.mark.skipif(
    not datasets.DEBIAN_FASHION_MNIST.is_dir(),
    reason="needs the Debian package dataset-fashion-mnist",
)
def test_fashion_mnist_is_the_published_one():
    data = datasets.load("fashion_mnist")
    assert data.x_train.shape == (60000, 28, 28, 1)
    assert data.x_test.shape == (10000, 28, 28, 1)
    assert data.x_train.dtype == np.uint8
    # The labels that begin both parts, as every tutorial prints them.
    assert data.y_train[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert data.y_test[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert np.bincount(data.y_train).tolist() == [6000] * 10
    assert data.class_names[9] == "Ankle boot"


def test_limit_keeps_a_random_subset_in_proportion():
    whole = datasets.load("digits")
    part = datasets.load("digits", limit=205)
    assert len(part.y_train) == len(part.x_train) == 205
    expected = np.bincount(whole.y_train) * 205 / len(whole.y_train)
    assert np.abs(np.bincount(part.y_train) - expected).max() <= 1
    rows = {
        (a.tobytes(), b)
        for a, b in zip(whole.x_train, whole.y_train, strict=True)
    }
    kept = {
        (a.tobytes(), b)
        for a, b in zip(part.x_train, part.y_train, strict=True)
    }
    assert kept <= rows
    np.testing.assert_array_equal(part.x_test, whole.x_test)
    assert len(datasets.load("digits", limit=2e2).y_train) == 200
    least = datasets.load("digits", limit=10)
    assert sorted(least.y_train) == list(range(10))


@pytest.mark.parametrize("limit", [9, 0, -1, 20.5, True])
def test_bad_limits_are_refused(limit):
    with pytest.raises(ValueError, match="Received: limit="):
        datasets.load("digits", limit=limit)


def test_image_size_resizes_like_an_independent_resampler():
    data = datasets.load("digits", image_size=4)
    whole = datasets.load("digits")
    assert data.x_train.shape == (1438, 4, 4, 1)
    for ours, image in zip(data.x_test[:5], whole.x_test[:5], strict=True):
        picture = PIL_Image.fromarray(image[..., 0])
        theirs = picture.resize((4, 4), PIL_Image.BILINEAR)
        np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-3)


@pytest.mark.parametrize("size", [0, -3, 2.5, (8, 8, 3)])
def test_bad_image_sizes_are_refused(size):
    with pytest.raises(ValueError, match="Received: image_size="):
        datasets.load("digits", image_size=size)


def paint(folder, colour, count, size=(12, 10)):
    folder.mkdir(parents=True)
    for i in range(count):
        PIL_Image.new("RGB", size, colour).save(folder / f"{i}.png")


def test_a_folder_without_parts_is_split(tmp_path):
    paint(tmp_path / "pets" / "red", (255, 0, 0), 10)
    paint(tmp_path / "pets" / "blue", (0, 0, 255), 5)
    (tmp_path / "pets" / "red" / "notes.txt").write_text("not an image")
    data = datasets.load(tmp_path / "pets", image_size=(6, 5))
    assert data.name == "pets"
    assert data.class_names == ("blue", "red")
    assert np.bincount(data.y_train).tolist() == [4, 8]
    assert np.bincount(data.y_test).tolist() == [1, 2]
    assert data.x_train.shape == (12, 6, 5, 3)
    colours = np.array([(0, 0, 255), (255, 0, 0)], "uint8")
    expected = np.broadcast_to(
        colours[data.y_train][:, None, None], data.x_train.shape
    )
    np.testing.assert_array_equal(data.x_train, expected)


def test_folder_images_are_resized_as_pillow_does(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), "uint8")
    picture = PIL_Image.fromarray(noise)
    for name in ("a", "b"):
        for part in ("train", "test"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            picture.save(folder / "0.png")
    data = datasets.load(tmp_path, image_size=(4, 7))
    expected = np.asarray(picture.resize((7, 4)))
    for image in [*data.x_train, *data.x_test]:
        np.testing.assert_array_equal(image, expected)


def test_images_of_16_bits_keep_their_upper_eight(tmp_path):
    ramp = np.arange(0, 65536, 4, dtype="uint16").reshape(128, 128)
    for name in ("a", "b"):
        for part in ("train", "test"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            PIL_Image.fromarray(ramp).save(folder / "0.png")
    data = datasets.load(tmp_path, image_size=128)
    expected = np.repeat((ramp // 256)[None, ..., None], 3, axis=3)
    np.testing.assert_array_equal(data.x_test, np.repeat(expected, 2, axis=0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    """Strokes that are in the transparency alone, as of an icon."""
    alpha = np.zeros((8, 8), "uint8")
    alpha[2:6, 3] = 255
    drawn = PIL_Image.new("LA", (8, 8))
    drawn.putalpha(PIL_Image.fromarray(alpha))
    if mode == "P":
        # Black is the colour 0, and what cannot be seen the colour 1.
        drawn = PIL_Image.fromarray((alpha == 0).astype("uint8"), mode="P")
        drawn.putpalette([0] * 768)
        drawn.info["transparency"] = 1
    drawn = drawn if mode == "P" else drawn.convert(mode)
    for name in ("a", "b"):
        for part in ("train", "test"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            drawn.save(folder / "0.png")
    data = datasets.load(tmp_path, image_size=8)
    for channel in range(3):
        np.testing.assert_array_equal(
            data.x_train[0, ..., channel], 255 - alpha
        )


def test_a_part_without_classes_does_not_hide_one_with_them(tmp_path):
    """As competitions have it: nobody knows the labels of `test`."""
    for name in ("a", "b"):
        paint(tmp_path / "train" / name, "red", 3)
        paint(tmp_path / "val" / name, "red", 1)
    paint(tmp_path / "test", "red", 2)
    data = datasets.load(tmp_path, image_size=4)
    assert data.y_test.tolist() == [0, 1]


@pytest.mark.parametrize("parts", [["test"], ["val"], ["test", "val"]])
def test_a_folder_with_parts_keeps_them(tmp_path, parts):
    paint(tmp_path / "train" / "a", "red", 3)
    paint(tmp_path / "train" / "b", "blue", 3)
    # Where there are two, those of `val` belong to neither.
    for count, part in zip((2, 1), parts, strict=False):
        paint(tmp_path / part / "b", "blue", count)
    data = datasets.load(tmp_path, image_size=4)
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.y_test.tolist() == [1, 1]


def test_parts_without_one_to_train_on_are_no_classes(tmp_path):
    for part in ("test", "val"):
        for name in ("a", "b"):
            paint(tmp_path / "parts" / part / name, "red", 2)
    with pytest.raises(ValueError, match="needs a part `train`.*'test' wit"):
        datasets.load(tmp_path / "parts", image_size=4)
    # Each by itself is a folder as any other, and so are classes of that name.
    one = datasets.load(tmp_path / "parts" / "test", image_size=4)
    assert one.class_names == ("a", "b")
    for name in ("test", "train set"):
        paint(tmp_path / "classes" / name, "red", 2)
    both = datasets.load(tmp_path / "classes", image_size=4)
    assert both.class_names == ("test", "train set")


@pytest.mark.parametrize(
    "train, test", [("Train", "Test"), ("training", "validation")]
)
def test_parts_by_other_names(tmp_path, train, test):
    for part in (train, test):
        for name in ("a", "b"):
            paint(tmp_path / part / name, "red", 1 + 2 * (part == train))
    data = datasets.load(tmp_path, image_size=4)
    assert data.class_names == ("a", "b")
    assert (len(data.y_train), len(data.y_test)) == (6, 2)


def test_parts_by_names_of_nobody_are_refused(tmp_path):
    for part in ("training_set", "test_set"):
        for name in ("a", "b"):
            paint(tmp_path / part / name, "red", 2)
    with pytest.raises(ValueError, match="needs a part `train`.*'test_set'"):
        datasets.load(tmp_path, image_size=4)


def test_subfolders_without_images_are_said(tmp_path):
    for name in ("a", "b"):
        paint(tmp_path / name, "red", 3)
    (tmp_path / "papers").mkdir()
    with pytest.warns(UserWarning, match=r"left out.*\['papers'\]"):
        data = datasets.load(tmp_path, image_size=4)
    assert data.class_names == ("a", "b")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_photographs_are_upright(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), "uint8")
    sideways = PIL_Image.fromarray(np.rot90(noise, 3))
    exif = sideways.getexif()
    exif[0x0112] = 8  # Orientation: the camera was turned.
    for name in ("a", "b"):
        for part in ("train", "test"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            sideways.save(folder / f"0.{suffix}", exif=exif)
    data = datasets.load(tmp_path, image_size=(4, 6))
    for image in [*data.x_train, *data.x_test]:
        np.testing.assert_array_equal(image, noise)


def test_floats_in_files_are_refused(tmp_path):
    for name in ("a", "b"):
        paint(tmp_path / name, "red", 2)
    floats = PIL_Image.fromarray(np.ones((4, 4), "float32"))
    floats.save(tmp_path / "a" / "f.tif")
    with pytest.raises(ValueError, match="f.tif.*floats"):
        datasets.load(tmp_path, image_size=4)


def test_what_is_not_kept_is_not_resized(monkeypatch):
    whole = datasets.load("digits", image_size=12)
    resized = []

    def noting(images, size, resize=datasets._resized):
        resized.append(len(images))
        return resize(images, size)

    monkeypatch.setattr(datasets, "_resized", noting)
    monkeypatch.setattr(datasets, "_AT_ONCE", 100)
    data = datasets.load("digits", image_size=12, limit=50)
    # The test part in slices, which makes no difference.
    assert resized == [50, 359, 100, 100, 100, 59]
    np.testing.assert_array_equal(data.x_test, whole.x_test)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="exists. Received: name_or_path="):
        datasets.load(tmp_path / "nowhere", image_size=4)
    with pytest.raises(ValueError, match="2 subfolders.*Received: 0"):
        datasets.load(tmp_path, image_size=4)
    paint(tmp_path / "one", "red", 3)
    with pytest.raises(ValueError, match="2 subfolders.*Received: 1"):
        datasets.load(tmp_path, image_size=4)
    paint(tmp_path / "two", "red", 3)
    with pytest.raises(ValueError, match="image_size=None"):
        datasets.load(tmp_path)
    (tmp_path / "two" / "broken.png").write_text("no pixels here")
    with pytest.raises(ValueError, match="cannot be read.*broken.png"):
        datasets.load(tmp_path, image_size=4)


def test_a_class_may_be_of_trains(tmp_path):
    for name in ("bus", "car", "train"):
        paint(tmp_path / name, "red", 3)
    data = datasets.load(tmp_path, image_size=4)
    assert data.class_names == ("bus", "car", "train")
    # Beside a part it is one that lacks its classes.
    paint(tmp_path / "test", "red", 3)
    with pytest.raises(ValueError, match="2 subfolders.*Received: 0.*train"):
        datasets.load(tmp_path, image_size=4)


def test_what_is_hidden_is_left_out(tmp_path):
    """As notebooks leave it, copies of images, and macOS, notes on them."""
    for name in ("a", "b", ".ipynb_checkpoints", "a/.ipynb_checkpoints"):
        paint(tmp_path / name, "red", 3)
    (tmp_path / "a" / "._0.png").write_text("not an image")
    paint(tmp_path / "b" / "more" / "still", "red", 2)
    data = datasets.load(tmp_path, image_size=4)
    assert data.class_names == ("a", "b")
    labels = np.concatenate([data.y_train, data.y_test])
    assert np.bincount(labels).tolist() == [3, 5]


def test_whatever_is_wrong_with_an_image_it_is_named(tmp_path, monkeypatch):
    for name in ("a", "b"):
        paint(tmp_path / name, "red", 2)
    path = tmp_path / "a" / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), "uint8")
    PIL_Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    # A part that is said to be shorter than it is: Pillow's `SyntaxError`.
    length = whole.index(b"IDAT") - 4
    path.write_bytes(whole[:length] + bytes([0, 0, 0, 7]) + whole[length + 4 :])
    with pytest.raises(ValueError, match=r"cannot be read.*0\.png.*broken PNG"):
        datasets.load(tmp_path, image_size=4)
    path.write_bytes(whole)
    monkeypatch.setattr(PIL_Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"cannot be read.*0\.png.*bomb"):
        datasets.load(tmp_path, image_size=4)


def test_a_test_class_without_training_images_is_refused(tmp_path):
    for name in ("a", "b"):
        paint(tmp_path / "train" / name, "red", 2)
    for name in ("a", "c"):
        paint(tmp_path / "test" / name, "red", 2)
    with pytest.raises(ValueError, match=r"Received: \['c'\]"):
        datasets.load(tmp_path, image_size=4)


@pytest.mark.parametrize("name", ["mnist", "cifar_10", "no/such/folder"])
def test_unknown_names_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Received: name_or_path="):
        datasets.load(name)


class FakeBuilder:
    """Two labelled images in each part, as TensorFlow Datasets gives them."""

    name = "fake"

    def __init__(self, features, splits, shape):
        label = types.SimpleNamespace(names=["no", "yes"])
        image = types.SimpleNamespace(shape=shape)
        known = {"image": image, "label": label, "id": None}
        self.info = types.SimpleNamespace(
            features={name: known[name] for name in features}, splits=splits
        )

    def download_and_prepare(self):
        pass

    def as_dataset(self, split, shuffle_files):
        value = {"train": 1, "test": 2, "validation": 3}[split]
        images = np.full((4, 6, 6, 3), value, "uint8")
        return tf.data.Dataset.from_tensor_slices(
            {"image": images, "label": [0, 1, 0, 1]}
        )


@pytest.mark.parametrize(
    ("splits", "counts", "value"),
    [
        (["train", "test", "validation"], (4, 4), 2),
        (["train", "validation"], (4, 4), 3),
        (["train"], (2, 2), 1),
    ],
)
def test_tfds_datasets(monkeypatch, splits, counts, value):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = FakeBuilder(["image", "label"], splits, (6, 6, 3))
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    data = datasets.load("tfds:fake/some:1.0.0")
    assert data.name == "fake"
    assert data.class_names == ("no", "yes")
    assert (len(data.y_train), len(data.y_test)) == counts
    assert (data.x_train == 1).all() and (data.x_test == value).all()
    assert datasets.load("tfds:fake", image_size=3).x_test.shape[1:3] == (3, 3)


def test_unfitting_tfds_datasets_are_refused(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match="does not know.*tfds:no_such_set"):
        datasets.load("tfds:no_such_set")
    builder = FakeBuilder(["image", "id"], ["train"], (6, 6, 3))
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    with pytest.raises(ValueError, match=r"\['id', 'image'\]"):
        datasets.load("tfds:fake")
    builder = FakeBuilder(["image", "label"], ["train"], (None, None, 3))
    with pytest.raises(ValueError, match="several sizes"):
        datasets.load("tfds:fake")
