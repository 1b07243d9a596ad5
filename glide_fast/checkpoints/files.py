"""One file of tensors: reading .pt and .safetensors, writing .safetensors."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from glide_fast.checkpoints.atomic import atomic_write
from glide_fast.checkpoints.claimed_sizes import why_no_torch_zip, why_too_large
from glide_fast.checkpoints.paths import checked_path, open_regular, require_regular
from glide_fast.checkpoints.signature import HEAD, ZIP, error_page
from glide_fast.errors import CheckpointError, invalid

_NESTED_KEYS = ("state_dict", "model", "ema", "model_state_dict", "params", "ema_params", "weights")


def nested_state_dicts(state: Mapping[str, object]) -> list[str]:
    """The keys under which a mapping that is not itself a state dict holds one, the usual names first."""
    found = [
        key
        for key, value in state.items()
        if isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())
    ]
    return sorted(
        found, key=lambda key: _NESTED_KEYS.index(key) if key in _NESTED_KEYS else len(_NESTED_KEYS)
    )


def read_state_dict(
    path: str | os.PathLike[str], *, key: str | None = None, mmap: bool = True
) -> dict[str, Tensor]:
    """Read a state dict onto the CPU from a torch (.pt) or safetensors file; the content shows which of them it is.

    Torch files are read with ``weights_only=True``: a file that would run code is refused. `key` picks the
    state dict out of a checkpoint that holds several things (``{"ema": {...}, "step": 10}``). With `mmap` tensors are
    paged in as they are used (copy on write: changing one does not change the file), and the file stays mapped
    as long as any of them exists; without `mmap` each tensor has separate memory, which is freed with the tensor.

    Returns {name: tensor} with the file's shapes and dtypes, gradients off. Raises CheckpointError for a file
    that is missing, empty, truncated, an error page, a pipe or a device, unsafe, or not a state dict.
    """
    file = checked_path(path)
    if os.path.isdir(file):
        raise CheckpointError(
            f"{file} is a directory, not a file of weights; "
            "read_directory and from_pretrained read directories"
        )
    try:
        with open_regular(file) as stream:
            head = stream.read(HEAD)
    except FileNotFoundError:
        raise CheckpointError(f"{file} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{file} is empty (0 bytes)")
    page = error_page(head)
    if page is not None:
        raise CheckpointError(
            f"{file} is {page}, not weights (it starts with {head[:40]!r}): a download saved an error page"
        )
    if _is_safetensors(head, file):
        content: object = _read_safetensors(file, mmap)
    else:
        content = _read_torch(file, head, mmap)
    return _as_state_dict(content, file, key)


def read_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a safetensors file, by name, from its head alone.

    The head has been checked against the file's length, so no shape is larger than the file. Raises CheckpointError.
    """
    file = checked_path(path)
    try:
        require_regular(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise _not_whole(file, error) from error


def _not_whole(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} is not a whole safetensors file ({file.stat().st_size} bytes): {error}. It may be truncated; fetch or "
        "write it again"
    )


def _is_safetensors(head: bytes, file: Path) -> bool:
    """A safetensors file starts with its header's length (8 bytes), then the header's brace."""
    return not head.startswith(ZIP) and (file.suffix == ".safetensors" or head[8:9] == b"{")


def _read_safetensors(file: Path, mmap: bool) -> dict[str, Tensor]:
    try:
        if mmap:
            return safetensors.torch.load_file(file)
        try:
            return safetensors.torch.load_file(file, backend="pread")
        except TypeError:  # before safetensors 0.8
            return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(file).items()}
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise _not_whole(file, error) from error


