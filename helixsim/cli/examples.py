"""Examples of every command, shown at the end of its help."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": (
        "helixsim init --gpus 8xh100,4xl40s --model Qwen/Qwen3-32B --slo ttft=1s,tpot=50ms",
        "helixsim run exp.yaml",
        "helixsim COMMAND --help",
    ),
    "init": (
        "helixsim init --gpus 8xh100,4xl40s --model Qwen/Qwen3-32B --slo ttft=1s,tpot=50ms --rate 2",
        "helixsim init --gpus 4xrtx-4090 --model ./my-model --trace gateway.csv --out chat.yaml",
    ),
    "run": (
        "helixsim run experiments/quickstart.yaml",
        "helixsim run exp.yaml --set workload.arrivals.rate=1.6 --seed 1 -v",
        "helixsim run exp.yaml --fail-on-slo --json > summary.json",
    ),
    "place": (
        "helixsim place experiments/quickstart.yaml",
        "helixsim place exp.yaml --system helix -v",
        "helixsim place exp.yaml --system replicas --export vllm --out serve.sh",
    ),
    "validate": ("helixsim validate exp.yaml", "helixsim validate exp.yaml --set model=llama-3.1-8b"),
    "reproduce": ("helixsim reproduce list", "helixsim reproduce fig8 --quick", "helixsim reproduce fidelity"),
    "reproduce list": ("helixsim reproduce list --json",),
    "reproduce fidelity": ("helixsim reproduce fidelity",),
    "sweep": (
        "helixsim sweep experiments/whatif/link-speed.yaml",
        "helixsim sweep sweep.yaml --jobs 4 --resume",
    ),
    "capacity": (
        "helixsim capacity experiments/quickstart.yaml",
        "helixsim capacity exp.yaml --seeds 5",
    ),
    "fleet": (
        "helixsim fleet experiments/whatif/cheapest-fleet.yaml",
        "helixsim fleet plan.yaml --budget '12 $/h'",
    ),
    "compare": (
        "helixsim compare runs/exp/HASH runs/exp/OTHER",
        "helixsim compare exp.yaml measured.json --replay",
        "helixsim compare exp.yaml results/*.json --replay --calibrate fitted.yaml",
    ),
    "report": ("helixsim report runs/quickstart/HASH",),
    "trace": ("helixsim trace info traces/azure-2023.csv",),
    "trace info": ("helixsim trace info gateway.csv --column arrival=ts --where status=200",),
    "trace convert": ("helixsim trace convert log.jsonl out.csv --duration 600s --rate 2",),
    "trace generate": (
        "helixsim trace generate out.csv --lengths azure-conversation --process poisson --rate 2 --num-requests 500",
    ),
    "trace fit-lengths": ("helixsim trace fit-lengths log.csv lengths.json --origin 'own gateway' --licence internal",),
    "profile": ("helixsim profile list gpus", "helixsim profile show h100"),
    "profile list": ("helixsim profile list", "helixsim profile list models"),
    "profile show": ("helixsim profile show rtx-5090",),
    "profile roofline": ("helixsim profile roofline --gpu h100 --model llama-3-70b",),
    "profile measure": ("helixsim profile measure --gpu h100 --model qwen3-8b --out mine.yaml",),
    "profile fit": (
        "helixsim profile fit layers.csv --out mine.yaml",
        "helixsim profile fit steps.csv --model llama-3.1-8b --gpu h100 --out mine.yaml --engine-out mine-host.yaml",
    ),
    "inspect": ("helixsim inspect strategies", "helixsim inspect schema --markdown"),
    "inspect strategies": ("helixsim inspect strategies",),
    "inspect schema": ("helixsim inspect schema --markdown", "helixsim inspect schema --sweep"),
    "accuracy": ("helixsim accuracy --sample 50", "helixsim accuracy --html accuracy.html"),
    "completion": (
        'eval "$(helixsim completion bash)"                       # in ~/.bashrc',
        'eval "$(helixsim completion zsh)"                        # in ~/.zshrc, after compinit',
        "helixsim completion fish > ~/.config/fish/completions/helixsim.fish",
    ),
}
"""By the words after ``helixsim``; a figure of ``reproduce`` has its own."""


def parsers(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield (words after ``helixsim``, parser) of a parser and of all below it."""
    yield " ".join(path), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, own in action.choices.items():
                yield from parsers(own, (*path, name))


def add_examples(parser: argparse.ArgumentParser) -> None:
    """Show the examples in the help of every command."""
    for path, own in parsers(parser):
        lines = EXAMPLES.get(path) or (f"helixsim {path} --quick",)
        if own.formatter_class is argparse.HelpFormatter:
            own.formatter_class = argparse.RawDescriptionHelpFormatter
            paragraphs = (own.description or "").strip().split("\n\n")
            own.description = "\n\n".join(textwrap.fill(paragraph, width=100) for paragraph in paragraphs)
        examples = "\n".join(("examples:", *(f"  {line}" for line in lines)))
        own.epilog = f"{examples}\n\n{own.epilog}" if own.epilog else examples
