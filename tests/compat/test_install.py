"""``import glide_text2im`` served by glide_fast: identity, refusal, override, undoing."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import glide_fast
from glide_fast.compat import install, uninstall
from glide_fast.errors import InvalidInputError

SUBMODULES = sorted(
    ".".join(path.relative_to(Path(glide_fast.__file__).parent / "compat").with_suffix("").parts)
    for path in (Path(glide_fast.__file__).parent / "compat").rglob("[!_]*.py")
)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    uninstall()
    yield
    uninstall()


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that goes by the official name."""
    package = tmp_path / "glide_text2im"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "respace.py").write_text("SpacedDiffusion = 'the official one'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0] == "glide_text2im"]:
        del sys.modules[name]


def test_absent_before_and_after() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("glide_text2im")
    install()
    importlib.import_module("glide_text2im.clip.model_creation")
    uninstall()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("glide_text2im.clip.model_creation")
    assert not [name for name in sys.modules if name.startswith("glide_text2im")]
    uninstall()


@pytest.mark.parametrize("submodule", SUBMODULES)
def test_modules_are_the_same_objects(submodule: str) -> None:
    ours = importlib.import_module(f"glide_fast.compat.{submodule}")
    spec = ours.__spec__
    install()
    assert importlib.import_module(f"glide_text2im.{submodule}") is ours
    assert ours.__spec__ is spec
    assert ours.__name__ == f"glide_fast.compat.{submodule}"


def test_every_way_of_importing() -> None:
    install()
    namespace: dict[str, object] = {}
    exec(
        "import glide_text2im\n"
        "import glide_text2im.clip.encoders as encoders\n"
        "from glide_text2im import respace\n"
        "from glide_text2im.text2im_model import Text2ImUNet\n"
        "from glide_text2im.tokenizer import bpe\n"
        "assert glide_text2im.clip.encoders is encoders\n",
        namespace,
    )
    from glide_fast.diffusion.respacing import SpacedDiffusion
    from glide_fast.models.text2im import Text2ImUNet

    assert namespace["Text2ImUNet"] is Text2ImUNet
    assert namespace["respace"].SpacedDiffusion is SpacedDiffusion  # type: ignore[attr-defined]
    # As an old pickle names it.
    assert pickle.loads(b"cglide_text2im.text2im_model\nText2ImUNet\n.") is Text2ImUNet


def test_what_the_official_package_lacks_is_not_found() -> None:
    install()
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("glide_text2im.no_such_module")
    with pytest.raises(ImportError):
        exec("from glide_text2im.respace import no_such_name")


def test_installing_twice_is_installing_once() -> None:
    finders = len(sys.meta_path)
    install()
    install()
    assert len(sys.meta_path) == finders + 1
    uninstall()
    assert len(sys.meta_path) == finders


def test_refuses_beside_the_official_package(official: Path) -> None:
    with pytest.raises(InvalidInputError, match="override") as refusal:
        install()
    assert str(official) in str(refusal.value)
    assert importlib.import_module("glide_text2im.respace").SpacedDiffusion == "the official one"
    with pytest.raises(InvalidInputError, match="override"):
        install()  # imported by now


def test_override_takes_its_place_until_uninstalled(official: Path) -> None:
    before = importlib.import_module("glide_text2im.respace")
    install(override=True)
    from glide_fast.diffusion.respacing import SpacedDiffusion

    assert importlib.import_module("glide_text2im.respace").SpacedDiffusion is SpacedDiffusion
    install()  # already ours: nothing to refuse
    uninstall()
    assert importlib.import_module("glide_text2im.respace") is before


def test_a_mere_directory_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glide_text2im").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    install()
    assert importlib.import_module("glide_text2im.nn") is importlib.import_module("glide_fast.compat.nn")
