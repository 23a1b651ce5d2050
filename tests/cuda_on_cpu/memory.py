"""Memory of the fake device: blocks, pools with an arena for each stream, allocators, and pinned memory of the host.

A block stays what it is while a pool hands it out again and again, so that what other streams still do to it shows.
Blocks are of sizes rounded up to 512 bytes, and a free one serves requests of its very size; CuPy splits larger ones.
"""

from __future__ import annotations

import gc
import itertools
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .streams import History, activity, check_device, current_stream, local, lock

UNIT = 512
TOTAL = 1 << 37


class OutOfMemoryError(MemoryError):
    """As CuPy's, of a module that is called cupy.cuda.memory."""


class Card:
    """The device's own count of its memory."""

    def __init__(self) -> None:
        self.total = TOTAL
        self.allocated = 0


card = Card()


class Block:
    """Memory that the device handed out, without a reference to it. `generation` counts its returns to its pool."""

    __slots__ = ("address", "buffer", "card", "freed", "generation", "history", "pool_state", "size")
    _addresses = itertools.count(1)

    def __init__(self, size: int) -> None:
        check_device()
        if card.allocated + size > card.total:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated: {card.allocated:,} bytes).")
        self.card, self.size = card, size
        self.pool_state: PoolState | None = None
        self.buffer = np.empty(size, np.uint8)
        self.address = next(self._addresses) << 40  # two blocks are never neighbours
        self.history = History()
        self.freed = False
        self.generation = 0
        card.allocated += size
        if current_stream().capture is not None:
            activity["capture allocations"] += 1


# What nothing refers to any more. A finalizer may run at any time, in any thread, so that it does no more than append
# to these; see `collect`.
_returns: deque[tuple[Memory, PoolState, bool, int]] = deque()  # and if the pool was alive
_frees: deque[Block] = deque()


