"""Reading and writing one file of tensors."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from glide_fast.checkpoints import read_state_dict, write_state_dict
from glide_fast.errors import CheckpointError, InvalidInputError

NEWER_DTYPES = (torch.uint16, torch.uint32, torch.float8_e4m3fn)
ROOT = Path(__file__).parent.parent.parent
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn),
]


def bits(tensor: Tensor) -> bytes:
    """A tensor's values as bytes, so that NaNs compare too."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = torch.empty(shape).numel() * dtype.itemsize
    if dtype == torch.bool:
        return torch.tensor(
            draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=dtype
        ).reshape(shape)
    raw = draw(st.binary(min_size=count, max_size=count))
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


STATES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), tensors(), min_size=1, max_size=5
)


def assert_same(read: dict[str, Tensor], written: dict[str, Tensor]) -> None:
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert bits(read[name]) == bits(tensor)


@settings(max_examples=60, deadline=None)
@given(state=STATES.filter(lambda state: "__metadata__" not in state))
def test_safetensors_round_trip(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("round") / "w.safetensors"
    write_state_dict(path, state)
    assert_same(read_state_dict(path), state)


@settings(max_examples=30, deadline=None)
@given(state=STATES, mmap=st.booleans(), new_format=st.booleans())
def test_torch_round_trip(tmp_path_factory, state, mmap, new_format):
    path = tmp_path_factory.mktemp("round") / "w.pt"
    if not new_format:  # older than these dtypes: torch itself cannot read them back
        state = {name: value for name, value in state.items() if value.dtype not in NEWER_DTYPES}
        assume(state)
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=new_format)
    assert_same(read_state_dict(path, mmap=mmap), state)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path, dtype):
    state = {"a": torch.arange(6).reshape(2, 3).to(dtype)}
    write_state_dict(tmp_path / "w.safetensors", state)
    assert_same(read_state_dict(tmp_path / "w.safetensors"), state)


def test_views_and_shared_memory_are_written_in_full(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    image = torch.arange(48.0).reshape(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = {
        "base": base,
        "same": base,
        "transposed": base.T,
        "row": base[1],
        "strided": base[:, ::2],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "flat": base.view(-1),
        "channels_last": image,
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
        "parameter": nn.Parameter(torch.ones(2)),
    }
    write_state_dict(tmp_path / "w.safetensors", state)
    read = read_state_dict(tmp_path / "w.safetensors")
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor.detach()), name
        assert not read[name].requires_grad
        assert read[name].is_contiguous()
    read["base"].zero_()
    assert torch.equal(read["same"], base)


def test_metadata_is_kept(tmp_path):
    write_state_dict(tmp_path / "w.safetensors", {"a": torch.ones(1)}, {"step": "10"})
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "10"}


def test_official_kinds_of_file_read_the_same(tmp_path):
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "new.pt")
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(dict(model.named_parameters()), tmp_path / "parameters.pt")
    write_state_dict(tmp_path / "w.safetensors", model.state_dict())
    (tmp_path / "misnamed.pt").write_bytes((tmp_path / "w.safetensors").read_bytes())
    (tmp_path / "misnamed.safetensors").write_bytes((tmp_path / "new.pt").read_bytes())
    for path in tmp_path.iterdir():
        read = read_state_dict(path)
        assert_same(read, dict(model.state_dict()))
        assert not any(tensor.requires_grad for tensor in read.values())


def test_changing_a_mapped_tensor_does_not_change_the_file(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "w.pt")
    read_state_dict(tmp_path / "w.pt", mmap=True)["a"].zero_()
    assert read_state_dict(tmp_path / "w.pt")["a"].sum() == 1000


def test_nested_state_dict_by_key(tmp_path):
    torch.save(
        {"ema": {"a": torch.ones(2)}, "state_dict": {"a": torch.zeros(2)}, "step": 3}, tmp_path / "w.pt"
    )
    assert read_state_dict(tmp_path / "w.pt", key="ema")["a"].sum() == 2
    with pytest.raises(CheckpointError, match="no state dict under 'model'; it has: state_dict, ema"):
        read_state_dict(tmp_path / "w.pt", key="model")
    with pytest.raises(CheckpointError, match=r"3 of its 3 entries are not tensors.*pass key='state_dict'"):
        read_state_dict(tmp_path / "w.pt")


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(Path(os.environ["GLIDE_FAST_TEST_TRAP"])),)


def test_pickles_that_run_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GLIDE_FAST_TEST_TRAP", str(tmp_path / "trap"))
    torch.save({"a": torch.ones(1), "evil": RunsCode()}, tmp_path / "new.pt")
    torch.save({"evil": RunsCode()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.pt"):
        with pytest.raises(CheckpointError, match=r"is refused: .*(posix|nt|os)\.mkdir.*can run any code"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "trap").exists()


def test_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"is refused: .*Linear.*state_dict\(\) alone"):
        read_state_dict(tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list, not a state dict"),
        (torch.ones(1), "holds a Tensor, not a state dict"),
        ({}, "holds no tensors"),
        ({1: torch.ones(1)}, "some of its keys are not strings"),
        ({"a": torch.ones(1), "epoch": 3}, r"1 of its 2 entries are not tensors, e\.g\. epoch \(int\)"),
        ({"model": {"a": torch.ones(1)}}, r"nested under 'model': pass key='model'"),
    ],
)
def test_not_a_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 7, 60, 400, 0.5, 0.99, -1])
def test_truncated(tmp_path, name, keep):
    path = tmp_path / name
    state = {"a": torch.ones(500), "b": torch.ones(500)}
    if name == "w.pt":
        torch.save(state, path)
    else:
        write_state_dict(path, state)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"is empty|truncated|neither a torch nor a safetensors"):
        read_state_dict(path)


