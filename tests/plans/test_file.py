"""Files of measured plans: what is read back, and that nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glide_fast.errors import InvalidInputError
from glide_fast.plans import file, table
from glide_fast.plans.device import Device
from glide_fast.plans.file import Candidate, PlanFile, Row

DEVICE = Device("cpu", "A processor", ("AVX2",), 2)
ROW = Row(
    "resample",
    "x float32 2x8x4x4 channels-last, mode mean_2x2",
    "float32",
    Candidate("cpu", {"rows": 4, "name": "wide", "even": True}, 3.25),
    Candidate("reference", None, 7.5),
    1e-7,
    {"cpu": "0123", "reference": "4567"},
    2,
)
WHOLE = PlanFile(DEVICE, {"torch": "2.13.0"}, (ROW, ROW._replace(op="convolution", runner_up=None)))


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / DEVICE.file
    file.write(path, WHOLE)
    found = file.read(path)
    assert found == WHOLE._replace(rows=WHOLE.rows[::-1])  # by op
    assert file.text_of(found) == path.read_text() and len(path.read_text().splitlines()) < 30
    assert file.parse(file.text_of(WHOLE._replace(rows=())).encode()).rows == ()
    assert DEVICE.file == "a-processor-avx2-2-threads.json"


@given(
    us=st.floats(1e-3, 1e9),
    plan=st.none() | st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers() | st.booleans()),
)  # fmt: skip
def test_any_row_reads_back(us: float, plan: dict[str, Any] | None) -> None:
    if plan and any(type(v) is int and abs(v) > file.LARGEST for v in plan.values()):
        return
    row = ROW._replace(fastest=Candidate("cpu", plan, us), runner_up=None)
    (found,) = file.parse(file.text_of(WHOLE._replace(rows=(row,))).encode()).rows
    assert found.fastest.plan == plan and found.fastest.us == pytest.approx(us, rel=1e-3)


def changed(change: Callable[[Any], Any]) -> bytes:
    document = json.loads(file.text_of(WHOLE))
    return json.dumps(change(document) or document).encode()


def in_row(**values: Any) -> bytes:
    return changed(lambda document: document["rows"][1].update(values))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "decode"),
        (b"[" * 100_000, "nested"),
        (b"[]", "the document is no object"),
        (b"{}", "the document has no format"),
        (b" " * (file.MOST_BYTES + 1), "more than"),
        (changed(lambda d: d.update(format=2)), "format is 2"),
        (changed(lambda d: d.update(format=True)), "format is True"),
        (changed(lambda d: d.update(rows={})), "rows is no list"),
        (changed(lambda d: d.update(rows=[{}] * (file.MOST_ROWS + 1))), "rows is no list of at most"),
        (changed(lambda d: d.update(rows=[7])), r"rows\[0\] is no object"),
        (changed(lambda d: d.update(versions={"torch": 2})), "versions.torch is 2"),
        (changed(lambda d: d.update(device="H100")), "device is no object"),
        (changed(lambda d: d["device"].update(threads=-1)), "device.threads is -1"),
        (changed(lambda d: d["device"].update(name="a\nb")), "device.name"),
        (changed(lambda d: d["device"].update(instruction_sets="AVX2")), "device.instruction_sets"),
        (in_row(us="3"), r"rows\[1\].us is '3'"),
        (in_row(us=True), r"rows\[1\].us is True"),
        (in_row(us=0), "us is 0.0, no time"),
        (in_row(us=-1), "us is -1"),
        (in_row(us=float("nan")), "NaN is no JSON value"),
        (in_row(us=10**400), "an integer of many digits"),
        (in_row(us=1e300), "us is 1e"),
        (in_row(error=None), "error is None"),
        (in_row(op=5), "op is 5"),
        (in_row(call="x" * 3000), "call is 'xxx"),
        (in_row(plan=[1]), "plan is no mapping"),
        (in_row(plan={"rows": 1.5}), "plan.rows is 1.5"),
        (in_row(plan={"rows": [1]}), "plan.rows"),
        (in_row(plan={str(n): 1 for n in range(100)}), "plan is no mapping of at most"),
        (in_row(plan={"rows": 2**70}), "plan.rows is an integer of many digits"),
        (in_row(sources={}), "sources has no entry for 'cpu'"),
        (in_row(runner_up={"backend": "cpu"}), r"runner_up has no plan"),
        (in_row(compared=0), "compared is 0"),
        (file.text_of(WHOLE).replace('"format": 1', '"format": 1, "format": 1').encode(), "occurs twice"),
    ],
)
def test_anything_else_is_refused_in_words(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=said) as refused:
        file.read(path)
    assert str(refused.value).startswith("plans: got ") and len(str(refused.value)) < 700


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="it is a directory"):
        file.read(tmp_path)
    with pytest.raises(InvalidInputError, match="No such file"):
        file.read(tmp_path / "missing.json")


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["format", "device", "versions", "rows", "us"]), x)).map(lambda value: json.dumps(value).encode()))  # fmt: skip  # noqa: E501
def test_no_content_raises_a_raw_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        file.parse(content)


def test_the_files_that_ship_are_files_of_plans() -> None:
    for path in table.SHIPPED.glob("*.json"):
        assert file.read(path).device.file == path.name