class Memory:
    """cudaMalloc, and cudaFree when the last reference is gone."""

    __slots__ = ("__weakref__", "block", "size")

    def __init__(self, size: int) -> None:
        with lock:
            collect()
            self.block, self.size = Block(-(-size // UNIT) * UNIT), size

    @property
    def ptr(self) -> int:
        return self.block.address

    def __del__(self, frees: deque[Block] = _frees) -> None:
        if hasattr(self, "block"):
            frees.append(self.block)


class PooledMemory:
    """Memory of a pool, which it returns to when the last reference is gone."""

    __slots__ = ("__weakref__", "block", "memory", "pool_state", "size", "stream")

    def __init__(self, memory: Memory, pool_state: PoolState, size: int, stream: int) -> None:
        self.memory, self.pool_state, self.size, self.stream = memory, pool_state, size, stream
        self.block = memory.block

    @property
    def ptr(self) -> int:
        return self.block.address

    def __del__(self, returns: Any = _returns) -> None:
        returns.append((self.memory, self.pool_state, self.pool_state.pool_is_alive, self.stream))


class MemoryPointer:
    def __init__(self, mem: Memory | PooledMemory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset


def collect() -> None:
    """Take back what has died: into the pool's arenas, or to the device where the pool is gone."""
    while _returns:
        memory, pool_state, to_pool, stream = _returns.popleft()
        memory.block.generation += 1
        pool_state.used_bytes -= memory.block.size
        if to_pool:
            pool_state.arenas[stream][memory.block.size].append(memory)
        del memory
    while _frees:
        block = _frees.popleft()
        block.freed = True
        block.card.allocated -= block.size


# ------------------------------------------------------------------ pools
class PoolState:
    """What blocks know of their pool, without keeping it alive."""

    def __init__(self) -> None:
        self.arenas: dict[int, dict[int, list[Memory]]] = defaultdict(lambda: defaultdict(list))  # by stream and size
        self.used_bytes = 0
        self.pool_is_alive = True

    def free(self) -> Iterator[Memory]:
        return (memory for arena in self.arenas.values() for memories in arena.values() for memory in memories)


_leaks: list[PoolState] = []


class MemoryPool:
    """CuPy's pool. As in CuPy 14, what is free in a pool that is dropped is never given back to the device."""

    def __init__(self, allocator: Callable[[int], MemoryPointer] | None = None) -> None:
        self.state = PoolState()
        self._allocate = allocator or malloc_without_pool
        self._limit = 0

    def __del__(self, leaks: list[PoolState] = _leaks) -> None:
        self.state.pool_is_alive = False
        leaks.append(self.state)

    def malloc(self, size: int) -> MemoryPointer:
        with lock:
            collect()
            rounded, stream = -(-size // UNIT) * UNIT, current_stream().number
            free = self.state.arenas[stream][rounded]
            memory = free.pop() if free else self._new(rounded)
            memory.block.pool_state = self.state
            self.state.used_bytes += rounded
            return MemoryPointer(PooledMemory(memory, self.state, size, stream), 0)

    def _new(self, size: int) -> Any:
        for attempt in (self.free_all_blocks, gc.collect, self.free_all_blocks, None):
            try:
                if self._limit and self.total_bytes() + size > self._limit:
                    raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (limit: {self._limit:,} bytes).")
                return self._allocate(size).mem
            except OutOfMemoryError:
                if attempt is None:
                    raise
                attempt()
        raise AssertionError

    def free_all_blocks(self, stream: Any = None) -> None:
        with lock:
            collect()
            for number, arena in self.state.arenas.items():
                if stream is None or number == stream.number:
                    arena.clear()
            collect()

    def free_bytes(self) -> int:
        with lock:
            collect()
            return sum(memory.block.size for memory in self.state.free())

    def n_free_blocks(self) -> int:
        with lock:
            collect()
            return len(list(self.state.free()))

    def used_bytes(self) -> int:
        with lock:
            collect()
            return self.state.used_bytes

    def total_bytes(self) -> int:
        return self.used_bytes() + self.free_bytes()

    def get_limit(self) -> int:
        return self._limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = size if size is not None else int((fraction or 0) * card.total)


def malloc_without_pool(size: int) -> MemoryPointer:
    return MemoryPointer(Memory(size), 0)


# ------------------------------------------------------------------ allocators
_default_pool = MemoryPool()


def default_pool() -> MemoryPool:
    return _default_pool


def get_allocator() -> Callable[[int], MemoryPointer]:
    return local.allocator or _default_pool.malloc


@contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> Iterator[None]:
    """This thread's allocator."""
    outer, local.allocator = local.allocator, allocator or malloc_without_pool
    try:
        yield
    finally:
        local.allocator = outer


def pool_in_force() -> Any:
    """The pool whose `malloc` is the allocator; None for another allocator."""
    return getattr(get_allocator(), "__self__", None)


def allocate(size: int) -> MemoryPointer:
    """Memory from the allocator in force, on the current stream.

    Raises
    ------
    RuntimeError
        The current stream is captured, and the capture began with another pool.
    """
    capture = current_stream().capture
    if capture is not None and pool_in_force() is not capture.pool:
        raise RuntimeError("memory is asked for in a capture, but not of the pool that the capture began with")
    pointer = get_allocator()(size)
    if capture is not None:
        capture.allocations.add(pointer.mem.block)
    return pointer


def memory_info() -> tuple[int, int]:
    """(free, total) bytes of the device."""
    with lock:
        check_device()
        collect()
        return card.total - card.allocated, card.total


def reset() -> None:
    """Another device, all of whose memory is free."""
    global card, _default_pool
    card = Card()
    _leaks.clear()
    _default_pool = MemoryPool()


# ------------------------------------------------------------------ pinned memory
class PinnedMemory(bytearray):
    """Memory of the host that the device reads and writes by itself."""


class PinnedMemoryPool:
    def free_all_blocks(self) -> None:
        pass


pinned_pool = PinnedMemoryPool()


def empty_pinned(shape: Any, dtype: Any = float, order: Any = "C") -> np.ndarray:
    dtype = np.dtype(dtype)
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    flat = np.frombuffer(PinnedMemory(b"\xff" * size), np.uint8, size) if size else np.empty(0, np.uint8)
    return np.ndarray(shape, dtype, flat, order=order)


def is_pinned(array: np.ndarray) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, PinnedMemory)
