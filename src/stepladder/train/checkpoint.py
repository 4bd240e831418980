"""Weights, optimiser, random state and counters in; folders written whole or not at all, and back, out.

A checkpoint is `step-NNNNNNN/`: tensors (`state.safetensors` from one process, a DCP folder from several),
`rng-R.safetensors` for each rank, and `manifest.json` with counters and the checksum of every file. It is
made under a hidden name and renamed; the two newest are kept, and those that the run's `keep.json` names.
One layout reads what another wrote.

The loop waits while the tensors are copied to buffers in host memory, made once. A thread of each rank does
the rest; the threads agree through a gloo group of their own, so that no step waits for a disk.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from stepladder.errors import StepladderError, TrainError
from stepladder.models.shard import local
from stepladder.store import read_json, write_json
from stepladder.train.optim import Muon, Optimisers
from stepladder.train.parallel import Ranks
from stepladder.train.schedule import KEEP_FILE
from stepladder.train.tensorfile import write_tensors

_KEEP = 2
# A checkpoint that would leave less is not begun: it is room for thousands of lines of metrics.jsonl.
_SPARE_BYTES = 2**20
_STATE, _DCP, _MANIFEST = "state.safetensors", "dcp", "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Snapshot:
    """What a checkpoint is made of: copies, of one step."""

    step: int
    state: dict[str, Tensor]
    random: dict[str, Tensor]
    counters: dict[str, Any]
    before_seal: Callable[[], object] | None


class Checkpointer:
    """Saves and restores one run. All ranks call every method together."""

    def __init__(self, folder: Path, model: nn.Module, optimisers: Optimisers, ranks: Ranks) -> None:
        self._folder, self._ranks = folder, ranks
        self._model, self._optimisers = model, optimisers
        keep = folder.parent / KEEP_FILE
        self.keep_steps = frozenset(read_json(keep)["steps"] if keep.exists() else ())
        self._group = dist.new_group(backend="gloo") if ranks.world > 1 else None
        self._copies: dict[str, Tensor] = {}
        self._writer: threading.Thread | None = None
        # The step of the newest checkpoint that is known to be whole; 0 for none.
        self.newest_step = 0
        if ranks.rank == 0 and folder.exists():
            for left_over in folder.glob(".step-*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    @property
    def is_pending(self) -> bool:
        """Whether this rank still writes a checkpoint."""
        return self._writer is not None and self._writer.is_alive()

    def save(
        self, step: int, counters: Mapping[str, Any], before_seal: Callable[[], object] | None = None
    ) -> None:
        """Copy the state as it is now and let a thread write it; one that is under way is waited for first.

        `before_seal` runs on rank 0 when the tensors are on the disk: what the counters count must be there
        too. A full disk is told on stderr, and the run can go on.
        """
        self.wait()
        state = self._copy()
        random = {"cpu": torch.get_rng_state()}
        if self._ranks.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state()

        snapshot = _Snapshot(
            step=step, state=state, random=random, counters=dict(counters), before_seal=before_seal
        )
        self._writer = threading.Thread(target=self._finish, args=(snapshot,), daemon=True, name="checkpoint")
        self._writer.start()

    def lacks(self, step: int) -> str:
        """For people: what is missing where the checkpoint of `step` could not be written."""
        if self.newest_step == step:
            return ""
        last = f"the last is of step {self.newest_step}" if self.newest_step else "there is none"
        return f", without a checkpoint of it ({last})"

    def wait(self) -> None:
        """Until nothing is pending."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def restore(self) -> dict[str, Any]:
        """Load the newest intact checkpoint in place; its counters, or {} when there is none.

        Raises:
            TrainError: a checkpoint is intact and belongs to another model.
        """
        self.wait()
        name = self._ranks.share(self._newest_intact() if self._ranks.rank == 0 else None)
        if name is None:
            return {}
        path = self._folder / str(name)
        manifest = read_json(path / _MANIFEST)
        state = self._state()
        if (path / _DCP).exists():
            self._read_dcp(path / _DCP, state)
        else:
            self._read_whole(path / _STATE, state)
        self._restore_rng(path)
        self.newest_step = int(manifest["counters"].get("step", 0))
        return manifest["counters"]

    def _state(self) -> dict[str, Tensor]:
        """Every tensor of the run by name; the tensors are the live ones, to be read or filled in place."""
        prepare_state(self._optimisers)
        names: dict[Tensor, str] = {parameter: name for name, parameter in self._model.named_parameters()}
        state = {f"model.{name}": parameter.detach() for parameter, name in names.items()}
        for part in self._optimisers.parts:
            for parameter, values in part.state.items():
                state |= {f"optim.{names[parameter]}.{key}": value for key, value in values.items()}
        return state

    def _copy(self) -> dict[str, Tensor]:
        """The state in host memory, shards as shards; complete when this returns."""
        is_cuda = self._ranks.device.type == "cuda"
        out = {}
        for name, tensor in self._state().items():
            part = local(tensor)
            if name not in self._copies:
                self._copies[name] = torch.empty(part.shape, dtype=part.dtype, pin_memory=is_cuda)
            copy = self._copies[name]
            copy.copy_(part, non_blocking=is_cuda)
            if isinstance(tensor, DTensor):
                # Made as it stands: `from_local` would move the copy to the mesh's device.
                copy = DTensor(copy, tensor._spec, requires_grad=False)
            out[name] = copy
        if is_cuda:
            torch.cuda.current_stream(self._ranks.device).synchronize()
        return out

    def _finish(self, snapshot: "_Snapshot") -> None:
        """The thread of a save, on every rank."""
        temporary = self._folder / f".step-{snapshot.step:07d}"
        checksums: dict[str, str] = {}
        problem = (
            self._together(lambda: self._clear(temporary, self._num_bytes(snapshot.state)))
            or self._together(lambda: self._write(temporary, snapshot))
            or self._together(lambda: checksums.update(self._checksums(temporary)))
            or self._together(lambda: self._seal(temporary, snapshot, self._merge(checksums)))
        )
        if not problem:
            self.newest_step = snapshot.step
        elif self._ranks.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            print(
                f"warning: no checkpoint at step {snapshot.step} ({problem}); training goes on",
                file=sys.stderr,
            )

    def _together(self, act: Callable[[], None]) -> str:
        """Let every rank act; why one of them could not, or ""."""
        problem = ""
        try:
            act()
        except Exception as error:  # torch wraps what the disk says in types of its own
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        try:
            return next(filter(None, self._gather(problem)), "")
        except RuntimeError as error:  # a rank is gone
            return f"{type(error).__name__}: {error}".splitlines()[0]

    def _gather(self, value: Any) -> list[Any]:
        """The value of each rank."""
        if self._group is None:
            return [value]
        values = [None] * self._ranks.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _num_bytes(self, state: Mapping[str, Tensor]) -> int:
        """Bytes of the tensors of all ranks, each tensor once, sharded or not."""
        here = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        return sum(self._gather(here if self._ranks.is_first_of_stage else 0))

    def _clear(self, temporary: Path, num_bytes: int) -> None:
        """An empty folder, if there is room for what comes: the disk is not filled to its last byte first."""
        if self._ranks.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            free, wanted = free_bytes(self._folder.parent), num_bytes + _SPARE_BYTES
            if free is not None and free < wanted:
                raise OSError(f"{wanted:,} bytes are wanted, {free:,} bytes are free")
            temporary.mkdir(parents=True)

    def _write(self, temporary: Path, snapshot: "_Snapshot") -> None:
        if self._group is None:
            write_tensors(temporary / _STATE, snapshot.state)
        else:
            import torch.distributed.checkpoint as dcp

            # First, since it talks to the other ranks: whatever fails here fails on all of them.
            dcp.save(snapshot.state, checkpoint_id=temporary / _DCP, process_group=self._group)
        write_tensors(temporary / f"rng-{self._ranks.rank}.safetensors", snapshot.random)

    def _checksums(self, temporary: Path) -> dict[str, str]:
        """Of the files that this rank wrote, put on the disk."""
        paths = {path.relative_to(temporary).as_posix(): path for path in temporary.rglob("*")}
        own = {name: path for name, path in paths.items() if _is_of(self._ranks.rank, name)}
        return {name: _sha256(path, sync=True) for name, path in own.items()}

    def _merge(self, checksums: dict[str, str]) -> dict[str, str]:
        return {name: value for part in self._gather(checksums) for name, value in part.items()}

    def _seal(self, temporary: Path, snapshot: "_Snapshot", checksums: Mapping[str, str]) -> None:
        """Manifest and rename by rank 0; old checkpoints are deleted."""
        if self._ranks.rank != 0:
            return
        final = self._folder / f"step-{snapshot.step:07d}"
        if snapshot.before_seal:
            snapshot.before_seal()
        write_json(temporary / _MANIFEST, {"counters": snapshot.counters, "sha256": dict(checksums)})
        for folder in (temporary / _DCP, temporary):
            _sync_folder(folder)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync_folder(self._folder)
        kept = {f"step-{step:07d}" for step in self.keep_steps}
        for old in [name for name in self._names() if name not in kept][_KEEP:]:
            shutil.rmtree(self._folder / old, ignore_errors=True)

    def _names(self) -> list[str]:
        """Checkpoints, newest first."""
        return sorted(
            (path.name for path in self._folder.glob("step-*")), key=lambda name: int(name[5:]), reverse=True
        )

    def _newest_intact(self) -> str | None:
        names = self._names()
        for name in names:
            reason = _damage(self._folder / name)
            if not reason:
                return name
            print(f"warning: checkpoint {name} is damaged ({reason}); taking the one before", file=sys.stderr)
        if names:
            print("warning: no intact checkpoint is left; starting from the beginning", file=sys.stderr)
        return None

    def _read_whole(self, path: Path, state: dict[str, Tensor]) -> None:
        found = load_file(path)
        self._check_same({name: tensor.shape for name, tensor in found.items()}, state, path)
        with torch.no_grad():
            for name, tensor in state.items():
                local(tensor).copy_(local_part(found[name], tensor))

    def _read_dcp(self, path: Path, state: dict[str, Tensor]) -> None:
        import torch.distributed.checkpoint as dcp

        stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        self._check_same({name: getattr(item, "size", None) for name, item in stored.items()}, state, path)
        with warnings.catch_warnings():
            # One process reading what several wrote is meant; DCP warns that there is no group.
            warnings.simplefilter("ignore", UserWarning)
            dcp.load(state, checkpoint_id=path)

    def _check_same(self, found: Mapping[str, object], state: Mapping[str, Tensor], path: Path) -> None:
        """Names and shapes must be the model's; a process of a pipeline looks for its own."""
        wanted = {name: tensor.shape for name, tensor in state.items()}
        known = wanted if self._ranks.degrees.pipeline > 1 else {*found, *wanted}
        wrong = sorted(name for name in known if found.get(name) != wanted.get(name))
        if wrong:
            name = wrong[0]
            raise TrainError(
                f"the checkpoint {path} belongs to another model or optimiser",
                got=f"{len(wrong)} tensors differ, first {name}: {_shape(found.get(name))} there, "
                f"{_shape(wanted.get(name))} in the plan",
                next_command="stepladder train plan.json --out ANOTHER_DIR",
            )

    def _restore_rng(self, path: Path) -> None:
        file = path / f"rng-{self._ranks.rank}.safetensors"
        if not file.exists():  # written by fewer ranks: any stream will do, but a fixed one
            torch.manual_seed(self._ranks.rank)
            return
        random = load_file(file)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and self._ranks.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"])


