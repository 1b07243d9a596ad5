"""A row of a file decides which backend runs a call, and with which plan; and where it does not, there is a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from glide_fast.errors import InvalidInputError
from glide_fast.ops import backends
from glide_fast.ops.backends import Op, Plan, force, listen, plans_from
from glide_fast.plans import file, sources, table
from glide_fast.plans.device import Device
from glide_fast.plans.file import Candidate, PlanFile, Row
from glide_fast.plans.signature import signature

TENSORS = ("x",)
HERE = Device.of(torch.device("cpu"))


class Facts(NamedTuple):
    device: str
    even: bool
    gradients: bool = False
    unreadable: str | None = None


class Call(NamedTuple):
    x: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        return (self.x,)

    def facts(self) -> Facts:
        return Facts(self.x.device.type, self.x.shape[0] % 2 == 0, self.x.requires_grad)


def tiled(call: Call, *, plan: Plan | None = None) -> tuple[str, Plan | None]:
    return "tiled", plan


def plans(call: Call) -> Iterator[Plan]:
    yield from ({"rows": rows} for rows in (1, 2, 4) if call.x.shape[0] % rows == 0)


@pytest.fixture
def op(monkeypatch: pytest.MonkeyPatch) -> Op[Facts]:
    monkeypatch.setattr(backends, "_ops", {})
    monkeypatch.setattr(backends, "_environment", {})
    # The call is a tuple here, not one of an op's dataclasses.
    monkeypatch.setattr("glide_fast.plans.signature._options", lambda call: ())
    monkeypatch.setattr(sources, "source_of", lambda op, backend: f"{op} {backend}")
    monkeypatch.setattr(table, "source_of", lambda op, backend: f"{op} {backend}")
    monkeypatch.setattr(table, "version_of", lambda backend: None if backend == "tiled" else "torch")
    op: Op[Facts] = Op("double")
    op.register("plain", lambda call: ("plain", None))
    op.register("tiled", tiled, lambda facts: None if facts.even else "an odd number of rows", plans=plans)
    op.register("reference", lambda call: ("reference", None))
    return op


def row(call: Call, backend: str = "tiled", plan: Plan | None = None, **changed: Any) -> Row:
    whole = Row(
        "double",
        signature(call),
        "float32",
        Candidate(backend, plan, 2.0),
        Candidate("plain", None, 3.0),
        0.0,
        {backend: f"double {backend}", "plain": "double plain"},
    )
    return whole._replace(**changed)


def written(folder: Path, *rows: Row, device: Device = HERE, torch_version: str = torch.__version__) -> str:
    path = folder / device.file
    file.write(path, PlanFile(device, {"torch": torch_version}, rows))
    return str(path)


CALL, OTHER = Call(torch.zeros(4, 3)), Call(torch.zeros(6, 3))


def test_the_rows_backend_runs_with_its_plan_at_the_rows_shape_only(op: Op[Facts], tmp_path: Path) -> None:
    assert op.run(CALL) == ("plain", None)
    with plans_from(written(tmp_path, row(CALL, plan={"rows": 4}), row(OTHER))):
        for _ in range(2):
            assert op.run(CALL) == ("tiled", {"rows": 4})
            assert op.run(OTHER) == ("tiled", None)
            assert op.run(Call(torch.zeros(8, 3))) == ("plain", None)
            assert op.run(Call(torch.zeros(4, 6)[:, :3])) == ("plain", None)  # another layout
            assert op.choose(CALL.facts()).name == "plain"  # of no call
    assert op.run(CALL) == ("plain", None)


def test_where_gradients_are_wanted_rules_choose(op: Op[Facts], tmp_path: Path) -> None:
    """Rows are measured without: what they say may have no second derivative."""
    wanted = Call(torch.zeros(4, 3, requires_grad=True))
    with plans_from(written(tmp_path, row(CALL))):
        assert op.run(wanted) == ("plain", None) and op.run(CALL) == ("tiled", None)
        assert "gradients are wanted" in str(op.explain(wanted.facts(), wanted))


def test_a_plan_for_aligned_memory_is_for_no_other(op: Op[Facts], tmp_path: Path) -> None:
    def only_aligned(call: Call) -> Iterator[Plan]:
        yield {"rows": 1 if call.x.data_ptr() % 16 else 4}

    op.register("picky", tiled, plans=only_aligned)
    odd = Call(torch.zeros(13)[1:].view(4, 3))
    with plans_from(written(tmp_path, row(CALL, "picky", {"rows": 4}))):
        for _ in range(2):
            assert op.run(CALL) == ("tiled", {"rows": 4}) and op.run(odd) == ("plain", None)


def test_true_is_not_one_in_a_plan(op: Op[Facts], tmp_path: Path) -> None:
    with plans_from(written(tmp_path, row(CALL, plan={"rows": True}))):
        assert op.run(CALL) == ("plain", None)


def test_a_row_is_for_a_number_of_threads(op: Op[Facts], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    folder = Path(written(tmp_path, row(CALL))).parent
    with plans_from(str(folder)):
        try:
            torch.set_num_threads(before + 1)
            assert op.run(CALL) == ("plain", None)
        finally:
            torch.set_num_threads(before)
        assert op.run(CALL) == ("tiled", None)


def test_where_the_cache_cannot_be_looked_at_there_are_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refused)
    assert not table._table.__wrapped__(HERE._replace(name="Another"), "").rows("double")
    with pytest.raises(InvalidInputError, match="does not exist"):
        table._table.__wrapped__(HERE, "x" * 5000)


def test_a_row_that_names_no_backend_reads_no_file() -> None:
    assert sources.source_of("/tmp", "anything") is None and sources.source_of("..", "x") is None


def test_listeners_and_explanations_say_so(op: Op[Facts], tmp_path: Path) -> None:
    heard: list[backends.Choice] = []
    with plans_from(written(tmp_path, row(CALL, plan={"rows": 4}))), listen(heard.append):
        op.run(CALL)
        op.run(OTHER)
        explained, other = op.explain(CALL.facts(), CALL), op.explain(OTHER.facts(), OTHER)
    measured, rules = (choice.backend for choice in heard)
    assert measured.plan == {"rows": 4} and measured.measured and measured.measured.row.fastest.us == 2.0
    assert rules.plan is None and rules.measured is None
    assert [v.backend for v in explained.verdicts if v.chosen] == ["tiled"] and explained.unmeasured is None
    assert str(explained).splitlines()[-1] == (
        f"  measured: tiled (rows 4), 2 us; next plain, 3 us ({HERE.file})"
    )
    assert other.measured is None and other.unmeasured == "no row for this call"
    assert "not measured: no row for this call" in str(other)


def test_what_is_forced_is_not_measured(op: Op[Facts], tmp_path: Path) -> None:
    with plans_from(written(tmp_path, row(CALL, plan={"rows": 4}))):
        with force("reference"):
            assert op.run(CALL)[0] == "reference"
        with force("tiled"):
            assert op.run(CALL) == ("tiled", None)
            explained = op.explain(CALL.facts(), CALL)
    assert explained.forced == "tiled" and explained.measured is None and explained.unmeasured is None


def test_a_row_whose_backend_declines_or_is_unknown_is_not_used(op: Op[Facts], tmp_path: Path) -> None:
    odd = Call(torch.zeros(3, 3))
    lost = row(OTHER, "gone", sources={"gone": "double gone"})
    with plans_from(written(tmp_path, row(odd), lost)):
        assert op.run(odd) == ("plain", None) == op.run(OTHER)
        assert "tiled was fastest, and declines here: an odd number" in str(op.explain(odd.facts(), odd))
        assert "there is no backend gone here" in str(op.explain(OTHER.facts(), OTHER))


@pytest.mark.parametrize("plan", [{"rows": 3}, {"rows": 10**9}, {"lanes": 1}, {"rows": "4"}, {}])
def test_a_plan_that_the_backend_does_not_offer_is_not_used(
    op: Op[Facts], tmp_path: Path, plan: Plan
) -> None:
    with plans_from(written(tmp_path, row(CALL, plan=plan), row(OTHER, "reference", {"rows": 1}))):
        assert op.run(CALL) == ("plain", None) == op.run(OTHER)
        assert "tiled has no such plan" in str(op.explain(CALL.facts(), CALL))


def test_an_operand_that_is_not_held_as_it_was_measured(op: Op[Facts], tmp_path: Path) -> None:
    op.register("held", lambda call: ("held", None), as_measured=lambda facts: "it is folded")
    with plans_from(written(tmp_path, row(CALL, "held"))):
        assert op.run(CALL) == ("plain", None)
        assert "held was fastest, and declines here: it is folded" in str(op.explain(CALL.facts(), CALL))


def test_another_source_device_or_version(op: Op[Facts], tmp_path: Path) -> None:
    stale = row(CALL, sources={"tiled": "an older one", "plain": "double plain"})
    with plans_from(written(tmp_path / "1", stale, row(OTHER))):
        assert op.run(CALL) == ("plain", None) and op.run(OTHER) == ("tiled", None)
        words = str(op.explain(CALL.facts(), CALL))
        assert "1 of 2 rows are used; not used: 1 of double tiled: its source's hash is another one" in words
    elsewhere = HERE._replace(threads=HERE.threads + 1)
    with plans_from(written(tmp_path / "2", row(CALL), device=elsewhere)):
        assert op.run(CALL) == ("plain", None)
        assert f"it was measured on {elsewhere}, and this is {HERE}" in str(op.explain(CALL.facts(), CALL))
    # Our own library's kernels do not depend on torch's version.
    with plans_from(written(tmp_path / "3", row(CALL), row(OTHER, "reference"), torch_version="1.0.1")):
        assert op.run(CALL) == ("tiled", None) and op.run(OTHER) == ("plain", None)
        assert "reference: measured with torch 1.0.1, and this is 2." in str(op.explain(OTHER.facts(), OTHER))
    with plans_from("off"):
        assert op.explain(CALL.facts(), CALL).unmeasured == "GLIDE_FAST_PLANS=off"


def test_threads_that_change_leave_the_rows_of_the_others(op: Op[Facts], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    with plans_from(str(Path(written(tmp_path, row(CALL))).parent)):
        assert op.run(CALL) == ("tiled", None)
        try:
            torch.set_num_threads(before + 1)
            assert op.run(CALL) == ("plain", None)
        finally:
            torch.set_num_threads(before)
        assert op.run(CALL) == ("tiled", None)


def test_the_users_file_goes_before_the_one_that_ships(
    op: Op[Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("GLIDE_FAST_CACHE", str(tmp_path / "cache"))
    written(tmp_path / "shipped", row(CALL, plan={"rows": 1}), row(OTHER, "reference"))
    with plans_from(""):
        assert op.run(CALL) == ("tiled", {"rows": 1}) and op.run(OTHER) == ("reference", None)
    written(tmp_path / "cache" / "plans", row(CALL, plan={"rows": 2}))
    with plans_from(""):
        assert op.run(CALL) == ("tiled", {"rows": 2}) and op.run(OTHER) == ("reference", None)
    table.own_file(HERE).write_text("{")
    with plans_from(""):  # nobody asked for this file
        assert op.run(CALL) == ("tiled", {"rows": 1})
        assert "Expecting property name" in " ".join(table.table_of(HERE).in_words())


def test_a_setting_that_is_no_file_of_plans_is_refused_at_every_choice(op: Op[Facts], tmp_path: Path) -> None:
    broken = tmp_path / "plans.json"
    broken.write_text('{"format": 9}')
    for setting, said in ((str(broken), "has no device"), (str(tmp_path / "missing"), "does not exist")):
        with plans_from(setting):
            for _ in range(2):
                with pytest.raises(InvalidInputError, match=f"GLIDE_FAST_PLANS: got .*{said}"):
                    op.run(CALL)


def test_the_environment_is_read_once(op: Op[Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table.change_setting(None)
    try:
        monkeypatch.setenv(table.ENVIRONMENT, written(tmp_path, row(CALL)))
        assert op.run(CALL) == ("tiled", None)
        monkeypatch.setenv(table.ENVIRONMENT, "off")
        assert op.run(OTHER) == ("plain", None) and table.setting().endswith(".json")
    finally:
        table.change_setting(before)


def test_an_op_without_rows_is_chosen_as_ever(op: Op[Facts], tmp_path: Path) -> None:
    with plans_from(written(tmp_path, row(CALL)._replace(op="triple"))):
        assert op.run(CALL) == ("plain", None)
        assert type(op._choices[CALL.facts(), None, torch.get_num_threads()]) is backends.Backend


def test_sources_are_of_what_says_something() -> None:
    text = "def f():  # twice\n\n    # why\n    return 2   \n"
    assert sources.normalised(text, "#") == "def f():  # twice\n    return 2"
    assert sources.normalised(text.replace("\n", "\r\n"), "#") == sources.normalised(text, "#")
    for name in ("convolution", "group_norm_act", "masked_attention", "text_attention"):
        assert len(sources.source_of(name, "triton") or "") == 16
    names = [path.stem for path in sources._kernels("masked_attention")]
    assert names == ["masked_attention", "online_softmax", "text_attention"]
    assert sources.source_of("text_attention", "sdpa") != sources.source_of("masked_attention", "sdpa")
    assert sources.source_of("text_attention", "nobody") is None
