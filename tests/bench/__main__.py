"""Prints how fast helixsim is: ``python -m tests.bench [CASE ...] [--all] [--repeat N]``."""

from __future__ import annotations

import argparse
import json

from tests.bench.cases import CASES, COMMANDS, measure, measure_apart, start_cpu_s

COLUMNS = (
    "case", "what", "CPU s", "output tokens/CPU s", "token-hops/CPU s", "events", "peak MB", "simulated s/CPU s",
    "CPU ms/request",
)  # fmt: skip


def main() -> None:
    """Run the cases one after the other and print a Markdown table row by row."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)}; without: the short ones")
    parser.add_argument("--all", action="store_true", help="the long ones too")
    parser.add_argument("--repeat", type=int, default=1, help="run each so often and print the fastest")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.cases if name not in CASES]
    if unknown:
        parser.error(f"unknown case {', '.join(unknown)}; known: {', '.join(CASES)}")
    if args.inside:
        print(json.dumps(measure(args.cases[0])))
        return
    names = args.cases or [name for name, case in CASES.items() if args.all or not case.is_long]
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for name in names:
        best = min((measure_apart(name) for _ in range(args.repeat)), key=lambda figures: figures["cpu_s"])
        print("| " + " | ".join(row(name, best)) + " |", flush=True)
    if not args.cases:
        print("\n| command | CPU s |\n|---|---|")
        for title, arguments in COMMANDS.items():
            print(f"| {title} | {min(start_cpu_s(arguments) for _ in range(max(3, args.repeat))):.2f} |")


def row(name: str, figures: dict[str, float]) -> list[str]:
    """Return the cells of one case."""
    cpu_s = figures["cpu_s"]
    return [
        name,
        CASES[name].title,
        f"{cpu_s:.2f}",
        f"{figures['output_tokens'] / cpu_s:,.0f}".replace(",", " "),
        f"{figures['token_hops'] / cpu_s:,.0f}".replace(",", " "),
        f"{figures['events']:,.0f}".replace(",", " "),
        f"{figures['peak_rss_bytes'] / 1e6:.0f}",
        f"{figures['simulated_s'] / cpu_s:.0f}",
        f"{1000 * cpu_s / figures['requests']:.2f}",
    ]


main()
