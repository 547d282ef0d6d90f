"""Pickles: plain data of every age is read, and nothing is ever run."""

import os
import pickle
import pickletools
import subprocess
import tracemalloc
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest

from diagnostics.data import plain_pickle
from diagnostics.data.bad_data import BadData
from diagnostics.data.plain_pickle import read_pickle
from tests.diagnostics.data import made

PLAIN = {
    "image_data": made.images_of(2, 3, side=5),
    "class_dict": {"n01": [0, 1, 2], "n02": [3, 4, 5]},
    "labels": np.array([0, 0, 0, 1, 1, 1]),
    "names": np.array(["a", "bcd"]),
    "objects": np.array(["x", "yz"], dtype=object),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(4, dtype=">i4"),
    "scalar": np.float64(2.5),
    "empty": np.zeros((0, 3), np.uint8),
    "mixed": (1, 2.5, None, True, "text", [10**30]),
}


def same(found: object, value: object) -> bool:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return found == value.tolist()
    if isinstance(value, np.ndarray):
        return isinstance(found, np.ndarray) and found.dtype == value.dtype and np.array_equal(found, value)
    return type(found) is type(value) and found == value


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol_read_back(protocol: int, tmp_path: Path):
    found = read_pickle(written(tmp_path / "x.pkl", pickle.dumps(PLAIN, protocol=protocol)))
    assert isinstance(found, dict) and list(found) == list(PLAIN)
    for name, value in PLAIN.items():
        expected = float(value) if isinstance(value, np.floating) else value
        assert same(found[name], expected), name


def test_pickles_of_python_2_with_byte_string_keys(tmp_path: Path):
    value = {
        "data": made.images_of(1, 2, side=4),
        "labels": [3, 3],
        "names": np.array([b"ab", b"c"]),
        "raw": b"\xff\x00",
    }
    content = made.python2(value)
    assert b"X" not in {op.code.encode() for op, _, _ in pickletools.genops(content)}, "no text, only byte strings"
    found = read_pickle(written(tmp_path / "x.pkl", content))
    assert isinstance(found, dict) and list(found) == ["data", "labels", "names", "raw"]
    assert same(found["data"], value["data"]) and found["labels"] == [3, 3] and found["raw"] == b"\xff\x00"
    assert same(found["names"], value["names"])


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def hostile(target: str) -> dict[str, bytes]:
    """Pickles that, loaded carelessly, run something; most would make the file `target`."""
    touch, code = f"touch {target}", f"__import__('pathlib').Path({target!r}).touch()"
    numpy_name = b"cnumpy.core.multiarray\n_reconstruct\n"
    return {
        "os.system": pickle.dumps({"image_data": Calls(os.system, touch)}),
        "subprocess": pickle.dumps([Calls(subprocess.call, ["touch", target])]),
        "eval": pickle.dumps(Calls(eval, code)),
        "exec in an array": pickle.dumps({"data": np.array([Calls(exec, code)], dtype=object)}),
        "getattr": b"c__builtin__\ngetattr\n(c__builtin__\ndict\nS'get'\ntR.",
        "nested attribute": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
        "numpy.load": b"cnumpy\nload\n(S'x.npy'\ntR.",
        "numpy's own loader": b"cnumpy\nloads\n(S'x'\ntR.",
        "numpy testing": b"cnumpy.testing._private.utils\nrunstring\n(S'x'\n}tR.",
        "instance": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "object": f"(cos\nsystem\nS'{touch}'\no.".encode(),
        "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        "a set": pickle.dumps({1, 2}),
        "a class": pickle.dumps(OrderedDict(a=1)),
        "counter": pickle.dumps(Counter("ab")),
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pos.system\n.",
        "codec": b"c_codecs\nencode\n(X\x03\x00\x00\x00abcX\x05\x00\x00\x00rot13tR.",
        "array of a class": numpy_name + b"(cos\nsystem\n(I0\ntS'b'\ntR.",
        "array of no class": numpy_name + b"(I0\n(I0\ntS'b'\ntR.",
        "state on a name": numpy_name + b"}X\x08\x00\x00\x00__call__I1\nsb.",
        "slots on a name": numpy_name + b"(N}X\x08\x00\x00\x00__call__I1\nstb.",
        "a name itself": numpy_name + b".",
        "an array type itself": b"cnumpy\nndarray\n.",
        "call of a number": b"I1\n(tR.",
        "structured type": pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "f4")])),
        "dates": pickle.dumps(np.zeros(2, "M8[s]")),
        "frozenset": pickle.dumps(frozenset((1,))),
        "complex": pickle.dumps(1j),
    }


