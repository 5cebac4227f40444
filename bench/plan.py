"""What issue 3 asks to be shown: its targets, and the jobs that `bench.e2e --all` measures for them."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.engines import GenAI, Job, Lepton, LlamaCpp, Transformers
from bench.results import Result

__all__ = ["TARGETS", "Target", "base_of", "pieces", "ratio", "report"]

OURS, LLAMA = Lepton.name, LlamaCpp.name
SHAPES = {"smollm2-135m": "135M", "qwen2.5-0.5b": "0.5B", "llama-3.2-1b": "1B"}
LINE = "{:<32} {:>15} {:>15} {:>15}"


@dataclass(frozen=True)
class Target:
    """This project's median in a test, at least `factors` (one for each shape) times another median.

    engine, base: whose median, and in which test. isa: which instruction set the line is about; None: the best one.
    """

    title: str
    format: str
    test: str
    engine: str
    base: str
    factors: tuple[float, float, float]
    isa: str | None = None


TARGETS = (
    Target("decode q4 / Q4_0", "q4", "tg64", LLAMA, "tg64", (1.8, 1.6, 1.35)),
    Target("prefill 512, q4 / Q4_0", "q4", "pp512", LLAMA, "pp512", (2.2, 2.0, 2.2)),
    Target("decode q8 / Q8_0", "q8", "tg64", LLAMA, "tg64", (1.5, 1.3, 1.15)),
    Target("prefill 512, q8 / Q8_0", "q8", "pp512", LLAMA, "pp512", (2.5, 2.5, 2.5)),
    Target("decode q4 at depth 4096 / Q4_0", "q4", "tg64 @ d4096", LLAMA, "tg64 @ d4096", (1.8, 1.6, 1.4)),
    Target("prefill 4096 / prefill 512, own", "q4", "pp4096", OURS, "pp512", (0.6, 0.65, 0.7)),
    Target("8 sequences / 1 sequence, own", "q4", "tg64 x8", OURS, "tg64", (3.0, 4.0, 4.5)),
    Target("decode bf16 / transformers", "bf16", "tg32", Transformers.name, "tg32", (3.0, 3.0, 3.0)),
    Target("prefill bf16 / transformers", "bf16", "pp256", Transformers.name, "pp256", (1.0, 1.0, 1.0)),
    Target("avx2: decode q4 / Q4_0", "q4", "tg64", LLAMA, "tg64", (1.1, 1.1, 1.1), isa="avx2"),
    Target("avx2: prefill 512, q4 / Q4_0", "q4", "pp512", LLAMA, "pp512", (1.3, 1.3, 1.3), isa="avx2"),
)


def pieces(shape: str, threads: int, isas: tuple[str, ...]) -> dict[str, list[Job]]:
    """The jobs of one shape, in pieces that take minutes each. isas: what this CPU has, best first."""
    best = isas[0]
    found = {
        "q4": [
            Job(shape, "q4", threads, best, prompt=512, new=64, peers=(LLAMA, GenAI.name)),
            Job(shape, "q4", threads, best, prompt=4096, peers=()),
            Job(shape, "q4", threads, best, new=64, batch=8, peers=(LLAMA,)),
        ],
        "q8": [Job(shape, "q8", threads, best, prompt=512, new=64, peers=(LLAMA,))],
        "depth": [Job(shape, "q4", threads, best, new=64, depth=4096, peers=(LLAMA,))],
        # Shorter: on CPUs without bf16 dot products torch takes minutes for a round of the longer one at 1B.
        "bf16": [Job(shape, "bf16", threads, best, prompt=256, new=32, peers=(Transformers.name,))],
    }
    if "avx2" in isas[1:]:
        found["avx2"] = [Job(shape, "q4", threads, "avx2", prompt=512, new=64, peers=(LLAMA,))]
    return found


def base_of(result: Result) -> str | None:
    """The test of our own that our `result` is set against; None when it is set against peers only."""
    own = {(target.format, target.test): target.base for target in TARGETS if target.engine == OURS}
    return own.get((result.format, result.test)) if result.engine == OURS else None


def ratio(target: Target, shape: str, isa: str, results: Iterable[Result]) -> float | None:
    """Our median over the one that the target sets it against; None when either was not measured."""
    medians = {
        (result.engine, result.test): result.median
        for result in results
        if (result.shape, result.format, result.isa) == (shape, target.format, isa)
    }
    ours, other = medians.get((OURS, target.test)), medians.get((target.engine, target.base))
    return None if ours is None or other is None else ours / other


def report(results: list[Result], best: str) -> str:
    """Each target against what was measured, as text of 80 columns; `best` is the machine's instruction set."""
    lines = [LINE.format("ratio/target", *SHAPES.values())]
    for target in TARGETS:
        cells = []
        for shape, factor in zip(SHAPES, target.factors, strict=True):
            found = ratio(target, shape, target.isa or best, results)
            verdict = "" if found is None else "PASS" if found >= factor else "short"
            cells.append(f"{'–' if found is None else f'{found:.2f}'}/{factor:.2f} {verdict:<5}")
        lines.append(LINE.format(target.title, *cells).rstrip())
    if best != "avx512":
        lines.append(f"Lines that name no instruction set are meant for avx512; this is {best}.")
    return "\n".join(lines)
