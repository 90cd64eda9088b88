"""What depends on the solver, as one JSON document: placements, bounds, flows and summaries of some experiments.

    python tests/solver_answers.py OUT.json [NAME ...]
    python tests/solver_answers.py --compare A.json B.json

Made under two versions of HiGHS, the documents must agree: numbers to 1e-6, the rest exactly. The comparison prints
what differs and ends with 1 if anything does. Names are those of ``EXPERIMENTS`` and random clusters; without any, all.
``.ci/versions`` does this.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helixsim import load_experiment, yamlio
from helixsim.study.run import run_case
from helixsim.study.whatif import cases

RELATIVE = 1e-6
ROOT = Path(__file__).parents[1] / "experiments"
SHORT = ("workload.warmup=30 s", "workload.duration=60 s")
EXPERIMENTS = {
    "quickstart": ROOT / "quickstart.yaml",
    "single24-70b": ROOT / "paper/single24-70b.yaml",
    "single24-30b": ROOT / "paper/single24-30b.yaml",
    "dist24-70b": ROOT / "paper/dist24-70b.yaml",
    "dist24-30b": ROOT / "paper/dist24-30b.yaml",
    "het42-70b": ROOT / "paper/het42-70b.yaml",
}
RANDOM = 24
GPUS = ("a100-40g", "a10g", "l4", "t4", "v100", "rtx-3090")
MODELS = ("llama-2-7b", "llama-2-13b", "qwen2.5-32b")


def random_experiment(number: int) -> dict[str, Any]:
    """A few unequal GPUs in one or two regions, under light load."""
    draw = random.Random(number)
    regions = ["a", "b"][: draw.choice((1, 1, 2))]
    kinds = draw.sample(GPUS, draw.randint(1, 3))
    nodes = [{"gpu": gpu, "count": draw.randint(2, 5), "region": draw.choice(regions)} for gpu in kinds]
    return {
        "schema": 1,
        "name": f"random-{number}",
        "model": draw.choice(MODELS),
        "cluster": {
            "coordinator": {"region": "a"},
            "nodes": nodes,
            "network": {
                "intra_region": {"bandwidth": "10 Gbit/s", "latency": "1 ms"},
                "inter_region": {"bandwidth": draw.choice(("100 Mbit/s", "1 Gbit/s")), "latency": "20 ms"},
            },
        },
        "workload": {
            "limits": {"max_prompt_tokens": 1024, "max_output_tokens": 128},
            "arrivals": {"process": "poisson", "rate": 0.5},
            "warmup": "10 s",
            "duration": "60 s",
        },
        "systems": [
            {"name": "helix", "placement": "helix"},
            {"name": "swarm", "placement": "swarm"},
            {"name": "petals", "placement": "petals"},
        ],
    }


def answers(path: Path, overrides: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield (system, what was found) of one experiment; an error counts as an answer."""
    try:
        found = cases(load_experiment(path, overrides))
    except Exception as error:  # a drawn cluster that cannot hold its model
        yield "experiment", {"error": str(error)}
        return
    for case in found:
        try:
            report = run_case(case)
        except Exception as error:
            yield case.name, {"error": f"{type(error).__name__}: {error}"}
            continue
        placement, plan = report.placement, report.simulation.plan
        largest = plan.max_flow_tokens_per_s
        yield (
            case.name,
            {
                "layers": {node: [held.start, held.end] for node, held in sorted(placement.ranges.items())},
                "objective": placement.objective_tokens_per_s,
                "bound": placement.upper_bound_tokens_per_s,
                "max_flow": largest,
                "flows": {f"{edge.src} {edge.dst}": edge.flow_tokens_per_s / largest for edge in plan.edges},
                "summary": report.summary.to_json(),
            },
        )


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield where two documents differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from differences(first, second, f"{where}/{number}")
    elif isinstance(one, float) and isinstance(other, float):
        if abs(one - other) > RELATIVE * max(abs(one), abs(other), 1e-3):
            yield f"{where}: {one!r} {other!r}"
    elif one != other:
        yield f"{where}: {str(one)[:200]} {str(other)[:200]}"


def main(arguments: list[str]) -> int:
    """Write answers, or compare two documents of them."""
    if arguments[0] == "--compare":
        one, other = (json.loads(Path(name).read_text(encoding="utf-8")) for name in arguments[1:])
        found = list(differences(one["answers"], other["answers"]))
        systems = sum(map(len, one["answers"].values()))
        print(f"HiGHS {one['highs']} and {other['highs']}, {systems} systems: {len(found)} differences")
        print("\n".join(found[:40]))
        return 1 if found else 0
    wanted = arguments[1:] or [*EXPERIMENTS, *(f"random-{number}" for number in range(RANDOM))]
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in wanted:
            path, overrides = EXPERIMENTS.get(name, Path(scratch) / f"{name}.yaml"), SHORT
            if name not in EXPERIMENTS:
                overrides = ()
                path.write_text(yamlio.dump(random_experiment(int(name.rpartition("-")[2]))), encoding="utf-8")
            made[name] = dict(answers(path, overrides))
            print(f"{name}: {len(made[name])} systems", file=sys.stderr, flush=True)
    document = {"highs": importlib.metadata.version("highspy"), "answers": made}
    Path(arguments[0]).write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
