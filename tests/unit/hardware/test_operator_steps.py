"""Whole steps by the measured tables against the library's own models; skipped without the extra ``operators``."""

from dataclasses import replace

import pytest

pytest.importorskip("aiconfigurator_core")

from operator_steps import CASES, KINDS, errors, steps

from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.formats import WEIGHTS
from helixsim.hardware.kernels import Node
from helixsim.hardware.operator_library import SYSTEMS, open_tables
from helixsim.hardware.operator_tables import operator_times

SOME = ("llama-3.1-70b, 4 x h100", "gpt-oss-120b, 1 x b200")


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=() if case.name in SOME else pytest.mark.slow) for case in CASES]
)
def test_steps_are_within_two_percent_of_the_librarys(case):
    found = list(steps(case))
    for kind in KINDS:
        assert max(map(abs, errors(found, kind, "tables"))) < 0.02


def test_products_with_a_scale_for_each_block_are_taken_as_those_with_one():
    tables = open_tables("h100", "vllm")
    per_block, per_tensor = (
        tables.ns(tables.build.text([tables.build.product(4096, 4096, replace(WEIGHTS["fp8"], is_blocked=blocked))]), 8)
        for blocked in (True, False)
    )
    assert per_block == per_tensor


@pytest.mark.parametrize(("backend", "quick"), [("vllm", False), ("sglang", True), ("trtllm", True)])
def test_products_in_service_have_scales_as_engines_do(backend, quick):
    tables = open_tables("h200", backend)

    def ns(blocked, **options):
        form = replace(WEIGHTS["fp8"], is_blocked=blocked)
        return tables.ns(tables.build.text([tables.build.product(4096, 4096, form, **options)]), 8)

    assert ns(False, in_service=True) <= ns(False)  # scales of the checkpoint, not found at each product
    assert (ns(True, in_service=True) != ns(True)) == quick  # vLLM's of blocks are not those of its server


def test_experts_of_vllm_are_those_of_the_version_of_its_profile_where_there_are_any():
    assert open_tables("h200", "vllm").older().version == "0.19.0"
    assert open_tables("h200", "sglang").older() is None
    assert {one.backend for one in open_tables("h200", "vllm").siblings()} == {"sglang", "trtllm"}


def test_tables_are_there_for_the_gpus_they_are_said_to_be():
    for gpu in SYSTEMS:
        assert open_tables(gpu, "vllm").version


def test_what_the_library_lacks_is_told_without_paths_of_its_files():
    with pytest.raises(DataError, match="operator tables of vllm") as caught:
        operator_times(
            Node(catalog.load_gpu("h100")), catalog.load_model("llama-3.1-8b", "int8"), open_tables("h100", "vllm")
        )
    assert "site-packages" not in str(caught.value)
    assert len(str(caught.value)) < 500
