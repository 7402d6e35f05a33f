"""Files that appear whole: what is put in place, what is left behind, and what of that is removed."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading

import pytest

from fastgd import files
from fastgd.files import replacing

pytestmark = pytest.mark.skipif(files.fcntl is None, reason="files left behind are told by locks of POSIX")

LEFT = ".f.0123456789ab.tmp"


def put(path, content):
    with replacing(path) as file:
        file.write(content)


def temporaries(folder):
    return sorted(path.name for path in folder.glob(".*"))


def test_the_new_file_is_there_only_when_the_block_has_ended(tmp_path):
    put(tmp_path / "f", b"old")
    with replacing(tmp_path / "f") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "f").read_bytes() == b"old"
        (name,) = temporaries(tmp_path)
        assert (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "f").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_all_of_it_is_on_the_disk_before_it_is_put_in_place(tmp_path, monkeypatch):
    """Or the system could fail in between, and a name be kept without its content."""
    calls = []
    sync, replace = os.fsync, os.replace

    def noted(what, call, place, *rest):
        calls.append((what, os.stat(place).st_size))
        call(place, *rest)

    monkeypatch.setattr(os, "fsync", functools.partial(noted, "sync", sync))
    monkeypatch.setattr(os, "replace", functools.partial(noted, "replace", replace))
    put(tmp_path / "f", b"new")
    assert calls == [("sync", 3), ("replace", 3), ("sync", tmp_path.stat().st_size)]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path, error):
    put(tmp_path / "f", b"old")
    with pytest.raises(error), replacing(tmp_path / "f") as file:
        file.write(b"new")
        raise error
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_what_was_left_is_removed_and_nothing_else(tmp_path):
    others = [
        "f.0123456789ab.tmp",
        ".f.0123456789ab",
        ".f.0123456789a.tmp",
        ".f.0123456789ax.tmp",
        ".f.0123456789ab.tmp.old",
        ".g.0123456789ab.tmp",
        ".f.x.0123456789ab.tmp",
        ".x.f.0123456789ab.tmp",
        ".fxg.0123456789ab.tmp",
    ]
    for name in (LEFT, ".f.00000000ffff.tmp", ".f.g.00000000ffff.tmp", *others):
        (tmp_path / name).write_bytes(b"x")
    put(tmp_path / "f", b"new")
    assert sorted(os.listdir(tmp_path)) == sorted(["f", ".f.g.00000000ffff.tmp", *others])
    put(tmp_path / "f.g", b"new")  # a dot in a name is no wildcard
    assert sorted(os.listdir(tmp_path)) == sorted(["f", "f.g", *others])


def test_links_and_folders_of_that_name_are_left_alone(tmp_path):
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / LEFT).symlink_to(tmp_path / "precious")
    (tmp_path / ".f.ffffffffffff.tmp").mkdir()
    put(tmp_path / "f", b"new")
    assert temporaries(tmp_path) == [LEFT, ".f.ffffffffffff.tmp"]
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_what_a_link_points_to_is_cleaned_where_it_is(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "f")
    (tmp_path / "folder" / LEFT).touch()
    put(tmp_path / "link", b"new")
    assert os.listdir(tmp_path / "folder") == ["f"]


WRITING = """
import sys
from fastgd.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"theirs")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_live_process_keeps_its_file_and_a_killed_one_does_not(tmp_path):
    path = tmp_path / "f"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed, live = (subprocess.Popen([sys.executable, "-c", WRITING, path], **pipes) for _ in range(2))
    with killed, live, contextlib.ExitStack() as stack:
        stack.callback(live.kill)  # whatever fails: one that is stopped would be waited for for ever
        stack.callback(killed.kill)
        assert killed.stdout.readline() == live.stdout.readline() == b"writing\n"
        os.kill(live.pid, signal.SIGSTOP)
        before = temporaries(tmp_path)
        assert len(before) == 2
        put(path, b"ours")
        assert temporaries(tmp_path) == before
        killed.kill()
        killed.wait()
        put(path, b"ours again")
        assert len(temporaries(tmp_path)) == 1
        assert path.read_bytes() == b"ours again"
        os.kill(live.pid, signal.SIGCONT)
        live.stdin.close()
        assert live.wait() == 0
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["f"]


def test_another_threads_file_is_kept(tmp_path):
    with replacing(tmp_path / "f") as file:
        file.write(b"first")
        other = threading.Thread(target=put, args=(tmp_path / "f", b"second"))
        other.start()
        other.join()
        assert (tmp_path / "f").read_bytes() == b"second"
    assert (tmp_path / "f").read_bytes() == b"first"


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """As by another process that lists the folder in that instant, and has the lock still or no more."""
    lock, made = files.fcntl.flock, []

    def late(file, how):
        (name,) = set(temporaries(tmp_path)) - set(made)
        made.append(name)
        if len(made) == 1:
            raise BlockingIOError
        if len(made) == 2:
            (tmp_path / name).unlink()
        lock(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_remove_left", lambda target: None)
        patch.setattr(files.fcntl, "flock", late)
        put(tmp_path / "f", b"new")
    assert len(set(made)) == 3
    assert (tmp_path / "f").read_bytes() == b"new"
    put(tmp_path / "f", b"newer")
    assert os.listdir(tmp_path) == ["f"]


SAVING = """
import sys
from fastgd.files import replacing
for number in range(300):
    with replacing(sys.argv[1]) as file:
        file.write(sys.argv[2].encode() * 10_000)
"""


def test_many_processes_at_one_path_do_not_hinder_each_other(tmp_path):
    path = tmp_path / "f"
    children = [subprocess.Popen([sys.executable, "-c", SAVING, path, letter]) for letter in "abc"]
    assert [child.wait() for child in children] == [0, 0, 0]
    content = path.read_bytes()
    assert content in [letter * 10_000 for letter in (b"a", b"b", b"c")]
    assert os.listdir(tmp_path) == ["f"]


def test_without_locks_files_are_put_in_place_and_what_was_left_stays(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    (tmp_path / LEFT).touch()
    put(tmp_path / "f", b"new")
    assert sorted(os.listdir(tmp_path)) == [LEFT, "f"]


def test_where_the_system_has_no_locks_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    (tmp_path / LEFT).touch()
    put(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == [LEFT, "f"]


def test_a_folder_that_may_not_be_read_is_written_to(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    put(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
