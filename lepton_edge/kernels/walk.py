"""The entry point: every thread walks the op table, calling each row's kernel and meeting at its barrier."""

from .common import at, small
from .layout import (
    ARRIVED,
    CANCEL,
    FINISHED,
    GENERATION,
    LOST,
    PROGRAM,
    ROWS,
    STAMPS,
    STOPPED,
    SYNC,
    TAKEN,
    THREADS,
    YIELD,
)
from .ops import ALWAYS, BARRIER, KERNEL, LARGE, ROW
from .simd.words import (
    atomic_add,
    atomic_load,
    atomic_store,
    call_kernel,
    call_plain,
    clock,
    get_i64,
    jit,
    pause,
    put_i64,
)

SPINS = 2000  # looks at the barrier before giving the core away: about 50 microseconds


@jit
def barrier(sync, threads, yielding):
    """Wait for all threads; the last one to come decides, from the cancel flag, whether all stop.

    A wait that is longer than the spinning is for a thread whose core is taken: its time is added to LOST.
    """
    generation = atomic_load(sync + GENERATION)
    if atomic_add(sync + ARRIVED, 1) + 1 == threads:
        atomic_store(sync + ARRIVED, 0)
        atomic_store(sync + STOPPED, atomic_load(sync + CANCEL))
        atomic_store(sync + GENERATION, generation + 1)
    else:
        spins, since = 0, 0
        while atomic_load(sync + GENERATION) == generation:
            spins += 1
            if spins == SPINS:
                since = clock()
            if spins < SPINS or yielding == 0:
                pause()
            else:
                call_plain(yielding)
        if since != 0:
            atomic_add(sync + LOST, clock() - since)
    return atomic_load(sync + STOPPED)


@jit
def stamp(stamps, i):
    """Keep the time as a thread's stamp i, where stamps are asked for."""
    if stamps != 0:
        put_i64(stamps + 8 * i, clock())


@jit
def walk(row, context, thread):
    """Run the program at `context`; `row` is unused, so that this is called like every kernel."""
    sync, threads, yielding = at(context, SYNC), at(context, THREADS), at(context, YIELD)
    rows, stamps, start = at(context, ROWS), at(context, STAMPS), clock()
    if stamps != 0:
        stamps += thread * (rows + 1) * 16
    row = at(context, PROGRAM)
    for i in range(rows):
        stamp(stamps, 2 * i)
        call_kernel(get_i64(row + 8 * KERNEL), row, context, thread)
        stamp(stamps, 2 * i + 1)
        when = get_i64(row + 8 * BARRIER)
        meet = when == ALWAYS or (when == LARGE and not small(context))
        if meet and barrier(sync, threads, yielding) != 0:
            break
        row += 8 * ROW
    stamp(stamps, 2 * rows)
    if thread == 0:
        put_i64(sync + TAKEN, clock() - start)
    atomic_store(sync + FINISHED + 8 * thread, 1)


KERNELS = {"walk": lambda: walk}