def prepare_state(optimisers: Optimisers) -> None:
    """Give every parameter the optimiser state that its first step would make, so that it can be filled."""
    for part in optimisers.parts:
        for group in part.param_groups:
            for parameter in group["params"]:
                if part.state[parameter]:
                    continue
                if isinstance(part, Muon):
                    part.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter.detach())}
                    continue
                part.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter.detach()),
                    "exp_avg_sq": torch.zeros_like(parameter.detach()),
                }


def free_bytes(folder: Path) -> int | None:
    """What may still be written beside `folder`, as far as the system tells: quotas are not seen."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def local_part(whole: Tensor, like: Tensor) -> Tensor:
    """What this process holds of `whole` when it is laid out as `like`."""
    if not isinstance(like, DTensor):
        return whole
    placed = list(enumerate(like.placements))
    # A strided shard is a part of what the other dimensions left of the tensor.
    strided = [item for item in placed if isinstance(item[1], _StridedShard)]
    part = whole
    for dim, placement in [item for item in placed if item not in strided] + strided:
        if isinstance(placement, Shard | _StridedShard):
            chunks = part.chunk(like.device_mesh.size(dim), dim=placement.dim)
            rank = like.device_mesh.get_local_rank(dim)
            part = chunks[rank] if rank < len(chunks) else part.narrow(placement.dim, 0, 0)
    return part


def _shape(size: object) -> str:
    return "none" if size is None else str(tuple(size))  # pyrefly: ignore[bad-argument-type]


def _damage(path: Path) -> str:
    """Why a checkpoint cannot be used; empty when it is intact."""
    try:
        checksums = read_json(path / _MANIFEST)["sha256"]
        for name, checksum in checksums.items():
            if _sha256(path / name) != checksum:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, StepladderError, KeyError, TypeError) as error:
        return str(error).splitlines()[0]
    return ""


def _is_of(rank: int, name: str) -> bool:
    """Whether a file of a checkpoint was written by `rank`; those of all together are rank 0's."""
    if name in (_STATE, f"{_DCP}/.metadata"):
        return rank == 0
    return name == f"rng-{rank}.safetensors" or name.startswith(f"{_DCP}/__{rank}_")


def _sha256(path: Path, *, sync: bool = False) -> str:
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
