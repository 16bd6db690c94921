"""Data sets: the sample, the file formats (with files that lie), and the download against a local server."""

import gzip
import hashlib
import io
import os
import pickle
import pickletools
import struct
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from equispike.errors import DataError
from equispike.zoo import data
from equispike.zoo.data import Split, download, formats, load
from equispike.zoo.data.download import Archive, Mirror, ensure

FULL = os.environ.get("EQUISPIKE_DATA")
needs_full = pytest.mark.skipif(not FULL, reason="EQUISPIKE_DATA names no folder with the full data sets")


@pytest.fixture(scope="module")
def sample():
    return load("mnist-sample")


def small_split(n=6, channels=1, name="toy/train"):
    images = torch.arange(n * channels * 4, dtype=torch.uint8).reshape(n, channels, 2, 2)
    return Split(name, images, torch.arange(n) % 3, torch.arange(n) * 10, ("a", "b", "c"))


# The embedded sample


def test_sample_has_three_disjoint_parts(sample):
    assert [len(s) for s in (sample.train, sample.validation, sample.test)] == [5400, 600, 2000]
    assert [s.name for s in (sample.train, sample.validation, sample.test)] == [
        "mnist-sample/train",
        "mnist-sample/validation",
        "mnist-sample/test",
    ]
    training = torch.cat([sample.train.indices, sample.validation.indices])
    assert torch.equal(training.sort().values, torch.arange(0, 60_000, 10))
    assert torch.equal(sample.test.indices, torch.arange(0, 10_000, 5))
    assert sample.train.images.shape == (5400, 1, 28, 28)


def test_sample_is_the_same_each_time(sample):
    again = load("mnist-sample")
    assert torch.equal(again.validation.indices, sample.validation.indices)
    assert torch.equal(again.train.images, sample.train.images)


def test_every_class_is_in_every_part(sample):
    for split in (sample.train, sample.validation, sample.test):
        assert torch.bincount(split.labels, minlength=10).min() > len(split) / 20


