"""Loading the C++ library, and saying why there is none."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support import steps

from glide_fast.ops import native
from glide_fast.ops.group_norm_act import arguments as group_norm_act_arguments
from glide_fast.ops.group_norm_act import native_arguments as group_norm_act_native
from glide_fast.ops.guided_step import arguments as guided_step_arguments
from glide_fast.ops.guided_step import native_arguments as guided_step_native


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No library and no record, until the test writes one to the path it is given."""

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    record = tmp_path / "_build.json"
    monkeypatch.setattr(native, "RECORD", record)
    monkeypatch.setattr(importlib, "import_module", absent)
    native._load.cache_clear()
    native.build_record.cache_clear()
    yield record
    native._load.cache_clear()
    native.build_record.cache_clear()


def test_the_library_or_a_reason_but_not_both() -> None:
    assert (native.load() is None) == (native.why_missing() is not None)


def test_never_installed(unloaded: Path) -> None:
    assert native.load() is None
    assert "pip install -e ." in str(native.why_missing())


def test_the_reason_is_the_one_that_the_build_recorded(unloaded: Path) -> None:
    unloaded.write_text(json.dumps({"native": False, "why_not": "no ninja found"}))
    assert native.why_missing() == "the native library was not built: no ninja found"


def test_built_for_another_python(unloaded: Path) -> None:
    unloaded.write_text(json.dumps({"native": True, "cxx": "g++"}))
    assert native.why_missing() == "the native library was not built: built for another Python"


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_record_is_no_record(unloaded: Path, text: str) -> None:
    unloaded.write_text(text)
    assert native.build_record() is None
    assert native.load() is None


def test_a_library_that_does_not_load(unloaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert native.why_missing() == (
        "the native library does not load: libgomp.so.1: cannot open shared object file"
    )


def names(arguments: type) -> list[str]:
    """Those of a struct's constructor, in its order, as the library documents them."""
    signature = str(arguments.__init__.__doc__).partition("self: ")[2]
    return re.findall(r"(\w+): ", signature)


def norm_call() -> tuple[object, object]:
    x = torch.zeros(1, 4, 2, 2).to(memory_format=torch.channels_last)
    call = group_norm_act_arguments.Call(x, torch.ones(4), torch.ones(4), 2)
    return call, call.empty_result()


def step_call() -> tuple[object, object]:
    call = guided_step_arguments.Call(**steps.arguments())
    return call, call.empty_result()


@pytest.mark.skipif(native.load() is None, reason=str(native.why_missing()))
@pytest.mark.parametrize(
    ("struct", "pack", "make"),
    [
        ("GroupNormAct", group_norm_act_native.arguments, norm_call),
        ("GuidedStep", guided_step_native.arguments, step_call),
    ],
)
def test_arguments_are_packed_in_the_order_in_which_the_library_takes_them(
    struct: str, pack: Callable[..., dict[str, object]], make: Callable[[], tuple[object, object]]
) -> None:
    """They are handed over by position."""
    assert list(pack(*make())) == names(getattr(native.load(), struct))


@pytest.mark.skipif(native.load() is None, reason=str(native.why_missing()))
@pytest.mark.parametrize("wrong", [(1, 2), (1.5, 0, 0), [1, 2, 3], (-1, 0, 0), (1, 2**63, 0), None])
def test_what_is_no_tensor_is_refused(wrong: object) -> None:
    """An address and two strides, and no error that is left for the next call."""
    library = native.load()
    assert library is not None
    given = group_norm_act_native.arguments(*norm_call())
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        library.GroupNormAct(**given | {"x": wrong})
    assert library.GroupNormAct(**given)
