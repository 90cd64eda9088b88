"""``hardware.measure`` with tiny shapes on the CPU; skipped where PyTorch is absent."""

from __future__ import annotations

import argparse
import sys

import pytest
from builders import model

from helixsim.cli import profile
from helixsim.errors import ConfigError
from helixsim.hardware import compute_file, measure, measured


def test_without_pytorch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"helixsim\[profile\]"):
        measure.describe_machine("cuda")


def test_timings_become_a_table_that_the_fit_reads(tmp_path):
    rows = [measure.Timed("prefill", n, 0.1 * n, 0) for n in (1, 2, 4, 8, 16)]
    rows += [measure.Timed("decode", n, 1 + 0.1 * n, 64) for n in (1, 2, 4, 8, 16)]
    path = tmp_path / "t.csv"
    measure.write_csv(path, "llama-2-7b", "mine", rows)
    (table,) = measured.read_timings(path)
    assert (table.model, table.kind) == ("llama-2-7b", "mine")
    assert table.prefill[-1] == (16.0, 1.6)
    assert [batch for batch, _ in table.decode] == [1, 2, 4, 8, 16]


def test_a_layer_attends_to_its_whole_context():
    torch = pytest.importorskip("torch")
    tiny = model(activation_bytes_per_token=128)
    weights = measure._layers(torch, tiny, "cpu")[0]
    x = torch.randn(2, 1, tiny.hidden_size, dtype=torch.bfloat16)
    cache = torch.randn(2, 2, 4, 5, 16, dtype=torch.bfloat16)
    out = measure._forward(torch, tiny, weights, x, cache)
    assert out.shape == x.shape
    cache[:, :, :, 0] += 1
    assert not torch.equal(out, measure._forward(torch, tiny, weights, x, cache))


def test_prefill_is_causal():
    torch = pytest.importorskip("torch")
    tiny = model(activation_bytes_per_token=128)
    weights = measure._layers(torch, tiny, "cpu")[0]
    x = torch.randn(1, 6, tiny.hidden_size, dtype=torch.bfloat16)
    before = measure._forward(torch, tiny, weights, x, None)
    x[:, -1] += 1
    after = measure._forward(torch, tiny, weights, x, None)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_measuring_on_the_cpu_leaves_a_profile_that_loads(tmp_path):
    pytest.importorskip("torch")
    shape = tmp_path / "config.json"
    shape.write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,'
        ' "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 64,'
        ' "torch_dtype": "float16"}'
    )
    parser = argparse.ArgumentParser()
    profile.add_parser(parser.add_subparsers())
    out = tmp_path / "mine.yaml"
    line = ["profile", "measure", "--model", str(shape), "--gpu", "cpu", "--device", "cpu", "--out", str(out), "-q"]
    line += ["--prefill-tokens", "1,2,4,8", "--decode-seqs", "1,2,3,4", "--context", "8", "--repeats", "3"]
    args = parser.parse_args(line)
    assert args.func(args) == 0
    (fitted,) = compute_file.read(out)
    assert (fitted.kind, fitted.model) == ("cpu", str(shape))
    assert "PyTorch" in fitted.source
    with pytest.raises(ConfigError, match="--force"):
        args.func(args)