@pytest.mark.parametrize("name", list(hostile("x")))
def test_a_pickle_that_asks_for_anything_else_is_refused_and_nothing_is_run(name: str, tmp_path: Path):
    target = tmp_path / "ran"
    path = written(tmp_path / "x.pkl", hostile(str(target))[name])
    with pytest.raises(BadData, match=f"^{path}: expected a ") as caught:
        read_pickle(path)
    assert not target.exists()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["os.system", "subprocess", "eval", "exec in an array"])
def test_the_hostile_pickles_do_run_when_loaded_carelessly(name: str, tmp_path: Path):
    """The test above could not fail if they were harmless."""
    target = tmp_path / "ran"
    pickle.loads(hostile(str(target))[name])
    assert target.exists()


def test_the_call_is_named(tmp_path: Path):
    path = written(tmp_path / "x.pkl", hostile("x")["os.system"])
    called = f"found one that calls '{os.system.__module__}.system'; it was not run"
    with pytest.raises(BadData, match=f"^{path}: expected a pickle of plain arrays, {called}"):
        read_pickle(path)


def test_a_name_that_was_let_in_is_what_the_tests_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With one function too many in the list, the hostile pickle runs: the list is what keeps it out."""
    target = tmp_path / "ran"
    monkeypatch.setitem(plain_pickle.NAMES, (os.system.__module__, "system"), os.system)  # type: ignore[arg-type]
    read_pickle(written(tmp_path / "x.pkl", hostile(str(target))["os.system"]))
    assert target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"not a pickle", pickle.dumps(PLAIN)[:-40], pickle.dumps(PLAIN)[:10], b"\x80\xff.", b"]", b".",
        b"\xff" * 50,
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2^63 - 1
        b"\x80\x04\x8eaaaaaaaa.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo that is far off
        b"I" + b"9" * 5000 + b"\n.",
        b"]" * 100_000 + b"a" * 99_999 + b".",  # lists in lists
        b"]q\x00h\x00a.",  # a list in itself
    ],
)  # fmt: skip
def test_what_is_damaged_or_absurd_ends_in_one_line(content: bytes, tmp_path: Path):
    path = written(tmp_path / "x.pkl", content)
    if content == b"\x80\x02]r\xff\xff\xff\x7f.":
        assert read_pickle(path) == []  # absurd, but it costs nothing
        return
    with pytest.raises(BadData, match=f"^{path}: expected a ") as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)


def test_containers_named_again_and_again_are_gone_through_once(tmp_path: Path):
    """Six levels of a thousand references each: 10^18 if each were followed."""
    content = b"]q\x00"
    for level in range(6):
        content += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 999 + b"eq" + bytes([level + 1])
    found = read_pickle(written(tmp_path / "x.pkl", content + b"."))
    for _ in range(6):
        assert isinstance(found, list) and len(found) == 1000
        found = found[-1]


@pytest.mark.parametrize("code, size", [(b"\x8e", 8), (b"B", 4), (b"X", 4), (b"\x96", 8), (b"\x8d", 8)])
def test_a_length_beyond_the_file_allocates_nothing(code: bytes, size: int, tmp_path: Path):
    """A pickle of a few bytes that claims a gigabyte."""
    path = written(tmp_path / "x.pkl", b"\x80\x05" + code + (2**30).to_bytes(size, "little") + b".")
    tracemalloc.start()
    try:
        with pytest.raises(BadData, match="it ends too soon"):
            read_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_shape_that_does_not_fit_its_numbers_is_refused(tmp_path: Path):
    content = pickle.dumps(np.zeros(4, np.uint8), protocol=2)
    assert content.count(b"K\x04\x85") == 1
    path = written(tmp_path / "x.pkl", content.replace(b"K\x04\x85", b"J\x00\x00\x00\x7f\x85"))
    with pytest.raises(BadData, match="expected a whole pickle, found a damaged one"):
        read_pickle(path)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(BadData, match="expected a pickle, found No such file"):
        read_pickle(tmp_path / "x.pkl")
