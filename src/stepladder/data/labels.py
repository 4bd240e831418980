"""Document numbers and lengths in; 64-bit ids and labels out, whose smallest in a cluster is its best.

An id says where a document stands: task (17 bits), part of the task (12), row of the part (12). A label puts
before it what makes a document the better one of two: pinned (1 bit), then its length (22 bits). So a
minimum over labels is both the leader of a cluster and the way to find it.
"""

import numpy as np

from stepladder.errors import DataError

TASK_BITS, PART_BITS, ROW_BITS, LENGTH_BITS = 17, 12, 12, 22
ID_BITS = TASK_BITS + PART_BITS + ROW_BITS
PART_ROWS = 1 << ROW_BITS
# The id of no document.
NOBODY = 0xFFFFFFFFFFFFFFFF
_LONGEST = (1 << LENGTH_BITS) - 1
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def part_base(task: int, part: int) -> int:
    """The id of the first document of a part.

    Raises:
        DataError: more tasks, or more parts of one packed file, than ids have room for.
    """
    if task >= 1 << TASK_BITS or part >= 1 << PART_BITS:
        raise DataError(
            "a file is too large to be one",
            got=f"part {part:,} of task {task:,}",
            allowed=f"{1 << PART_BITS:,} parts of 4 MB in one packed file, {1 << TASK_BITS:,} tasks",
            next_command="split the packed file into several",
        )
    return (task << PART_BITS | part) << ROW_BITS


def base_of(name: str) -> int:
    """The id of the first document of the part with this name."""
    task, part = name.split("-")
    return part_base(int(task), int(part))


def labels(base: int, rows: np.ndarray, length: np.ndarray, pinned: np.ndarray) -> np.ndarray:
    """uint64 labels of rows of a part; lengths in bytes, those from 4 MiB on count as equal."""
    behind = (_LONGEST - np.minimum(length, _LONGEST)).astype(np.uint64)
    last = np.where(pinned, 0, 1).astype(np.uint64)
    ids = np.uint64(base) + rows.astype(np.uint64)
    return (last << np.uint64(LENGTH_BITS + ID_BITS)) | (behind << np.uint64(ID_BITS)) | ids


def ids_of(label: np.ndarray) -> np.ndarray:
    """The ids inside labels."""
    return label & np.uint64((1 << ID_BITS) - 1)


def part_name(identity: int) -> tuple[str, int]:
    """(name of the part, row in it) of an id."""
    place, row = divmod(int(identity), PART_ROWS)
    task, part = divmod(place, 1 << PART_BITS)
    return f"{task:05d}-{part:04d}", row


def mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: spreads labels evenly over the 64-bit keys."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
