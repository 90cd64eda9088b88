"""Constants of a GPU and an engine from measured steps: what rows tell is found, what they do not is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.errors import DataError
from helixsim.hardware import catalog, engines
from helixsim.hardware.fit_steps import MOST_ROWS, FittedTerm, StepFit, fit_steps, spread
from helixsim.hardware.roofline import roofline
from helixsim.hardware.step_rows import StepRow, decoding, prompts

MODEL, GPU = catalog.load_model("llama-3.1-8b"), catalog.load_gpu("h100")
ENGINE = engines.load_engine("vllm-1").spec

PREFILL = [prompts(tokens, seqs) for tokens in (64, 512, 4096, 16_384, 65_536) for seqs in (1, 2)]
DECODE = [decoding(seqs, context) for seqs in (1, 4, 16, 64, 128, 256) for context in (200, 2000, 8000)]


def slower(gpu: GpuSpec) -> GpuSpec:
    """Return a GPU with other constants than its profile."""
    kernels = gpu.kernels
    changed = replace(
        kernels,
        fp16=replace(kernels.fp16, compute_efficiency=0.6, bandwidth_efficiency=0.65),
        attention=replace(kernels.attention, compute_efficiency=0.5, kv_bandwidth_efficiency=0.6),
    )
    return replace(gpu, kernels=changed)


TRUE_ENGINE = replace(ENGINE, batch_overhead_ns=700_000, sequence_overhead_ns=60_000)
TRUTH = {
    "fp16.compute_efficiency": 0.6,
    "fp16.bandwidth_efficiency": 0.65,
    "attention.compute_efficiency": 0.5,
    "attention.kv_bandwidth_efficiency": 0.6,
    "batch_overhead": 0.7e-3,
    "sequence_overhead": 60e-6,
}


def measured(shapes: list[BatchShape], noise: float = 0.02) -> list[StepRow]:
    """Return rows of the slower GPU and the slower engine."""
    law = StepTime(roofline(MODEL, slower(GPU)), TRUE_ENGINE, LayerRange(0, 32), 32)
    factors = np.exp(noise * np.random.default_rng(7).standard_normal(len(shapes)))
    return [
        StepRow("prefill" if shape.prefill_tokens else "decode", ((1, shape),), law.ns(shape) / 1e9 * factor)
        for shape, factor in zip(shapes, factors, strict=True)
    ]


def by_name(fit: StepFit) -> dict[str, FittedTerm]:
    return {term.name: term for term in fit.terms}


def test_rows_of_both_phases_tell_all_constants() -> None:
    fit = fit_steps(measured(PREFILL + DECODE), MODEL, GPU, 1, ENGINE)
    for name, value in TRUTH.items():
        term = by_name(fit)[name]
        # every decode step of one model reads its weights and has the host's constant: only their sum is certain
        is_certain = name not in ("fp16.bandwidth_efficiency", "batch_overhead")
        assert term.said_by_rows > (0.9 if is_certain else 0.1), name
        assert term.after == pytest.approx(value, rel=0.1 if is_certain else 0.4), name
    assert by_name(fit)["elementwise"].said_by_rows < 0.3  # for one model, a constant of layers is one of steps
    assert fit.improves
    assert all(errors.median > 0.1 for errors in fit.before)
    assert all(errors.median < 0.03 for errors in (*fit.after, *fit.left_out))
    assert fit.gpu.kernels.fp16.compute_efficiency == by_name(fit)["fp16.compute_efficiency"].after
    assert fit.engine.sequence_overhead_ns == round(by_name(fit)["sequence_overhead"].after * 1e9)


def test_what_rows_do_not_tell_stays() -> None:
    terms = by_name(fit_steps(measured(DECODE), MODEL, GPU, 1, ENGINE))
    for name in ("fp16.compute_efficiency", "attention.compute_efficiency"):
        assert terms[name].said_by_rows < 0.5
    assert terms["attention.compute_efficiency"].after == terms["attention.compute_efficiency"].before
    assert terms["attention.kv_bandwidth_efficiency"].after == pytest.approx(0.6, rel=0.1)


def test_rows_of_the_profile_itself_change_nothing() -> None:
    law = StepTime(roofline(MODEL, GPU), ENGINE, LayerRange(0, 32), 32)
    rows = [StepRow("decode", ((1, shape),), law.ns(shape) / 1e9) for shape in DECODE]
    fit = fit_steps(rows, MODEL, GPU, 1, ENGINE)
    assert not fit.improves
    assert all(term.after == pytest.approx(term.before, rel=1e-6) for term in fit.terms)


def test_a_row_far_off_is_weighted_down() -> None:
    rows = measured(PREFILL + DECODE)
    plain = by_name(fit_steps(rows, MODEL, GPU, 1, ENGINE))
    rows[12] = replace(rows[12], seconds=5 * rows[12].seconds)
    spoilt = by_name(fit_steps(rows, MODEL, GPU, 1, ENGINE))
    for name in TRUTH:
        assert spoilt[name].after == pytest.approx(plain[name].after, rel=0.1)


def test_formats_and_experts_have_constants_of_their_own() -> None:
    def names(model: str, gpu: str, precision: str | None = None) -> set[str]:
        spec = catalog.load_model(model, precision)
        law = StepTime(roofline(spec, catalog.load_gpu(gpu)), ENGINE, LayerRange(0, spec.num_layers), spec.num_layers)
        rows = [StepRow("decode", ((1, shape),), law.ns(shape) / 1e9) for shape in DECODE[:4]]
        return {term.name.partition(".")[0] for term in fit_steps(rows, spec, catalog.load_gpu(gpu), 1, ENGINE).terms}

    assert "fp8" in names("llama-3.1-8b", "h100", "fp8")
    assert "fp8" not in names("llama-3.1-8b", "a100-80g", "fp8")  # multiplied in 16 bits there
    assert "fp4" in names("llama-3.1-8b", "b200", "nvfp4")
    assert "experts" in names("mixtral-8x7b", "h100")


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match="at least 4 measured steps, got 3"):
        fit_steps(measured(DECODE[:3]), MODEL, GPU, 1, ENGINE)
    assert not fit_steps(measured(DECODE[:6]), MODEL, GPU, 1, ENGINE).left_out


def test_of_many_rows_some_are_fitted_from_the_first_to_the_last() -> None:
    rows = [StepRow("decode", ((1, DECODE[0]),), 1.0 + index) for index in range(10 * MOST_ROWS)]
    some = [row.seconds for row in spread(rows)]
    assert len(some) == len(set(some)) == MOST_ROWS
    assert (some[0], some[-1]) == (rows[0].seconds, rows[-1].seconds)
    assert spread(rows[:MOST_ROWS]) == rows[:MOST_ROWS]


def test_rows_are_judged_by_fits_without_them() -> None:
    law = StepTime(roofline(MODEL, GPU), ENGINE, LayerRange(0, 32), 32)
    rows = [StepRow("decode", ((1, shape),), law.ns(shape) / 1e9) for shape in DECODE]
    long = prompts(16_384, 1)
    rows.append(StepRow("prefill", ((1, long),), 1.5 * law.ns(long) / 1e9))
    fit = fit_steps(rows, MODEL, GPU, 1, ENGINE)
    after, left_out = (next(one for one in part if one.label == "prefill") for part in (fit.after, fit.left_out))
    assert after.median < 0.05
    assert left_out.median == pytest.approx(1 / 3, abs=0.02)