def test_altered_sample_is_refused(monkeypatch):
    monkeypatch.setattr(data, "SAMPLE_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"mnist_sample.*SHA-256.*Reinstall"):
        load("mnist-sample")


def test_unknown_name_lists_known_ones():
    with pytest.raises(DataError, match=r"'mnits'.*mnist-sample, mnist, cifar10, cifar100"):
        load("mnits")


# Split


def test_floats_are_in_the_unit_interval(sample):
    floats = sample.test.take(50).floats()
    assert floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (0.0, 1.0)
    assert torch.equal((floats * 255).round().byte(), sample.test.images[:50])


def test_batches_cover_the_split_in_order_and_again(sample):
    split = sample.test.take(23)
    batches = split.batches(10)
    assert len(batches) == 3
    for _ in range(2):
        images, labels = (torch.cat(parts) for parts in zip(*batches))
        assert torch.equal(images, split.floats())
        assert torch.equal(labels, split.labels)


def test_sample_draws_without_replacement_and_keeps_rows_together():
    split = small_split(n=30)
    drawn = split.sample(20, seed=1)
    assert len(set(drawn.indices.tolist())) == 20
    assert torch.equal(drawn.images, split.images[drawn.indices // 10])
    assert torch.equal(drawn.labels, split.labels[drawn.indices // 10])
    assert torch.equal(drawn.indices, split.sample(20, seed=1).indices)
    assert not torch.equal(drawn.indices, split.sample(20, seed=2).indices)


@pytest.mark.parametrize("pick", [Split.take, Split.sample])
@pytest.mark.parametrize("n", [-1, 7])
def test_more_images_than_there_are(pick, n):
    with pytest.raises(DataError, match=f"toy/train: asked for {n} images of 6"):
        pick(small_split(), n)


def test_batches_of_none():
    with pytest.raises(DataError, match="batches of 0"):
        small_split().batches(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(6, 1, 2, 2)}, "images must be uint8"),
        ({"images": torch.zeros(6, 4, dtype=torch.uint8)}, "images must be uint8"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels must be int64"),
        ({"labels": torch.full((6,), 3)}, "labels must lie between 0 and 2"),
        ({"indices": torch.zeros(6)}, "indices must be int64"),
        ({"std": (0.0,)}, "std must be positive"),
        ({"mean": (float("nan"),)}, "mean and std"),
        ({"mean": (0.1, 0.2)}, "one number per channel"),
    ],
)
def test_inconsistent_split_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        replace(small_split(), **change)


def test_normalised_uses_the_training_part_alone():
    train = small_split(n=6, channels=2)
    test = replace(train, images=train.images // 2, name="toy/test")
    result = data.Dataset("toy", train, test, test).normalised()
    floats = result.train.floats()
    assert torch.allclose(floats.mean((0, 2, 3)), torch.zeros(2), atol=1e-6)
    assert torch.allclose(floats.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-6)
    mean, std = (torch.tensor(v).reshape(2, 1, 1) for v in (result.train.mean, result.train.std))
    assert torch.allclose(result.test.floats(), (test.images / 255 - mean) / std, atol=1e-6)


def test_constant_channel_cannot_be_normalised():
    flat = replace(small_split(), images=torch.zeros(6, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(DataError, match="constant"):
        data.Dataset("toy", flat, flat, flat).normalised()


# Full sets


@needs_full
@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [
        ("mnist", [55_000, 5_000, 10_000], (1, 28, 28), 10),
        ("cifar10", [45_000, 5_000, 10_000], (3, 32, 32), 10),
        ("cifar100", [45_000, 5_000, 10_000], (3, 32, 32), 100),
    ],
)
def test_full_sets(name, sizes, shape, classes):
    dataset = load(name, FULL)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(s) for s in splits] == sizes
    for split in splits:
        assert split.images.shape[1:] == shape
        assert len(split.classes) == classes
        assert torch.bincount(split.labels).shape == (classes,)
    training = torch.cat([dataset.train.indices, dataset.validation.indices])
    assert torch.equal(training.sort().values, torch.arange(sizes[0] + sizes[1]))


@needs_full
def test_sample_is_made_of_the_official_digits(sample):
    full = load("mnist", FULL)
    assert torch.equal(full.test.images[sample.test.indices], sample.test.images)
    assert torch.equal(full.test.labels[sample.test.indices], sample.test.labels)


@needs_full
def test_cifar10_means_are_the_known_ones():
    dataset = load("cifar10", FULL).normalised()
    assert dataset.train.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    assert dataset.train.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-3)


# IDX


def idx(shape, payload, magic=0x800):
    return struct.pack(">I", magic + len(shape)) + struct.pack(f">{len(shape)}I", *shape) + payload


def test_idx_round_trip(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx((2, 2, 3), bytes(range(12))))
    assert np.array_equal(formats.read_idx(path, 3), np.arange(12).reshape(2, 2, 3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        idx((2, 3), bytes(6))[:10],
        idx((2, 3), bytes(5)),
        idx((2, 3), bytes(7)),
        idx((2, 3), bytes(6), magic=0x900),
        idx((6,), bytes(6)),
        idx((2**32 - 1, 2**32 - 1), bytes(6)),
        idx((0, 2**32 - 1), bytes(6)),
        gzip.compress(idx((2, 3), bytes(6)), mtime=0),
    ],
)
def test_damaged_idx(tmp_path, content):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"labels.*Remove it"):
        formats.read_idx(path, 2)


def test_missing_idx(tmp_path):
    with pytest.raises(DataError, match=r"labels: No such file"):
        formats.read_idx(tmp_path / "labels", 1)


# Pickles


class Payload:
    """Its pickle creates a file when a permissive unpickler reads it."""

    def __init__(self, call, *arguments):
        self.parts = call, arguments

    def __reduce__(self):
        return self.parts


def python2_batch(images):
    """The opcodes of an official CIFAR file: Python 2, protocol 2, arrays and strings as latin1."""
    raw = images.tobytes()
    return (
        b"\x80\x02}(U\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K"
        + bytes([len(images)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(raw))
        + raw
        + b"tbU\x06labels](K\x03K\x07eu."
    )


def write_pickle(path, content, protocol=4):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def test_python2_pickle(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    content = formats.read_pickle(write_pickle(tmp_path / "batch", python2_batch(images)))
    assert np.array_equal(content["data"], images)
    assert content["labels"] == [3, 7]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_python3_pickle(tmp_path, protocol):
    images = np.arange(256, dtype=np.uint8).reshape(2, 128)
    content = formats.read_pickle(write_pickle(tmp_path / "b", {"data": images, "names": ["a"]}, protocol))
    assert np.array_equal(content["data"], images)
    assert content["names"] == ["a"]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"data": p}, lambda p: {"labels": [1, {"x": (p,)}]}])
@pytest.mark.parametrize("call", ["system", "open", "eval", "getattr", "partial"])
def test_payload_does_not_run(tmp_path, call, wrap, protocol):
    witness = tmp_path / "witness"
    payload = {
        "system": Payload(os.system, f"touch {witness}"),
        "open": Payload(open, str(witness), "w"),
        "eval": Payload(eval, f"open({str(witness)!r}, 'w')"),
        "getattr": Payload(getattr, "x", "upper"),
        "partial": Payload(partial, print),
    }[call]
    path = write_pickle(tmp_path / "train", wrap(payload), protocol)
    with pytest.raises(DataError, match=r"train: the pickle asks for \S+, .*not run"):
        formats.read_pickle(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    "name",
    [
        "numpy.load",
        "numpy.fromfile",
        "numpy.core.multiarray.fromfile",
        "numpy.core.multiarray._reconstruct.__globals__",
    ],
)
def test_other_numpy_globals_are_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = write_pickle(tmp_path / "train", f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(DataError, match=f"asks for {name}"):
        formats.read_pickle(path)


def array_pickle(shape, code="u1", raw=b"", fortran=False):
    """A dictionary whose array claims `shape`, whatever its bytes."""
    array = pickle.dumps((1, shape, "DTYPE", fortran, raw), 2)[2:-1]
    dtype = b"cnumpy\ndtype\nU" + bytes([len(code)]) + code.encode() + b"\x89\x88\x87R"
    text = pickle.dumps("DTYPE", 2)[2:-1]
    assert text[:-2] in array
    start = array.index(text[:-2])
    array = array[:start] + dtype + array[start + len(text) :]
    return b"\x80\x02}U\x04datacnumpy._core.multiarray\n_reconstruct\n)R" + array + b"bs."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array_pickle((2**40, 2**40), raw=b"abc"), "shape"),
        (array_pickle((-1, -3), raw=b"abc"), "damaged"),
        (array_pickle((3,), code="O", raw=b"abc"), "unsigned bytes"),
        (array_pickle((3,), code="f8", raw=b"abc"), "unsigned bytes"),
        (array_pickle((3,), raw=b"abc", fortran=True), "unsigned bytes"),
        (b"\x80\x02}U\x04datacnumpy\nndarray\n(K\x05tRs.", "damaged"),
        (b"\x80\x02]U\x01xa.", "holds a list"),
        (b"\x80\x04\x95", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02}U\x04dataT\xff\xff\xff\x7fabc", "damaged"),
        (b"\x80\x02P1\n.", "damaged"),
    ],
)
def test_pickles_that_lie(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"train: .*{message}"):
        formats.read_pickle(write_pickle(tmp_path / "train", content))


