"""The three official notebooks with only the package's name changed: each draws the same picture under both names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch as th
from support import notebooks
from support.notebooks import ClipGuided, create, load, meadow, picture, sample_base

from glide_fast.compat import install, uninstall


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    notebooks.write_cache(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more to waiting for each other's threads than they gain, above all on a busy machine."""
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


@pytest.fixture(params=["glide_fast.compat", "glide_text2im"])
def package(
    request: pytest.FixtureRequest, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimpleNamespace]:
    monkeypatch.setenv("GLIDE_FAST_CACHE", str(cache))
    th.manual_seed(0)
    if request.param == "glide_text2im":
        install()
    yield load(request.param)
    uninstall()


def assert_is_picture(batch: th.Tensor, side: int) -> None:
    assert batch.shape == (1, 3, side, side)
    assert batch.isfinite().all()
    assert batch.abs().max() <= 1 + 1e-5
    assert batch.std() > 0.05
    assert picture(batch).size == (side, side)


SEEN: dict[str, th.Tensor] = {}


def same_under_every_name(flow: str, result: th.Tensor) -> None:
    assert th.equal(SEEN.setdefault(flow, result), result)


def test_text2im(package: SimpleNamespace) -> None:
    samples, up_samples = notebooks.text2im(package)
    assert_is_picture(samples, 16)
    assert_is_picture(up_samples, 32)
    same_under_every_name("text2im", up_samples)
    th.manual_seed(0)
    assert not th.allclose(sample_base(create(package, "base"), "two red cubes", 3.0), samples, atol=0.01)


def test_inpaint(package: SimpleNamespace, tmp_path: Path) -> None:
    samples, up_samples = notebooks.inpaint(package, tmp_path)
    image, image_up = (extra["inpaint_image"] for extra in meadow(tmp_path))
    assert_is_picture(samples, 16)
    th.testing.assert_close(samples[:, :, :5], image[:, :, :5])
    assert samples[:, :, 5:].std() > 0.05
    assert_is_picture(up_samples, 32)
    th.testing.assert_close(up_samples[:, :, :10], image_up[:, :, :10])
    same_under_every_name("inpaint", up_samples)


def test_clip_guided(package: SimpleNamespace, cache: Path) -> None:
    flow = ClipGuided(package, cache)
    samples = flow.sample(3.0)
    assert samples.isfinite().all()
    assert samples.shape == (1, 3, 16, 16)
    likenesses = [flow.likeness(flow.sample(scale)) for scale in (-30.0, 0.0, 3.0, 30.0)]
    assert likenesses == sorted(likenesses) and len(set(likenesses)) == 4
    up_samples = flow.enlarge(samples)
    assert_is_picture(up_samples, 32)
    same_under_every_name("clip_guided", up_samples)
