"""Checkpoints: the round trip of every type, refusals, and files that are never half written."""

import math
import os
import pickle

import numpy as np
import pytest

from fastgd import checkpoint
from fastgd.checkpoint import DTYPES, CheckpointError, load_file, pack_state, save_file, unpack_state


def same(a, b):
    """Equal in type, dtype, shape and bits, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a.hex() == b.hex() if math.isfinite(a) else repr(a) == repr(b)
    return a == b


SHAPES = {"none": (0, 3), "scalar": (), "some": (2, 5)}

STATE = {
    "rule": "adamw",
    "version": 1,
    "state": {
        0: {"step": 7, "exp_avg": np.float32([[1.5, -0.0], [math.nan, math.inf]])},
        10: {"step": 2**40, "exp_avg": np.array(0.1, np.float64), "empty": np.zeros((0, 3), np.float32)},
    },
    "param_groups": [
        {
            "lr": 0.1,
            "betas": (0.9, 0.999),
            "limit": math.inf,
            "low": -math.inf,
            "bad": math.nan,
            "zero": -0.0,
        },
        {"lr": np.float32(0.1), "amsgrad": True, "nesterov": False, "params": [0, 10], "foreach": None},
    ],
    "128 bits": 2**127 + 1,
    "nothing": {},
    "1": [[], (), ((),)],
}


def test_state_round_trip(tmp_path):
    path = tmp_path / "state.safetensors"
    save_file(path, *pack_state(STATE))
    assert same(unpack_state(*load_file(path)), STATE)


def test_tensor_names_are_the_places_in_the_state():
    tensors, _ = pack_state(STATE)
    assert {"state.0.exp_avg", "state.10.exp_avg", "state.10.empty"} < set(tensors)


def test_names_that_collide_stay_apart(tmp_path):
    state = {"a": {"b": np.zeros(1)}, "a.b": np.ones(1), 1: np.full(1, 2.0), "1": np.full(1, 3.0)}
    save_file(tmp_path / "f", *pack_state(state))
    assert same(unpack_state(*load_file(tmp_path / "f")), state)


@pytest.mark.parametrize("value", [{1, 2}, object(), 1j, b"bytes", {(1, 2): 3}, {True: 1}])
def test_other_types_are_refused_by_place(value):
    with pytest.raises(TypeError, match=r"state\.here"):
        pack_state({"state": {"here": value}})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(20.0)[::-2],
        np.arange(6, dtype=">f4"),
        np.broadcast_to(np.float32(3), (2, 2)),
        np.array(5, ">i8"),
    ],
    ids=["transposed", "reversed", "big-endian", "broadcast", "0-d"],
)
def test_layouts_keep_their_values(tmp_path, array):
    save_file(tmp_path / "f", {"a": array}, {"k": "v"})
    tensors, metadata = load_file(tmp_path / "f")
    assert metadata == {"k": "v"}
    assert tensors["a"].shape == array.shape
    assert np.array_equal(tensors["a"], array)
    tensors["a"][...] = 0


def test_object_arrays_are_refused(tmp_path):
    with pytest.raises(TypeError, match="weights has dtype object"):
        save_file(tmp_path / "f", {"weights": np.array([None])})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metadata", [None, {"kéy\u2028": 'v "\0\t'}])
def test_the_file_is_byte_for_byte_what_safetensors_writes(tmp_path, metadata):
    from safetensors.numpy import save_file as theirs

    numpys = [dtype for dtype in DTYPES if dtype != "bfloat16"]
    tensors = {f"{k} é{dtype}": np.ones(shape, dtype) for dtype in numpys for k, shape in SHAPES.items()}
    for content in (tensors, {}, {"'\\\n": np.arange(3)}):
        save_file(tmp_path / "ours", content, metadata)
        theirs(content, tmp_path / "theirs", metadata)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
        assert same(load_file(tmp_path / "ours"), (dict(sorted(content.items())), metadata or {}))


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ({}, {"a": 1}, TypeError, "metadata is text under text, not 1 under 'a'"),
        ({}, {1: "a"}, TypeError, "metadata is text under text, not 'a' under 1"),
        ({1: np.zeros(1)}, {}, TypeError, "tensors are named by text, not 1"),
        ({"__metadata__": np.zeros(1)}, {}, ValueError, "no tensor can be named '__metadata__'"),
        ({"\ud800": np.zeros(1)}, {}, UnicodeEncodeError, "surrogates not allowed"),
        ({}, {"a": "b" * 1000}, CheckpointError, "its names and metadata take more than 500 bytes"),
    ],
)
def test_what_readers_would_refuse_is_not_written(tmp_path, monkeypatch, tensors, metadata, error, message):
    monkeypatch.setattr(checkpoint, "MAX_HEADER", 500)
    save_file(tmp_path / "f", {"a": np.ones(1)})
    with pytest.raises(error, match=message):
        save_file(tmp_path / "f", tensors, metadata)
    assert load_file(tmp_path / "f")[0]["a"].all()


class Exploding:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_bad_files_are_refused(tmp_path):
    save_file(tmp_path / "good", {"a": np.arange(100.0)})
    content = (tmp_path / "good").read_bytes()
    bad = {
        "empty": b"",
        "short": content[:-1],
        "long": content + b"\0",
        "header": content[:20],
        "pickle": pickle.dumps(Exploding()),
        "huge": b"\xff" * 8 + content[8:],
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"cannot load .*{name}: it is not a safetensors file"):
            load_file(tmp_path / name)
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_file(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="it is a folder"):
        load_file(tmp_path)


def test_foreign_and_damaged_states_are_refused(tmp_path):
    save_file(tmp_path / "foreign", {"a": np.zeros(1)})
    with pytest.raises(CheckpointError, match="holds no fastgd state"):
        unpack_state(*load_file(tmp_path / "foreign"))
    tensors, metadata = pack_state({"a": np.zeros(1)})
    for broken in ("{", '{"other": 1}', '{"dict": 3}', "[]", "{}"):
        with pytest.raises(CheckpointError, match="damaged"):
            unpack_state(tensors, dict.fromkeys(metadata, broken))
    with pytest.raises(CheckpointError, match="damaged"):
        unpack_state({}, metadata)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "f"
    save_file(path, {"a": np.zeros(3)})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_file(path, {"a": np.ones(3)})
    assert os.listdir(tmp_path) == ["f"]
    assert not load_file(path)[0]["a"].any()


@pytest.mark.skipif(os.name != "posix", reason="folders are synchronised on POSIX only")
def test_a_folder_that_cannot_be_synchronised_holds_the_file_all_the_same(tmp_path, monkeypatch):
    """Some file systems refuse it, and so does a folder that may be written but not read."""
    real = os.open

    def fail(path, *rest):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", fail)
    save_file(tmp_path / "f", {"a": np.ones(3)})
    monkeypatch.undo()
    assert load_file(tmp_path / "f")[0]["a"].all()


def test_saving_where_one_cannot(tmp_path):
    with pytest.raises(CheckpointError, match="No such file or directory"):
        save_file(tmp_path / "absent" / "f", {})
    with pytest.raises(CheckpointError, match="it is a folder"):
        save_file(tmp_path, {})


@pytest.mark.skipif(os.name != "posix", reason="symbolic links and file modes are POSIX's")
def test_links_are_followed_and_modes_are_the_users(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_file(tmp_path / "link", {"a": np.zeros(1)})
    (tmp_path / "plain").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_mode == (tmp_path / "plain").stat().st_mode
