"""guided_step's contract: seeds, buffers, refusals, torch.compile and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import step_bound, steps

from glide_fast.diffusion.noise import philox_normal
from glide_fast.diffusion.rules import RULES
from glide_fast.errors import InvalidInputError
from glide_fast.ops import guided_step, native
from glide_fast.ops.backends import force
from glide_fast.ops.guided_step import HISTORY, Column, Step
from glide_fast.ops.guided_step.reference import reference


def test_seeds_stand_for_the_noise_of_their_step() -> None:
    arguments = steps.arguments((3, 3, 5, 5), row_of_each=True)
    seeds, stream = arguments.pop("seeds"), arguments.pop("stream")
    noise = philox_normal(seeds, arguments["step"], (3, 5, 5), stream=stream)
    with force("reference"):
        drawn = guided_step(**arguments, seeds=seeds, stream=stream)
        given = guided_step(**arguments, noise=noise)
    assert torch.equal(drawn.x, given.x)


def test_negative_seeds_are_64_bits_for_every_backend() -> None:
    arguments = steps.arguments() | {"seeds": torch.tensor([-1, -(2**63)])}
    arguments.pop("noise", None)
    with force("reference"):
        want = guided_step(**arguments)
    torch.testing.assert_close(guided_step(**arguments).x, want.x, rtol=1e-5, atol=1e-5)


def test_without_noise_none_is_added() -> None:
    arguments = steps.arguments(noise="none")
    with force("reference"):
        none = guided_step(**arguments)
        zero = guided_step(**arguments, noise=torch.zeros_like(arguments["x"]))
    assert torch.equal(none.x, zero.x)


@pytest.mark.parametrize("row", [0, 5, steps.STEPS - 1])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("everything", [False, True])
def test_the_reference_errs_no_more_than_fp32_may(rule: str, row: int, everything: bool) -> None:
    arguments = steps.arguments(
        rule=rule, row=row, known=everything, score=everything, guided=everything, row_of_each=everything
    )
    assert step_bound.excess(reference(**arguments), arguments) <= 1
    arguments["clip"] = False
    assert step_bound.excess(reference(**arguments), arguments) <= 1


def contracted(arguments: dict[str, Any], other: bool) -> Step:
    """PLMS as a compiler may contract it: in ``a x - b y`` one product, or the ``other``, is not rounded."""
    a, row = arguments, arguments["table"][arguments["step"]]

    def fused(p: torch.Tensor, q: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return (p.double() * q.double() + r.double()).float()  # the product of two fp32 is exact in fp64

    def two_products(p: torch.Tensor, q: torch.Tensor, r: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return fused(p, q, r * s) if other else fused(r, s, p * q)

    x, (conditional, unconditional) = a["x"], a["model_out"].chunk(2)
    without = unconditional[:, :3]
    eps = fused(torch.tensor(a["guidance_scale"]), conditional[:, :3] - without, without)
    x0 = two_products(row[Column.SQRT_RECIP], x, -row[Column.SQRT_RECIPM1], eps)
    x0 = two_products(x0, 1 - a["known_mask"], a["known"], a["known_mask"]).clamp(-1, 1)
    x0 = fused(row[Column.SCORE_TO_X0], a["score"], x0)
    out = two_products(row[Column.X], x, row[Column.X0], x0)
    for k, prediction in enumerate(a["history"]):
        out = fused(row[Column.HISTORY + k], prediction, out)
    latest = fused(row[Column.SQRT_RECIP], x, -x0) / row[Column.SQRT_RECIPM1]
    return Step(out, x0, torch.cat([latest[None], a["history"][:-1]]))


@pytest.mark.parametrize("other", [False, True])
def test_multiply_adds_differ_from_the_reference_and_err_no_more_than_it(other: bool) -> None:
    """What an H100 gave before the kernel was compiled without them: 1.4e-4 off the reference, which errs by as much."""
    arguments = steps.arguments((2, 3, 64, 64), **steps.CASES[1])
    arguments |= {"noise": torch.zeros_like(arguments["x"])}
    del arguments["seeds"], arguments["stream"]
    row = arguments["table"][arguments["step"]]
    assert row[Column.SCORE_TO_MEAN] == row[Column.NOISE] == row[Column.LEARNED_NOISE] == 0
    got, want = contracted(arguments, other), reference(**arguments)
    assert 1e-4 < steps.worst(got, arguments) < 2e-4
    errors = [step_bound.excess(step, arguments) for step in (got, want)]
    assert max(errors) <= 1 and errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("row", [0, 5, steps.STEPS - 1])
def test_the_judge_sees_an_error(row: int) -> None:
    """A mistake of the size of one coefficient's rounding to bf16, in any one of the results."""
    arguments = steps.arguments(rule="plms", row=row, noise="none")
    right = reference(**arguments)
    for name, value in right._asdict().items():
        assert step_bound.excess(right._replace(**{name: value * (1 + 2.0**-8)}), arguments) > 1
    spoiled = right.x.clone()
    spoiled[0, 0, 0, 0] = torch.nan
    assert step_bound.excess(right._replace(x=spoiled), arguments) > 1


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("rule", ["ddpm", "plms"])
def test_results_go_where_they_are_wanted(backend: str | None, rule: str) -> None:
    arguments = steps.arguments(rule=rule)
    want = reference(**arguments)
    inputs = steps.next_inputs((2, 3, 8, 8), 2, torch.bfloat16, True)
    x, history = arguments["x"], arguments.get("history")
    with force(**({} if backend is None else {"guided_step": backend})):
        got = guided_step(**arguments, inputs=inputs, out=Step(x, torch.empty_like(x), history))
    assert got.x is x and got.history is history
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert torch.equal(inputs, x.repeat(2, 1, 1, 1).bfloat16())


