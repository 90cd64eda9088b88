"""``helixsim profile fit`` of times of steps and of logs of vLLM: constants of a GPU and host times of an engine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from helixsim import yamlio
from helixsim.cli import console
from helixsim.cli.profile_actions import aligned
from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.errors import ConfigError, DataError, ExitCode
from helixsim.hardware import catalog, engines, fit_files, fit_steps, step_rows, vllm_log
from helixsim.hardware.engines import EngineProfile
from helixsim.hardware.fit_memory import MemoryFit, fit_reserved
from helixsim.hardware.fit_steps import Errors, FittedTerm, StepFit
from helixsim.hardware.mig import is_instance, require_alone
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.hardware.step_rows import StepRow
from helixsim.units import format_bytes
from helixsim.writing import write_text

DEFAULT_ENGINE = "vllm-1"

MUCH_RESERVED = 0.15
"""Share of a GPU's memory from which reserved memory is more than engines take."""


@dataclass(frozen=True, slots=True)
class _Base:
    """The profiles a fit starts from."""

    model: ModelSpec
    gpu: GpuSpec
    gpus: int
    engine: EngineProfile


def run_table(args: argparse.Namespace) -> int:
    """Fit a table of steps."""
    unused = [name for name in ("max_num_batched_tokens", "max_num_seqs", "memory_fraction") if getattr(args, name)]
    if unused:
        raise ConfigError(f"--{unused[0].replace('_', '-')} has no effect on times of steps")
    base = _base(args, args.gpus or 1)
    rows = step_rows.read_steps(args.measurements)
    return _finish(args, base, rows, None, {})


def run_log(args: argparse.Namespace) -> int:
    """Fit a log of vLLM: memory from the size of the KV cache, times from busy windows."""
    log = vllm_log.read_log(args.measurements)
    stated = log.arguments.get("tensor_parallel_size")
    if stated is not None and args.gpus not in (None, stated):
        raise DataError(f"{log.path}: tensor_parallel_size is {stated:g} there, --gpus {args.gpus}")
    base = _base(args, args.gpus or round(stated or 1))
    options = _options(args, log, base.engine)
    memory = None
    if log.kv_tokens is not None:
        memory = fit_reserved(base.model, base.gpu, base.gpus, options, log.kv_tokens)
        gpu = replace(base.gpu, reserved_bytes=memory.reserved_bytes)
        base = replace(base, gpu=gpu)
    node, _ = node_profile(base.model, base.gpu, base.gpus, options)
    layers = base.model.num_layers
    if len(node.kv_blocks) < layers:
        raise DataError(f"{log.path}: {base.model.name} does not fit into {node.kind}: not the node of this log")
    kv_tokens = log.kv_tokens or node.kv_tokens(layers, layers)
    rows, left_out = vllm_log.steps_of(log, kv_tokens, node.limits[layers - 1].max_prefill_tokens)
    return _finish(args, base, rows, memory, left_out)