@pytest.mark.parametrize("keep", [1, 7, 60, 0.5, 0.99, -1])
def test_truncated_old_torch_format(tmp_path, keep):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(500)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError):
        read_state_dict(path)


def test_missing_directory_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a directory"):
        read_state_dict(tmp_path)
    (tmp_path / "page.pt").write_text("  <!DOCTYPE html><html>404</html>")
    with pytest.raises(CheckpointError, match="is a web page, not weights"):
        read_state_dict(tmp_path / "page.pt")
    (tmp_path / "text.pt").write_text("hello, I am a text file")
    with pytest.raises(CheckpointError, match=r"starts with b'hello, I am a te'|not a torch checkpoint"):
        read_state_dict(tmp_path / "text.pt")
    (tmp_path / "picture.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "picture.pt")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_state_dict(tmp_path / "noise.safetensors")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": Fraction(1, 2)}, protocol=2))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "plain.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=600), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_any_bytes_give_a_checkpoint_error(tmp_path_factory, noise, suffix):
    path = tmp_path_factory.mktemp("noise") / f"w{suffix}"
    path.write_bytes(noise)
    with pytest.raises(CheckpointError):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "tensors: got 'list'"),
        ({}, "at least one tensor"),
        ({3: torch.ones(1)}, "names that are str"),
        ({"a": 1.0}, r"tensors\['a'\]: got 'float'"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, r"got torch\.complex128"),
        ({"a": torch.eye(2).to_sparse()}, "sparse"),
        ({"a": torch.ones(2, device="meta")}, "a meta tensor"),
    ],
)
def test_what_cannot_be_written(tmp_path, state, message):
    with pytest.raises(InvalidInputError, match=message):
        write_state_dict(tmp_path / "w.safetensors", state)
    assert list(tmp_path.iterdir()) == []


def test_metadata_must_be_text(tmp_path):
    with pytest.raises(InvalidInputError, match="metadata: got"):
        write_state_dict(tmp_path / "w.safetensors", {"a": torch.ones(1)}, {"step": 10})  # type: ignore[dict-item]


def test_no_such_directory(tmp_path):
    with pytest.raises(CheckpointError, match=r"was not written: No such file or directory"):
        write_state_dict(tmp_path / "missing" / "w.safetensors", {"a": torch.ones(1)})


def test_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_state_dict(path, {"a": torch.ones(1)})

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fill)
    with pytest.raises(CheckpointError, match=r"w\.safetensors was not written: the disk is full"):
        write_state_dict(path, {"a": torch.zeros(1)})
    assert read_state_dict(path)["a"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


LIMITED = """
import resource, sys, torch
from glide_fast.checkpoints import write_state_dict
from glide_fast.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_state_dict(sys.argv[1], {"a": torch.zeros(1_000_000)})
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_the_operating_system_refuses_more_bytes(tmp_path):
    """A real refusal in the middle of writing, from below the library that writes."""
    path = tmp_path / "w.safetensors"
    write_state_dict(path, {"a": torch.ones(1)})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "was not written: File too large. What was there before is unchanged" in done.stdout
    assert read_state_dict(path)["a"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_file_does_not_hang(tmp_path, suffix):
    pipe, endless = tmp_path / f"pipe{suffix}", tmp_path / f"endless{suffix}"
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    for file, what in ((pipe, "a named pipe"), (endless, "a device")):
        with pytest.raises(CheckpointError, match=f"cannot be read: it is {what}, not a file"):
            read_state_dict(file)
    with pytest.raises(CheckpointError, match="File name too long"):
        read_state_dict(tmp_path / ("a" * 300 + suffix))
    for path in (f"a\0{suffix}", f"\ud800{suffix}", 5):
        with pytest.raises(InvalidInputError, match="path: got"):
            read_state_dict(path)
        with pytest.raises(InvalidInputError, match="path: got"):
            write_state_dict(path, {"a": torch.ones(1)})


def test_an_error_in_json_is_no_checkpoint(tmp_path):
    (tmp_path / "w.pt").write_text('{"error": {"code": 404}}')
    with pytest.raises(CheckpointError, match="is a JSON document, not weights"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("mmap", [True, False])
def test_a_torch_file_that_claims_more_than_it_holds_is_refused(tmp_path, mmap):
    file = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(1).expand(2**17, 2**17), "b": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match=r"have .*the largest is a, of shape \(131072, 131072\)"):
        read_state_dict(file, mmap=mmap)
    # What is expanded a little, or has two names, is read.
    values = torch.arange(6.0)
    torch.save({"a": values[:1].expand(3), "b": values, "c": values.view(2, 3)}, file)
    assert read_state_dict(file, mmap=mmap)["c"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("mmap", [True, False])
def test_a_compressed_torch_file_is_refused(tmp_path, mmap):
    torch.save({"a": torch.zeros(10_000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed, which torch does to none"):
        read_state_dict(tmp_path / "b.pt", mmap=mmap)
