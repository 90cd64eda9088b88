"""What a transfer sends: by layer kind, KV format and GPUs of the receiver; how long it takes: as Mooncake measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.disaggregation import KvSizes, KvTransfer
from helixsim.domain.placement import LayerRange
from helixsim.engine.kernel import Kernel, Priority
from helixsim.engine.kv_network import KvChannel, KvMessage
from helixsim.hardware import catalog

MOONCAKE_MS = {
    128: 0.54, 256: 0.61, 512: 0.92, 1024: 1.50, 2048: 2.51, 4096: 4.75, 8192: 8.84, 16384: 16.43, 32768: 31.65,
}  # fmt: skip
"""Prompt tokens of Qwen3-8B -> time of its transfer between two nodes of eight 200 Gbit/s NICs [ms]."""


def all_layers(model):
    return LayerRange(0, model.num_layers)


@pytest.mark.parametrize("tokens", MOONCAKE_MS)
def test_transfers_take_what_mooncake_measured(tokens):
    model = catalog.load_model("qwen3-8b")
    size = KvSizes(model).of(all_layers(model), 0, tokens, tokens, 1)
    assert size == tokens * 36 * 2 * 8 * 128 * 2
    kernel, arrived = Kernel(), []
    channel = KvChannel(kernel, ("p", "d"), LinkSpec(8 * 200e9, 0), KvTransfer(), (None, None))
    channel.send(KvMessage(size, tokens, lambda _: arrived.append(kernel.now_ns)))
    kernel.run()
    assert arrived[0] / 1e6 == pytest.approx(MOONCAKE_MS[tokens], rel=0.07)


def test_eight_bits_are_half_of_sixteen():
    sizes = [
        KvSizes(catalog.load_model("qwen3-8b", None, kv)).of(LayerRange(3, 5), 10, 20, 100, 1) for kv in ("fp16", "fp8")
    ]
    assert sizes == [10 * 2 * 2 * 8 * 128 * 2, 10 * 2 * 2 * 8 * 128]


def test_each_gpu_of_the_receiver_gets_its_heads_and_copies_of_what_cannot_be_split():
    grouped = catalog.load_model("qwen3-8b")  # 8 heads of keys and values
    one, eight, sixteen = (KvSizes(grouped).of(LayerRange(0, 1), 0, 64, 64, gpus) for gpus in (1, 8, 16))
    assert (eight, sixteen) == (one, 2 * one)
    latent = catalog.load_model("deepseek-v3")
    assert KvSizes(latent).of(LayerRange(0, 1), 0, 64, 64, 1) == 64 * (512 + 64) * 2
    assert KvSizes(latent).of(LayerRange(0, 1), 0, 64, 64, 8) == 8 * 64 * (512 + 64) * 2


def test_windows_send_the_end_of_the_prompt():
    model = catalog.load_model("gpt-oss-20b")
    windowed = next(n for n, layer in enumerate(model.layers) if layer.attention.window_tokens)
    attention = model.layers[windowed].attention
    window, each = attention.window_tokens, attention.kv_numbers * model.kv_bits / 8
    held = LayerRange(windowed, windowed + 1)
    assert KvSizes(model).of(held, 0, 5000, 5000, 1) == window * each
    assert KvSizes(model).of(held, 0, window // 2, window // 2, 1) == window // 2 * each
    assert KvSizes(model).of(held, 0, 4000, 5000, 1) == 0
    assert KvSizes(model).of(held, 4000, 5000, 5000, 1) == window * each


@pytest.mark.parametrize("name", ["qwen3-8b", "gpt-oss-20b", "deepseek-v3"])
def test_chunks_send_what_the_whole_prompt_does(name):
    model = catalog.load_model(name)
    edges = [0, 700, 1500, 2048, 3001]
    parts = [
        KvSizes(model).of(LayerRange(layer, layer + 1), first, last, 3001, 2)
        for first, last in pairwise(edges)
        for layer in range(model.num_layers)
    ]
    assert sum(parts) == KvSizes(model).of(all_layers(model), 0, 3001, 3001, 2)


def test_states_of_fixed_size_come_with_the_last_token():
    model = catalog.load_model("qwen3-8b")
    state = replace(model.layers[0].attention, kind="linear", kv_numbers=0, state_bytes=12_345)
    model = replace(model, layers=(replace(model.layers[0], attention=state),))
    assert [KvSizes(model).of(LayerRange(0, 1), 0, last, 10, 1) for last in (9, 10)] == [0, 12_345]


steps = st.lists(
    st.tuples(
        st.integers(0, 50),  # between the step before and this one
        st.integers(1, 60),  # its duration
        st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=1, max_size=3),  # bytes: prompt, layer
    ),
    min_size=1,
    max_size=4,
)


def sent_by_steps(found_steps, asked_at, *, is_booked):
    """What a channel tells at some times, and when the last layer of each prompt of each step arrives."""
    kernel, told, arrived = Kernel(), [], []
    channel = KvChannel(kernel, ("p", "d"), LinkSpec(8e9, 7), KvTransfer(efficiency=1.0, latency_ns=3), (None, None))

    def start(event):
        duration, prompts, number = event.argument
        for prompt, sizes in enumerate(prompts):
            ready = [round(duration * (layer + 1) / len(sizes)) for layer in range(len(sizes))]
            name = (number, prompt)
            if is_booked:
                orders = [channel.book(kernel.now_ns + at, size) for at, size in zip(ready, sizes, strict=True)]
                message = KvMessage(sum(sizes), 1, lambda _, name=name: arrived.append((name, kernel.now_ns)))
                last = (orders[-1], message)
                kernel.call_in(ready[-1], Priority.FINISH, lambda call: channel.send_booked(*call.argument), last)
                continue
            for layer, (at, size) in enumerate(zip(ready, sizes, strict=True)):
                is_last = layer == len(sizes) - 1
                arrive = (lambda _, name=name: arrived.append((name, kernel.now_ns))) if is_last else (lambda _: None)
                message = KvMessage(size, 1, arrive)
                kernel.call_in(at, Priority.FINISH, lambda call: channel.send(call.argument), message)

    def ask(_):
        now = kernel.now_ns
        told.append((channel.idle_ns(5, now), channel.busy_until(now), channel.bytes_until(now), channel.messages))

    at = 0
    for number, (gap, duration, prompts) in enumerate(found_steps):
        kernel.call_in(at + gap, Priority.DISPATCH, start, (duration, prompts, number))
        at += gap + duration
    for when in asked_at:
        kernel.call_in(when, Priority.COORDINATE, ask, None)
    kernel.run()
    channel.advance(kernel.now_ns)
    return (
        told,
        arrived,
        channel.queue_ns,
        channel.busy_ns,
        channel.bytes_sent,
        channel.bytes_received,
        channel.messages,
    )


@given(steps, st.lists(st.integers(0, 400), max_size=8))
def test_layers_that_are_booked_are_sent_as_if_each_were_an_event(found_steps, asked_at):
    booked, each = (sent_by_steps(found_steps, asked_at, is_booked=is_booked) for is_booked in (True, False))
    assert booked == each
