"""Compiled kernels on disk, with a compiler that only counts."""

import pytest

from fastgd.cuda import cache
from fastgd.cuda.writer import Writer

HOPPER = (9, 0)


def text(name="update", line="return"):
    writer = Writer(name, ("tensors",), 128)
    writer.line(line)
    return writer.done()


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The texts that were compiled, as they are."""
    found = []
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "ptx_of", lambda text: found.append(text.source) or text.source)
    monkeypatch.setattr(cache, "cubin_of", lambda ptx, capability: ptx.encode())
    monkeypatch.setattr(cache, "_compilers", lambda: "one")
    return found


def test_a_kernel_is_compiled_once(compiled, tmp_path):
    for _ in range(2):
        assert cache.cubin(text(), HOPPER) == text().source.encode()
    assert len(compiled) == 1 and len(list((tmp_path / "kept").iterdir())) == 1


def test_whatever_decides_its_code_makes_another(compiled, monkeypatch):
    cache.cubin(text(), HOPPER)
    cache.cubin(text(), (8, 0))
    cache.cubin(text(line="barrier()"), HOPPER)
    cache.cubin(text()._replace(threads=64), HOPPER)
    cache.cubin(text()._replace(registers=255), HOPPER)
    monkeypatch.setattr(cache, "_compilers", lambda: "another")
    cache.cubin(text(), HOPPER)
    assert len(compiled) == 6


def test_the_compiler_is_part_of_it(monkeypatch):
    described = cache._compilers.__wrapped__
    versions = {"numba-cuda": "1", "numba": "2", "cuda-bindings": "3"}
    monkeypatch.setattr(cache, "version", versions.__getitem__)
    before = described()
    for name in list(versions):
        versions[name] += ".1"
        assert described() != before
        before = described()
    monkeypatch.setattr(cache.Path, "read_bytes", lambda path: b"other lowering")
    assert described() != before


def test_without_a_folder_nothing_is_kept(compiled, monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, "")
    for _ in range(2):
        cache.cubin(text(), HOPPER)
    assert len(compiled) == 2 and not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_written_is_no_error(compiled, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    assert cache.cubin(text(), HOPPER) == text().source.encode()


def test_where_they_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "fastgd"


def test_compiling_that_takes_long_is_said_once(compiled, monkeypatch, capsys):
    monkeypatch.setattr(cache, "PATIENCE", 0.0)
    with cache.compiling.shown():
        for line in ("return", "barrier()"):
            cache.cubin(text(line=line), HOPPER)
    begun, ended = capsys.readouterr().err.splitlines()
    assert begun.startswith("fastgd: compiling kernels for sm_90, to be kept in ") and begun.endswith(" ...")
    assert ended.startswith("fastgd: 2 kernels compiled in ")
    monkeypatch.setattr(cache, "PATIENCE", 60.0)
    with cache.compiling.shown():
        cache.cubin(text("sums"), HOPPER)
    assert capsys.readouterr().err == ""