def test_guidance_of_half_precision_is_mixed_in_fp32() -> None:
    arguments = steps.arguments(model_dtype=torch.bfloat16, noise="none")
    wide = {**arguments, "model_out": arguments["model_out"].float()}
    assert torch.equal(reference(**arguments).x, reference(**wide).x)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.zeros(4)}, "x"),
        (
            {
                "x": torch.zeros(2, 0, 8, 8),
                "model_out": torch.zeros(4, 0, 8, 8),
                "known": None,
                "known_mask": None,
            },
            "x",
        ),
        ({"model_out": torch.zeros(2, 6, 8, 8)}, "model_out"),
        ({"table": torch.zeros(5, 3)}, "table"),
        ({"step": torch.tensor(0.0)}, "step"),
        ({"step": torch.tensor([0, 0, 0])}, "step"),
        ({"noise": torch.zeros(2, 3, 8, 8)}, "noise, seeds"),
        ({"seeds": torch.zeros(1, dtype=torch.int64)}, "seeds"),
        ({"seeds": torch.zeros(2)}, "seeds"),
        ({"guidance_scale": torch.zeros(3)}, "guidance_scale"),
        ({"known": torch.zeros(2, 3, 8, 8)}, "known, known_mask"),
        ({"known": torch.zeros(2, 3, 8, 8), "known_mask": torch.zeros(2, 3, 8, 8)}, "known_mask"),
        ({"score": torch.zeros(1, 3, 8, 8)}, "score"),
        ({"history": torch.zeros(2, 2, 3, 8, 8)}, "history"),
        ({"inputs": torch.zeros(3, 3, 8, 8)}, "inputs"),
        ({"out": Step(torch.zeros(2, 3, 8, 8), torch.zeros(1), None)}, "out"),
    ],
)
def test_bad_input_is_refused_before_any_work(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{named}:"):
        guided_step(**{**steps.arguments(), **change})


# Symbolic shapes of all nineteen arguments at once take a minute: those checks have only what every step has.
@pytest.mark.parametrize(
    ("everything", "checks"),
    [
        (True, ("test_schema", "test_autograd_registration", "test_faketensor")),
        (
            False,
            ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
        ),
    ],
)
def test_opcheck(everything: bool, checks: tuple[str, ...]) -> None:
    a = steps.arguments(rule="plms" if everything else "ddpm", known=everything, score=everything)
    out = steps.poisoned(a["x"], a.get("history"))
    inputs = steps.next_inputs((2, 3, 8, 8), 2, torch.bfloat16, False) if everything else None
    arguments = (
        a["x"], a["model_out"], a["table"], a["step"], None, a["seeds"], 3, 3.0, None, a.get("known"), a.get("known_mask"),
        True, a.get("score"), a.get("history"), a["remember_eps"], inputs, out.x, out.x0, out.history,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.glide_fast.guided_step.default, arguments, test_utils=checks)


@pytest.mark.parametrize("in_place", [False, True])
def test_torch_compile_sees_one_graph(in_place: bool) -> None:
    arguments = steps.arguments(rule="dpm++2m")
    want = guided_step(**arguments)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def step(arguments: dict[str, Any]) -> Step:
        x, history = arguments["x"], arguments["history"]
        return guided_step(**arguments, out=Step(x, torch.empty_like(x), history) if in_place else None)

    got = torch.compile(step, backend=backend, fullgraph=True)(arguments)
    torch.compiler.reset()
    assert len(graphs) == 1
    assert sum("guided_step" in str(node.target) for node in graphs[0].graph.nodes) == 1
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_gradients_are_those_of_the_reference() -> None:
    arguments = steps.arguments(rule="plms", noise="tensor")
    gradients = []
    for run in (guided_step, reference):
        out = arguments["model_out"].clone().requires_grad_()
        step = run(**{**arguments, "model_out": out})
        gradients.append(torch.autograd.grad(step.x.square().sum() + step.history[0].sum(), out)[0])
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


@pytest.mark.parametrize("row_of_each", [False, True])
def test_gradients_under_torch_compile_are_those_of_the_reference(row_of_each: bool) -> None:
    """There the compiler traces the reference: the custom op writes into its arguments, and has no derivative."""
    arguments = steps.arguments(rule="plms", noise="tensor", row_of_each=row_of_each)
    compiled = torch.compile(
        lambda out: tuple(guided_step(**{**arguments, "model_out": out})), backend="aot_eager", fullgraph=True
    )
    gradients = []
    for run in (compiled, lambda out: tuple(reference(**{**arguments, "model_out": out}))):
        out = arguments["model_out"].clone().requires_grad_()
        x, x0, history = run(out)
        gradients.append(torch.autograd.grad(x.square().sum() + x0.sum() + history[0].sum(), out)[0])
    torch.compiler.reset()
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_double_precision_stays_so() -> None:
    arguments = {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in steps.arguments(noise="tensor").items()
    }
    assert guided_step(**arguments).x.dtype == torch.float64


HOSTS = ["reference", *(["cpu"] if native.load() is not None else [])]


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize("step", [-1, steps.STEPS, 2**40, [0, steps.STEPS]])
def test_a_step_outside_the_table_is_refused_on_the_host(backend: str, step: Any) -> None:
    arguments = steps.arguments()
    arguments["step"] = torch.tensor(step)
    out = steps.poisoned(arguments["x"], None)
    before = out.x.clone()
    with force(guided_step=backend), pytest.raises(InvalidInputError, match=r"^step: got .*from 0 to 11"):
        guided_step(**arguments, out=out)
    assert out.x.equal(before) or (out.x.isnan().all() and before.isnan().all())


@pytest.mark.parametrize("rule", ["ddpm", "plms", "dpm++2m"])
def test_a_step_outside_the_table_is_nan_where_nobody_can_refuse(rule: str) -> None:
    """The reference by itself does as a device does: all results of that image, and nothing of its neighbour's."""
    arguments = steps.arguments(rule=rule, known=True, score=True, row_of_each=True)
    want = reference(**arguments)
    inputs = torch.zeros(4, 3, 8, 8)
    for outside in (-1, steps.STEPS):
        arguments["step"][1] = outside
        got = reference(**arguments, inputs=inputs)
        assert torch.equal(got.x[0], want.x[0]) and torch.equal(got.x0[0], want.x0[0])
        assert got.x[1].isnan().all() and got.x0[1].isnan().all() and inputs[1::2].isnan().all()
        assert got.history is None or got.history[0, 1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_steps_of_other_integers(dtype: torch.dtype) -> None:
    arguments = steps.arguments(row_of_each=True)
    want = guided_step(**arguments)
    arguments["step"] = arguments["step"].to(dtype)
    torch.testing.assert_close(guided_step(**arguments).x, want.x, rtol=1e-5, atol=1e-5)


def shared(size: int, *starts: int) -> list[torch.Tensor]:
    """Pictures ``[2, 3, 8, 8]`` in one piece of memory, which begin at these elements of it."""
    memory = torch.zeros(size)
    return [memory[start : start + 384].view(2, 3, 8, 8) for start in starts]


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize(
    ("case", "argument"),
    [
        ("out.x0 behind the half of out.x", "out"),
        ("out.x behind the half of x", "out"),
        ("out.history among out.x", "out"),
        ("inputs among out.x", "(out|inputs)"),
        ("inputs in model_out", "inputs"),
        ("out.x is noise", "out"),
    ],
)
def test_results_in_the_memory_of_others_are_refused(backend: str, case: str, argument: str) -> None:
    arguments = steps.arguments(rule="plms", noise="tensor")
    x, x0 = shared(1000, 0, 500)
    out = Step(x, x0, torch.zeros(HISTORY, 2, 3, 8, 8))
    if case == "out.x0 behind the half of out.x":
        out = out._replace(x0=shared(1000, 0, 192)[1])
        out = out._replace(x=out.x0._base[:384].view(2, 3, 8, 8))  # type: ignore[index]
    elif case == "out.x behind the half of x":
        before, after = shared(1000, 0, 192)
        arguments["x"] = before.copy_(arguments["x"])
        out = out._replace(x=after)
    elif case == "out.history among out.x":
        memory = torch.zeros(HISTORY, 2, 3, 8, 8)
        out = out._replace(history=memory, x=memory[1])
    elif case == "inputs among out.x":
        memory = torch.zeros(4, 3, 8, 8)
        out, arguments["inputs"] = out._replace(x=memory[1:3]), memory
    elif case == "inputs in model_out":
        arguments["inputs"] = arguments["model_out"].view(-1)[: 4 * 192].view(4, 3, 8, 8)
    else:
        out = out._replace(x=arguments["noise"])
    with (
        force(guided_step=backend),
        pytest.raises(InvalidInputError, match=rf"^{argument}: got .* memory of"),
    ):
        guided_step(**arguments, out=out)


@pytest.mark.parametrize("backend", HOSTS)
def test_a_state_in_place_beside_others_is_taken(backend: str) -> None:
    """All tensors in one piece of memory, none in another's part."""
    arguments = steps.arguments(rule="plms", noise="tensor")
    want = reference(**arguments)
    x, x0, noise = shared(384 * 3, 0, 384, 768)
    arguments |= {"x": x.copy_(arguments["x"]), "noise": noise.copy_(arguments["noise"])}
    with force(guided_step=backend):
        got = guided_step(**arguments, out=Step(x, x0, arguments["history"]))
    assert got.x is x and got.history is arguments["history"]
    for ours, theirs in zip(got, want, strict=True):
        assert ours is not None and theirs is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", HOSTS)
def test_what_is_written_says_so_in_its_version(backend: str) -> None:
    """Whoever remembers something of a tensor by its version sees that it has changed."""
    arguments = steps.arguments(rule="plms") | {"inputs": torch.zeros(4, 3, 8, 8)}
    out = steps.poisoned(arguments["x"], arguments["history"])
    written = [arguments["inputs"], *out]
    before = [tensor._version for tensor in written]
    with force(guided_step=backend):
        guided_step(**arguments, out=out)
    assert all(tensor._version > old for tensor, old in zip(written, before, strict=True))
    assert arguments["x"]._version == 0 == arguments["model_out"]._version
    with torch.inference_mode(), force(guided_step=backend):
        guided_step(**arguments, out=Step.like(arguments["x"], arguments["history"]))


POISON = {
    "nan": torch.nan,
    "infinity": torch.inf,
    "minus infinity": -torch.inf,
    "huge": 3e38,
    "minus huge": -3e38,
}


@pytest.mark.parametrize("backend", HOSTS[1:])
@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("where", ["v", "eps", "x", "noise", "score", "history", "known"])
@pytest.mark.parametrize("rule", ["ddpm", "ddim", "plms", "dpm++2m"])
def test_what_is_not_finite_is_what_the_reference_says(
    backend: str, poison: str, where: str, rule: str
) -> None:
    arguments = steps.arguments((2, 3, 5, 7), rule=rule, noise="tensor", known=True, score=where == "score")
    if where not in ("v", "eps"):
        if where not in arguments:
            return
        target = arguments[where][0] if where == "history" else arguments[where]
    else:
        target = arguments["model_out"][:, 3:] if where == "v" else arguments["model_out"][:, :3]
    target[1, 2, 3, ::2] = POISON[poison]
    arguments["clip"] = poison == "nan"
    with force(guided_step=backend):
        got = guided_step(**arguments)
    want = reference(**arguments)
    for ours, theirs in zip(got, want, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_an_empty_batch() -> None:
    empty = torch.zeros(0, 3, 4, 4)
    step = guided_step(
        empty,
        torch.zeros(0, 6, 4, 4),
        steps.table("plms"),
        torch.tensor(0),
        history=torch.zeros(HISTORY, 0, 3, 4, 4),
    )
    assert step.x.shape == empty.shape
