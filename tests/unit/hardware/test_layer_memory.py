"""Memory of ranges of unlike layers: weights of what is held, windows and states of a usual sequence."""

import dataclasses

import pytest
from builders import fleet, placement_of

from helixsim.domain.memory import LayerMemory
from helixsim.domain.placement import LayerRange
from helixsim.errors import InfeasibleError
from helixsim.hardware import catalog
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile
from helixsim.placement.check import check


def profile_of(name, gpu="h200", gpus=8, **options):
    model = catalog.load_model(name)
    return model, node_profile(model, catalog.load_gpu(gpu), gpus, ProfileOptions(**options))[0]


def test_a_range_holds_the_weights_of_its_own_layers():
    """Of DeepSeek-R1, the first three layers are dense and weigh a twentieth of the others."""
    model, profile = profile_of("deepseek-r1")
    assert profile.memory is not None
    light, heavy = (profile.memory.weight_bytes[layer] for layer in (0, 3))
    each = profile.memory.block_tokens * 10 * profile.memory.kv_bytes[0]
    with_dense, without = (profile.blocks(LayerRange(start, start + 10), 61) for start in (0, 3))
    assert with_dense - without == pytest.approx(3 * (heavy - light) / each, abs=1)
    assert profile.kv_blocks[9] == without  # planners count on the heaviest range
    assert profile.most_kv_tokens(10) == 16 * with_dense
    assert model.num_layers == len(profile.kv_blocks)


def test_compressed_keys_and_values_are_kept_by_every_gpu():
    _, profile = profile_of("deepseek-r1")
    assert profile.memory is not None
    assert profile.memory.kv_bytes[0] == 8 * (512 + 64) * 2


@pytest.mark.parametrize(("tokens", "kept"), [(500, 500), (2000, 1024 + 16), (32_000, 1024 + 16)])
def test_layers_with_a_window_keep_no_more_of_a_sequence(tokens, kept):
    """Five of six layers of Gemma 3 keep 1024 tokens and a block."""
    _, profile = profile_of("gemma-3-27b", gpus=1, sequence_tokens=tokens)
    assert profile.memory is not None
    whole, window = profile.memory.kv_bytes[5], profile.memory.kv_bytes[0]
    assert window == pytest.approx(whole * kept / tokens)


def test_states_are_kept_once_a_sequence():
    model, profile = profile_of("qwen3-next-80b-a3b", gpus=1, sequence_tokens=1000)
    assert profile.memory is not None
    attention = model.layers[0].attention
    assert attention is not None
    assert attention.kind == "linear"
    assert profile.memory.kv_bytes[0] == attention.state_bytes / 1000


def test_equal_layers_that_keep_all_have_no_memory_of_their_own():
    assert profile_of("llama-3.1-70b")[1].memory is None


def test_embedding_and_head_lie_beside_the_layers_at_the_ends():
    model, profile = profile_of("gemma-3-27b", gpus=1, holds_ends=True)
    assert profile.memory is not None
    alike = LayerRange(6, 12), LayerRange(0, 6)
    middle, first = (profile.blocks(held, 62) for held in alike)
    each = 16 * sum(profile.memory.kv_bytes[:6])
    assert middle - first == pytest.approx(model.vocabulary_bytes / each, abs=1)


def test_a_placement_fits_by_the_layers_it_gives_each_node():
    """Two light layers fit beside one another, two heavy ones do not."""
    kind = profile_of("deepseek-r1")[1]
    memory = LayerMemory(100.0, (10.0, 10.0, 60.0, 60.0), (1.0,) * 4, 1)
    fewest, most = zip(*(memory.range_blocks(layers) for layers in (1, 2)), strict=True)
    assert (fewest, most) == ((40, 0), (90, 40))
    kind = dataclasses.replace(kind, kv_blocks=fewest, limits=kind.limits[:2], max_layers=1, memory=memory)
    nodes = fleet([kind] * 3, num_layers=4)
    a, b, c = (node.id for node in nodes.cluster.nodes)
    check(nodes, placement_of(nodes, {a: (0, 2), b: (2, 3), c: (3, 4)}))
    with pytest.raises(InfeasibleError, match=rf"'{c}' .* has layers \[2, 4\): beside their weights"):
        check(nodes, placement_of(nodes, {a: (0, 1), b: (1, 2), c: (2, 4)}))


def test_a_module_that_drafts_takes_the_memory_of_one_more_last_layer():
    for name in ("deepseek-r1", "llama-3.1-70b"):
        model, profile = profile_of(name, has_mtp=True)
        _, without = profile_of(name)
        last = LayerRange(model.num_layers - 1, model.num_layers)
        assert profile.memory is not None
        assert profile.memory.weight_bytes[-1] == 2 * profile.memory.weight_bytes[-2]
        assert profile.memory.kv_bytes[-1] == 2 * profile.memory.kv_bytes[-2]
        assert profile.blocks(last, model.num_layers) < 0.51 * without.blocks(last, model.num_layers)
        inner = LayerRange(4, 5)
        assert profile.blocks(inner, model.num_layers) == pytest.approx(without.blocks(inner, model.num_layers), abs=1)