def _base(args: argparse.Namespace, gpus: int) -> _Base:
    missing = [f"--{name}" for name in ("model", "gpu") if getattr(args, name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} needed: whose steps {args.measurements.name} holds")
    gpu = catalog.load_gpu(args.gpu)
    require_alone(gpu.name, gpus, "--gpus")
    if is_instance(args.gpu) and args.out is not None:
        raise ConfigError(
            f"--out: {gpu.name} is a MIG instance, which has no file to start from: give --gpu the path of a file with "
            "the figures of the instance, or fit host times alone (--engine-out)"
        )
    return _Base(
        catalog.load_model(args.model, args.precision),
        gpu,
        gpus,
        engines.load_engine(args.engine or DEFAULT_ENGINE),
    )


def _options(args: argparse.Namespace, log: vllm_log.VllmLog, engine: EngineProfile) -> ProfileOptions:
    """Return the settings of the engine that wrote the log: options, else what it states, else the engine's."""
    said = log.arguments
    tokens = args.max_num_batched_tokens or said.get("max_num_batched_tokens")
    seqs = args.max_num_seqs or said.get("max_num_seqs")
    return ProfileOptions(
        memory_fraction=(args.memory_fraction or said.get("gpu_memory_utilization") or engine.gpu_memory_utilization),
        block_tokens=round(said.get("block_size", engine.block_tokens)),
        max_prefill_tokens=None if tokens is None else round(tokens),
        max_decode_seqs=None if seqs is None else round(seqs),
        steps=engine.steps,
        holds_ends=engine.spec.has_output_head,
    )


def _finish(
    args: argparse.Namespace,
    base: _Base,
    rows: Sequence[StepRow],
    memory: MemoryFit | None,
    left_out: Mapping[str, int],
) -> int:
    """Fit the rows, write the files, and print."""
    for path in (args.out, args.engine_out):
        if path is not None and path.exists() and not args.force:
            raise ConfigError(f"{path} exists; --force replaces it")
    all_rows, rows = rows, fit_steps.spread(rows)
    fit = None
    if memory is None or len(rows) >= fit_steps.LEAST_ROWS:
        with console.progress("fit", quiet=args.quiet) as advance:
            try:
                fit = fit_steps.fit_steps(rows, base.model, base.gpu, base.gpus, base.engine.spec, advance)
            except DataError as error:
                raise DataError(f"{args.measurements}: {error}{_reasons(left_out)}") from error
    if args.engine_out is not None and fit is None:
        raise DataError(f"{args.measurements}: no host times for --engine-out: {len(rows)} windows of steps"
                        f"{_reasons(left_out)}")  # fmt: skip
    _write(args, base, fit, memory)
    if args.json:
        print(json.dumps(_document(fit, memory, len(all_rows), left_out), indent=2))
    else:
        if len(rows) < len(all_rows):
            print(f"{len(rows)} of {len(all_rows)} rows are fitted, evenly spread\n")
        print("\n\n".join(_texts(args, base.gpu, fit, memory, len(rows), left_out)))
    return ExitCode.OK


def _write(args: argparse.Namespace, base: _Base, fit: StepFit | None, memory: MemoryFit | None) -> None:
    terms = fit.terms if fit is not None and fit.improves else ()
    source = args.source or f"fitted to {args.measurements.name}: {base.model.name} on {base.gpus} x {base.gpu.name}"
    if args.out is not None and (terms or memory is not None):
        reserved = None if memory is None else memory.reserved_bytes
        made = fit_files.fitted_gpu(catalog.gpu_document(args.gpu), terms, reserved, source)
        _write_file(args.out, made)
    if args.engine_out is not None and terms:
        made_engine = fit_files.fitted_engine(base.engine, args.engine_out.stem, terms, source)
        _write_file(args.engine_out, engines.document(made_engine))


def _write_file(path: Path, content: Mapping[str, Any]) -> None:
    try:
        write_text(path, yamlio.dump(dict(content)), devices=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _document(
    fit: StepFit | None, memory: MemoryFit | None, measured: int, left_out: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "memory": None if memory is None else asdict(memory),
        "improves": fit is not None and fit.improves,
        "terms": [] if fit is None else [asdict(term) for term in fit.terms],
        "errors": {
            name: [] if fit is None else [asdict(errors) for errors in getattr(fit, name)]
            for name in ("before", "after", "left_out")
        },
        "rows": {"measured": measured, "fitted": 0 if fit is None else sum(errors.rows for errors in fit.after)},
        "windows_left_out": dict(left_out),
    }


def _texts(
    args: argparse.Namespace,
    gpu: GpuSpec,
    fit: StepFit | None,
    memory: MemoryFit | None,
    rows: int,
    left_out: Mapping[str, int],
) -> list[str]:
    texts = []
    if memory is not None:
        before, after = (tokens / memory.logged_tokens - 1 for tokens in (memory.tokens_before, memory.tokens_after))
        texts.append(
            f"KV cache: {memory.logged_tokens} tokens logged, {memory.tokens_before} of the profile ({before:+.1%}), "
            f"{memory.tokens_after} fitted ({after:+.1%})\n"
            f"reserved_memory: {format_bytes(memory.reserved_bytes)} of each GPU" + _memory_warning(memory, gpu)
        )
    if fit is None:
        texts.append(f"{rows} windows of steps: too few for a fit of step times{_reasons(left_out)}")
    else:
        texts += [aligned(*_term_table(fit.terms)), aligned(*_error_table(fit))]
        if left_out:
            texts[-1] += f"\n{rows} windows{_reasons(left_out)}"
        if not fit.improves:
            texts[-1] += "\nno better than the profiles: the constants above are written to no file"
        if not fit.left_out:
            texts[-1] += f"\ntoo few rows to leave some out of the fit ({2 * fit_steps.FOLDS} needed)"
    if args.out is None:
        texts.append("nothing is written without --out (GPU) and --engine-out (host times)")
    elif fit is not None and fit.improves and args.engine_out is None:
        texts.append("the host times above are in no file without --engine-out")
    return texts


def _memory_warning(memory: MemoryFit, gpu: GpuSpec) -> str:
    if memory.at_zero:
        return "; the log has room for more, so activations are smaller than estimated"
    if memory.reserved_bytes > MUCH_RESERVED * gpu.memory_bytes:
        return f", much of its {format_bytes(gpu.memory_bytes)}: another GPU, model or setting than the log's?"
    return ""


def _reasons(left_out: Mapping[str, int]) -> str:
    if not left_out:
        return ""
    return "; left out: " + ", ".join(f"{count} ({reason})" for reason, count in left_out.items())


def _term_table(terms: Sequence[FittedTerm]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for term in terms:
        before, after = (_value(term, value) for value in (term.before, term.after))
        rows.append((term.name, before, after, f"{term.said_by_rows:.0%}"))
    return ("constant", "profile", "fitted", "uncertainty removed"), rows


def _value(term: FittedTerm, value: float) -> str:
    if term.is_host:
        return f"{value * 1e3:.3f} ms"
    if value == 1.0 and term.after == value != term.before:
        return "1.000, its bound"
    return f"{value:.3f}" if "." in term.name else f"{value * 1e6:.1f} us"


def _error_table(fit: StepFit) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("rows", "number", "error of", "median", "90 %", "bias")
    rows: list[tuple[str, ...]] = []
    for said, errors in (("profile", fit.before), ("fit", fit.after), ("fit, rows left out", fit.left_out)):
        rows += [_error_row(said, one) for one in errors]
    return header, rows


def _error_row(said: str, errors: Errors) -> tuple[str, ...]:
    return (
        errors.label, str(errors.rows), said, f"{errors.median:.1%}", f"{errors.p90:.1%}", f"{errors.bias:+.1%}"
    )  # fmt: skip