def test_truncated_anywhere(tmp_path):
    whole = python2_batch(np.zeros((1, 3072), np.uint8))
    ends = [position for _, _, position in pickletools.genops(whole)]
    for end in ends:
        with pytest.raises(DataError):
            formats.read_pickle(write_pickle(tmp_path / "train", whole[:end]))


def test_build_cannot_alter_the_reader(tmp_path):
    """A pickle may try to set attributes on what a global resolves to; the next file must read as before."""
    for name in (b"numpy.core.multiarray\n_reconstruct", b"numpy\ndtype", b"_codecs\nencode", b"numpy\nndarray"):
        poison = b"\x80\x02c" + name + b"\nN}U\x08__func__U\x01xs\x86b0}."
        with pytest.raises(DataError):
            formats.read_pickle(write_pickle(tmp_path / "poison", poison))
    images = np.arange(6, dtype=np.uint8)
    assert np.array_equal(formats.read_pickle(write_pickle(tmp_path / "good", {"data": images}))["data"], images)


def test_huge_pickle_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_PICKLE", 10)
    with pytest.raises(DataError, match="more than the 10"):
        formats.read_pickle(write_pickle(tmp_path / "train", {"data": "x" * 20}))


def cifar_folder(folder, labels=(0, 1), width=3072):
    """Files named as CIFAR-10's, with two images each."""
    target = folder / "cifar-10-batches-py"
    target.mkdir(parents=True, exist_ok=True)
    batch = {"data": np.full((2, width), 7, np.uint8), "labels": list(labels)}
    for name in download.MIRRORS["cifar10"].archives[0].members:
        write_pickle(target / name, {"label_names": ["cat", "dog"]} if name == "batches.meta" else batch)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "too few for a validation part"),
        ({"labels": (0, 2)}, "labels must lie between 0 and 1"),
        ({"labels": (0, -1)}, "not class numbers"),
        ({"labels": (0, "x")}, "not class numbers"),
        ({"labels": (0,)}, "labels must be int64"),
        ({"width": 3071}, "not \\(N, 3072\\)"),
    ],
)
def test_cifar_files_that_do_not_fit(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        load("cifar10", cifar_folder(tmp_path, **arguments))


def test_cifar_file_without_labels(tmp_path):
    folder = cifar_folder(tmp_path)
    write_pickle(folder / "cifar-10-batches-py" / "test_batch", {"data": np.zeros((2, 3072), np.uint8)})
    with pytest.raises(DataError, match=r"test_batch: has no list 'labels'"):
        load("cifar10", folder)


# Download


class Server(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    cut: int = 0

    def do_GET(self):
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"files": {}, "cut": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.base = f"http://127.0.0.1:{running.server_port}/"
        yield handler
        running.shutdown()
        thread.join()


def tar_gz(members):
    """members: {name: bytes, or a link's target}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def served(server, name, content, members, folder="set"):
    server.files["/" + name] = content
    return Mirror(server.base, folder, (Archive(name, hashlib.md5(content).hexdigest(), members),))


def left_behind(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_gz_download(server, tmp_path):
    ensure("mnist", tmp_path, served(server, "labels.gz", gzip.compress(b"digits"), ("labels",)))
    assert (tmp_path / "set/labels").read_bytes() == b"digits"
    assert left_behind(tmp_path) == ["set/labels"]


def test_tar_download_takes_known_members_only(server, tmp_path):
    content = tar_gz({"set/train": b"a", "set/test": b"b", "../evil": b"c", "/tmp/evil": b"d", "set/extra": b"e"})
    ensure("cifar10", tmp_path / "x", served(server, "set.tar.gz", content, ("train", "test")))
    assert (tmp_path / "x/set/train").read_bytes() == b"a"
    assert left_behind(tmp_path) == ["x/set/test", "x/set/train"]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    source = served(server, "labels.gz", gzip.compress(b"new"), ("labels",))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/labels").write_bytes(b"old")
    ensure("mnist", tmp_path, source)
    assert (tmp_path / "set/labels").read_bytes() == b"old"


def expect_failure(tmp_path, source, reason):
    with pytest.raises(DataError, match=rf"mnist: http://\S+ cannot be downloaded to \S+ \(.*{reason}.*\). Put "):
        ensure("mnist", tmp_path, source)
    assert not list(tmp_path.rglob("*.part"))


def test_wrong_digest(server, tmp_path):
    source = served(server, "labels.gz", gzip.compress(b"digits"), ("labels",))
    server.files["/labels.gz"] = gzip.compress(b"altered")
    expect_failure(tmp_path, source, "its MD5 is .*altered")
    assert left_behind(tmp_path) == []


def test_truncated_download(server, tmp_path):
    source = served(server, "labels.gz", gzip.compress(os.urandom(5000)), ("labels",))
    server.cut = 100
    expect_failure(tmp_path, source, "truncated: .* of .* bytes|IncompleteRead")
    assert left_behind(tmp_path) == []


def test_missing_at_the_address(server, tmp_path):
    expect_failure(tmp_path, Mirror(server.base, "set", (Archive("x.gz", "0", ("x",)),)), "Not Found")


def test_no_network(tmp_path):
    expect_failure(tmp_path, Mirror("http://127.0.0.1:9/", "set", (Archive("x.gz", "0", ("x",)),)), "refused")


def test_endless_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_ARCHIVE", 1000)
    source = served(server, "labels.gz", os.urandom(5000), ("labels",))
    expect_failure(tmp_path, source, "more than 1,000 bytes")


@pytest.mark.parametrize("members", [{"set/other": b"x"}, {"set/train": "/etc/passwd"}])
def test_archive_without_its_members(server, tmp_path, members):
    source = served(server, "set.tar.gz", tar_gz(members), ("train",))
    expect_failure(tmp_path, source, "set/train")


def test_unwritable_folder(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    source = served(server, "labels.gz", gzip.compress(b"digits"), ("labels",))
    with pytest.raises(DataError, match="cannot be downloaded"):
        ensure("mnist", tmp_path / "file", source)


def test_progress_is_silent_without_a_terminal(server, tmp_path, capfd):
    ensure("mnist", tmp_path, served(server, "labels.gz", gzip.compress(b"digits"), ("labels",)))
    assert capfd.readouterr() == ("", "")


def test_folder_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EQUISPIKE_DATA", str(tmp_path))
    assert data.default_folder() == tmp_path
    monkeypatch.setenv("EQUISPIKE_DATA", "")
    assert data.default_folder() == Path.home() / ".cache" / "equispike"


def test_official_digests_are_stated_for_every_set():
    for source in download.MIRRORS.values():
        assert source.base.startswith("https://")
        assert all(len(archive.md5) == 32 for archive in source.archives)
