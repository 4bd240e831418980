"""A brief in; nothing, or one PlanError that lists everything in it that cannot be true together, out."""

import math
import re
from collections.abc import Iterator, Sequence

from stepladder.errors import PlanError
from stepladder.plan.hardware import Device, catalogue, grid_of, known_device
from stepladder.plan.overlay import NONE, Overlay
from stepladder.plan.power import most_watts
from stepladder.records import Brief

# As many as help; the whole catalogue does not.
_MOST_NAMES = 6


def reject_conflicts(brief: Brief, overlay: Overlay = NONE) -> None:
    """Raises:
    PlanError: an id is not in the catalogue, or values contradict each other; all of them are listed.
    """
    problems = [
        *_unknown(brief, overlay),
        *_of_size(brief),
        *_of_layout(brief, known_device(brief.hardware.device, overlay.devices)),
        *_of_costs(brief),
    ]
    if problems:
        plural = "s that contradict" if len(problems) > 1 else " that contradicts"
        title = f"{len(problems)} value{plural} the rest or the catalogue"
        raise PlanError(
            listed(title, problems), next_command="mend these in the brief, or in the words of the command"
        )


def listed(title: str, problems: Sequence[str]) -> str:
    """The title, and a line for each problem."""
    return "\n".join([title, *(f"  - {problem}" for problem in problems)])


def near_names(word: str) -> list[str]:
    """Ids of devices that somebody who wrote `word` may mean: its letters are in them, or its figures."""
    letters = re.sub(r"[^a-z0-9]", "", word.lower())
    digits = re.findall(r"\d{2,}", letters)

    def rank(device: Device) -> tuple[int, int]:
        plain = re.sub(r"[^a-z0-9]", "", device.id)
        if letters in plain or plain in letters:
            return 0, abs(len(plain) - len(letters))
        return (1, len(plain)) if digits and any(number in plain for number in digits) else (2, 0)

    ranked = sorted(catalogue().values(), key=rank)
    nearest = min(rank(ranked[0])[0], 1)
    return [device.id for device in ranked if rank(device)[0] == nearest][:_MOST_NAMES]


def _unknown(brief: Brief, overlay: Overlay) -> Iterator[str]:
    name = brief.hardware.device
    if name != "this" and known_device(name, overlay.devices) is None:
        near = near_names(name)
        hint = f"did you mean {', '.join(near)}?" if near else f"allowed: this, {', '.join(catalogue())}"
        yield f'device "{name}" is not in the catalogue; {hint}'
    regions = str(brief.override.get("regions", "")).split(",")
    for region in [brief.hardware.region, *regions]:
        if region.strip().upper() in overlay.grids:
            continue
        try:
            grid_of(region or "world")
        except PlanError as error:
            yield f"{error.wrong}; allowed: two letters, as SE or US, or world"


def _of_size(brief: Brief) -> Iterator[str]:
    over, most = brief.override, brief.goal.max_params
    if most is not None and float(over.get("params", 0)) > most:
        yield f"[override] params = {over['params']:,} is above [goal] max_params = {most:,}"
    width, heads = int(over.get("width", 0)), int(over.get("num_heads", 0))
    if width and heads and width % (2 * heads):
        yield f"[override] width = {width:,} is no multiple of 2 x num_heads = {2 * heads:,}"
    if "tokens" in over and "horizon" in over:
        yield "[override] tokens and horizon both end the run; keep one"
    if "tokens" in over and "unique_tokens" in over:
        passes, most_passes = float(over["tokens"]) / float(over["unique_tokens"]), over.get("max_epochs")
        if most_passes is not None and passes > float(most_passes):
            yield (
                f"[override] tokens = {over['tokens']:,} are {passes:.3g} passes over unique_tokens = "
                f"{over['unique_tokens']:,}, above max_epochs = {most_passes:g}"
            )
    if "tokens" in over and float(over.get("batch_tokens", 0)) > float(over["tokens"]):
        yield f"[override] batch_tokens = {over['batch_tokens']:,} is above tokens = {over['tokens']:,}"


def _of_layout(brief: Brief, device: Device | None) -> Iterator[str]:
    hardware, over = brief.hardware, brief.override
    if device is None:
        return
    precision = over.get("precision")
    if precision is not None and precision not in device.peaks:
        yield f"[override] precision = {precision}: {device.name} has {', '.join(device.peaks)}"
    yield from switch_problems(brief, device)
    for key in ("processes", "threads"):
        if key in over and device.kind != "cpu":
            yield f"[override] {key} is for CPUs; {device.name} runs one process for each device"
    largest = max(device.node.devices, device.links.domain_devices if device.links.domain_devices > 0 else 0)
    if device.kind == "gpu" and hardware.count > max(largest, 8):
        nodes = math.ceil(hardware.count * hardware.nodes / device.node.devices)
        yield (
            f"count = {hardware.count} devices in one node: {device.name} comes in nodes of "
            f"{device.node.devices}; write count = {device.node.devices} and nodes = {nodes}"
        )
    gib = float(over.get("memory_gib", 0))
    if gib * 2**30 > device.mem_bytes * 1.1:
        yield f"[override] memory_gib = {gib:g}: {device.name} has {device.mem_bytes / 2**30:.0f} GiB"
    watts, most = float(over.get("watts_per_device", 0)), most_watts(device)
    if watts > most:
        yield (
            f"[override] watts_per_device = {watts:g}: {device.name} with its share of a computer draws at "
            f"most {most:.0f} W"
        )


def switch_problems(brief: Brief, device: Device | None) -> Iterator[str]:
    """Why float8 or cuda_graphs cannot be on; `device` is None for the CPU of this machine."""
    over, is_gpu = brief.override, device is not None and device.kind == "gpu"
    name = device.name if device is not None else "the CPU of this machine"
    devices = brief.hardware.count * brief.hardware.nodes
    if over.get("float8"):
        if is_gpu and device is not None and "fp8" not in device.peaks:
            yield f"[override] float8: {name} has {', '.join(device.peaks)}; set float8 = false"
        if is_gpu and over.get("precision") == "fp32":
            yield "[override] float8 with precision = fp32: what is not in float8 is bf16 then; keep one"
        if "num_experts" in over:
            yield "[override] float8 with num_experts is not tested; keep one"
    if over.get("cuda_graphs"):
        if not is_gpu:
            yield f"[override] cuda_graphs: {name} is no GPU; set cuda_graphs = false"
        if devices > 1:
            yield f"[override] cuda_graphs on {devices} devices is not built: count = 1, or no graphs"
        if over.get("float8"):
            yield "[override] cuda_graphs with float8 is not tested; keep one"
        if "num_experts" in over:
            yield "[override] cuda_graphs with num_experts: rows of an expert differ at each step; keep one"
        if brief.objective == "masked":
            yield "[override] cuda_graphs with objective = masked: passes differ from step to step; keep one"


def _of_costs(brief: Brief) -> Iterator[str]:
    over = brief.override
    if over.get("spot") and brief.hardware.device == "this":
        yield "[override] spot is for machines that are rented; device is this one"
    if "spot_hours" in over and not over.get("spot"):
        yield "[override] spot_hours is how long a spot machine lasts; spot = true is missing"
    if "regions" in over and "kg_co2e_per_kwh" in over:
        yield "[override] kg_co2e_per_kwh holds for one grid, regions names several; keep one"
    if "regions" in over and brief.hardware.region not in ("world", ""):
        named = [name.strip().upper() for name in str(over["regions"]).split(",")]
        if brief.hardware.region.upper() not in named:
            yield f'[hardware] region = "{brief.hardware.region}" is not among [override] regions'