def _read_torch(file: Path, head: bytes, mmap: bool) -> object:
    # Only torch's zip container can be mapped; files older than torch 1.6 are one pickle after another.
    in_zip = head.startswith(ZIP)
    # torch.load takes a file whose name ends in .safetensors for one; and it maps only files that it opens by name.
    mapped = mmap and in_zip and file.suffix != ".safetensors"
    content: object = None
    try:
        with open_regular(file) as stream:
            fault = why_no_torch_zip(stream) if in_zip else None
            length = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            if fault is None and not mapped:
                content = torch.load(stream, map_location="cpu", weights_only=True)
        if fault is None and mapped:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        if named:
            raise CheckpointError(
                f"{file} is refused: besides tensors it holds Python objects ({named[1]}), and unpickling "
                "those can run any code. Load it where it came from and save its state_dict() alone"
            ) from error
        raise CheckpointError(f"{file} is not a torch checkpoint: {_first_line(error)}") from error
    except Exception as error:
        # Reading foreign bytes as a pickle can end in any exception, so no list of them would be complete.
        if in_zip:
            raise CheckpointError(
                f"{file} is a damaged or truncated torch checkpoint ({file.stat().st_size} bytes): "
                f"{_first_line(error)}"
            ) from error
        raise CheckpointError(
            f"{file} is neither a torch nor a safetensors checkpoint (it starts with {head[:16]!r}), or is "
            f"truncated: {_first_line(error)}"
        ) from error
    fault = fault or why_too_large(content, length)
    if fault is not None:
        raise CheckpointError(f"{file} is refused: {fault}")
    return content


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _as_state_dict(content: object, file: Path, key: str | None) -> dict[str, Tensor]:
    if key is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
            choices = ", ".join(nested_state_dicts(content)) if isinstance(content, Mapping) else ""
            raise CheckpointError(f"{file} holds no state dict under {key!r}; it has: {choices or 'none'}")
        content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{file} holds a {type(content).__name__}, not a state dict (a mapping from names to tensors)"
        )
    if not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{file} is not a state dict: some of its keys are not strings")
    foreign = {name: value for name, value in content.items() if not isinstance(value, Tensor)}
    if foreign:
        nested = nested_state_dicts(content)
        where = (
            f"; a state dict is nested under {' and '.join(map(repr, nested))}: pass key={nested[0]!r}, or "
            f"--key {nested[0]} to glide-fast convert"
            if nested
            else ""
        )
        sample = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(foreign.items())[:5])
        raise CheckpointError(
            f"{file} is not a state dict: {len(foreign)} of its {len(content)} entries are not tensors, "
            f"e.g. {sample}{where}"
        )
    if not content:
        raise CheckpointError(f"{file} holds no tensors")
    return {name: tensor.detach() for name, tensor in content.items()}


def write_state_dict(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as one .safetensors file, whole or not at all.

    Tensors may live on any device, be non-contiguous, share memory or require gradients; every name is
    written in full and in logical (row-major) order, so sharing is not kept. `metadata` is text by name, kept
    in the file's header.

    Raises InvalidInputError for what safetensors cannot hold (before anything is written) and CheckpointError
    where writing failed (a full disk, no permission, no such directory); `path` is then not changed.
    """
    plain = storable(tensors)
    header = _checked_metadata(metadata)
    with reporting_failed_writes(path), atomic_write(path) as temporary:
        safetensors.torch.save_file(plain, temporary, metadata=header)


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    for name, value in (metadata or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise invalid("metadata", {name: value}, "a mapping from str to str")
    return {"format": "pt", **(metadata or {})}


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as dense, contiguous CPU tensors that share no memory, as safetensors needs them.

    Raises InvalidInputError naming the first tensor that cannot be held.
    """
    if not isinstance(tensors, Mapping):
        raise invalid("tensors", type(tensors).__name__, "a mapping from names to tensors")
    if not tensors:
        raise invalid("tensors", {}, "at least one tensor")
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise invalid("tensors", name, "names that are str")
        if not isinstance(tensor, Tensor):
            raise invalid(f"tensors[{name!r}]", type(tensor).__name__, "a torch.Tensor")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            found = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else str(tensor.layout)
            raise invalid(f"tensors[{name!r}]", f"a {found} tensor", "a dense tensor that holds its values")
        if tensor.dtype not in _STORABLE_DTYPES:
            raise invalid(f"tensors[{name!r}]", tensor.dtype, "a dtype that safetensors can hold")
        dense = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
        storage = dense.untyped_storage()
        whole = storage.nbytes() == dense.nbytes
        if dense.nbytes and (not whole or storage.data_ptr() in seen):
            # A view of something larger, or of something written under another name already.
            dense = dense.clone(memory_format=torch.contiguous_format)
        seen.add(dense.untyped_storage().data_ptr())
        plain[name] = dense
    return plain


_STORABLE_DTYPES = frozenset(
    {
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(
            torch.uint16,
            torch.uint32,
            torch.uint64,
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
        ),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64),
    }
)


@contextlib.contextmanager
def reporting_failed_writes(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what a failed atomic write raises into a CheckpointError about `path`, the final name."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None:
            # safetensors has the operating system's error number only in its message.
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else None
        reason = os.strerror(number) if number else _first_line(error)
        if number == errno.ENOSPC:
            reason = "the disk is full"
        message = f"{os.fspath(path)} was not written: {reason}. What was there before is unchanged"
        raise CheckpointError(message) from error
