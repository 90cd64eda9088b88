"""Exports of a placement: what a target is told to start is what was placed (read back from the text)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from helixsim import load_experiment
from helixsim.cli import place
from helixsim.config.experiment import ResolvedExperiment
from helixsim.deploy import registry
from helixsim.errors import ConfigError
from helixsim.results.placement_json import placement_document
from helixsim.study.placing import place_system
from helixsim.study.systems import PlacedSystem

EXPERIMENT = """\
schema: 1
name: fleet
model: Qwen/Qwen3-32B
cluster:
  coordinator: {region: a}
  nodes:
    - {gpu: h100, count: 2, gpus: 2, region: a}
    - {gpu: l4, count: 8, region: a}
    - {gpu: l40s, count: 1, region: a}
    - {gpu: a100-40g, count: 1, region: a}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
    inter_region: {bandwidth: 1 Gbit/s, latency: 10 ms}
workload:
  lengths: azure-conversation
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 5 s
  duration: 20 s
engine: {name: vllm-1, gpu_memory_utilization: 0.85, max_num_seqs: 100, enable_prefix_caching: false}
systems:
  - {name: Separate_GPUs, placement: separate, routing: least_loaded}
  - name: mixed
    placement: {strategy: fixed, file: mixed.json}
    routing: least_loaded
  - {name: swarm, placement: swarm}
slo: {ttft: 5 s, tpot: 500 ms}
"""

MIXED = {
    "num_layers": 64,
    "layers": {"l40s-0": [0, 34], "a100-0": [34, 64], "h100x2-0": [0, 64]},
    "pipelines": {"l40s-0": 1, "a100-0": 1, "h100x2-0": 0},
}


@dataclass(frozen=True)
class Started:
    """A process that a target starts: on ``node`` (None: on any), the GPUs it uses and the layers of all stages."""

    node: str | None
    tensor_parallel_size: int
    rank: int
    partition: str
    options: frozenset[str]


def written(folder: Path) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    path.with_name("mixed.json").write_text(json.dumps(MIXED), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> ResolvedExperiment:
    return load_experiment(written(tmp_path_factory.mktemp("deploy")))


@pytest.fixture(scope="module")
def placed(experiment) -> dict[str, PlacedSystem]:
    return {system.name: place_system(experiment, system, by_flow=True) for system in experiment.systems}


def text(experiment: ResolvedExperiment, placed: dict[str, PlacedSystem], system: str, target: str) -> str:
    one = placed[system]
    return registry.text(target, experiment, one.system, one.placement, one.plan)


def started(node: str | None, arguments: list[str], variables: dict[str, str]) -> Started:
    options = dict(one.removeprefix("--").partition("=")[::2] for one in arguments if one.startswith("--"))
    joining = {"nnodes", "node-rank", "master-addr", "master-port", "headless"}
    return Started(
        node,
        int(options["tensor-parallel-size"]),
        int(options.get("node-rank", 0)),
        variables.get("VLLM_PP_LAYER_PARTITION", ""),
        frozenset(f"{name}={value}" for name, value in options.items() if name not in joining),
    )


def of_script(script: str) -> list[Started]:
    found = []
    for node, body in re.findall(r"^(\S+)\)  # .*?\n(.*?)\n  ;;", script, re.DOTALL | re.MULTILINE):
        words = shlex.split(body.replace("\\\n", " "))
        variables = dict(words[1].partition("=")[::2] for _ in range(words[0] == "export"))
        found.append(started(node, words[words.index("exec") :], variables))
    return found


def of_pods(manifests: str) -> list[Started]:
    found = []
    for document in yaml.safe_load_all(manifests):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            variables = {one["name"]: one["value"] for one in container["env"]}
            one = started(pod["nodeSelector"]["kubernetes.io/hostname"], container["args"], variables)
            assert container["resources"]["limits"] == {"nvidia.com/gpu": str(one.tensor_parallel_size)}
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
            assert labels["role"] == ("worker" if one.rank else "api")
            found.append(one)
    return found


READERS = {"vllm": of_script, "kubernetes": of_pods, "llm-d": of_pods}


def test_the_command_line_names_the_targets_of_the_registry():
    assert registry.names() == place.TARGETS


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize("system", ["Separate_GPUs", "mixed"])
def test_every_placed_node_is_started_with_its_layers_and_gpus(experiment, placed, system, target):
    one = placed[system]
    processes = READERS[target](text(experiment, placed, system, target))
    assert sorted(process.node for process in processes) == sorted(one.placement.ranges)
    for process in processes:
        held = one.placement.ranges[process.node]
        layers = [int(part) for part in process.partition.split(",")] if process.partition else [64]
        assert sum(layers) == 64
        assert (sum(layers[: process.rank]), layers[process.rank]) == (held.start, held.layers)
        assert process.tensor_parallel_size == one.system.fleet.cluster.node(process.node).gpus
        assert {"gpu-memory-utilization=0.85", "max-num-seqs=100", "no-enable-prefix-caching="} <= process.options


def test_all_targets_start_the_same_servers(experiment, placed):
    script = of_script(text(experiment, placed, "mixed", "vllm"))
    assert set(script) == set(of_pods(text(experiment, placed, "mixed", "kubernetes")))


def test_the_script_is_one_that_a_shell_accepts_and_refuses_unused_nodes(experiment, placed, tmp_path):
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("needs sh")
    path = tmp_path / "serve.sh"
    path.write_text(text(experiment, placed, "mixed", "vllm"), encoding="utf-8")
    assert subprocess.run([shell, "-n", path], check=False).returncode == 0
    unused = subprocess.run([shell, path, "l4-0"], capture_output=True, text=True, check=False)
    assert (unused.returncode, unused.stderr) == (2, "node l4-0 is not used by this placement\n")


def test_the_first_machine_of_a_pipeline_is_found_by_its_service(experiment, placed):
    documents = list(yaml.safe_load_all(text(experiment, placed, "mixed", "kubernetes")))
    services = {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "Service"}
    pods = [one["spec"]["template"] for one in documents if one["kind"] == "Deployment"]
    for pod in pods:
        for argument in pod["spec"]["containers"][0]["args"]:
            if argument.startswith("--master-addr="):
                selector = services[argument.partition("=")[2]]["selector"]
                assert selector == {"server": pod["metadata"]["labels"]["server"], "rank": "0"}
    served = [pod for pod in pods if services["mixed"]["selector"].items() <= pod["metadata"]["labels"].items()]
    assert len(served) == 2  # a machine of each server listens


def test_llmd_pools_the_machines_that_listen_and_routes_to_the_pool(experiment, placed):
    documents = list(yaml.safe_load_all(text(experiment, placed, "Separate_GPUs", "llm-d")))
    (pool,) = (one for one in documents if one["kind"] == "InferencePool")
    (route,) = (one for one in documents if one["kind"] == "HTTPRoute")
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in documents if one["kind"] == "Deployment"]
    chosen = [pod for pod in pods if pool["spec"]["selector"]["matchLabels"].items() <= pod.items()]
    assert len(chosen) == len(placed["Separate_GPUs"].plan.replicas)
    assert route["spec"]["rules"][0]["backendRefs"][0]["name"] == pool["metadata"]["name"] == "separate-gpus"


@pytest.mark.parametrize("target", ["ray", "dynamo"])
def test_machines_of_one_type_share_a_template(experiment, placed, target):
    document = yaml.safe_load(text(experiment, placed, "Separate_GPUs", target))
    found = {}
    if target == "ray":
        for application in document["applications"]:
            (llm,) = application["args"]["llm_configs"]
            kwargs, bundles = llm["engine_kwargs"], llm["placement_group_config"]["bundles"]
            assert kwargs["enable_prefix_caching"] is False
            layers = llm.get("runtime_env", {}).get("env_vars", {}).get("VLLM_PP_LAYER_PARTITION", "64")
            (kind,) = {next(key for key in bundle if key not in {"GPU", "CPU"}) for bundle in bundles}
            assert len(bundles) == kwargs.get("pipeline_parallel_size", 1)
            assert {bundle["GPU"] for bundle in bundles} == {kwargs["tensor_parallel_size"]}
            found[kind] = layers
    else:
        for component in document["spec"]["components"][1:]:
            pod = component["podTemplate"]["spec"]
            (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
                "nodeSelectorTerms"
            ]
            (rule,) = term["matchExpressions"]
            assert component.get("multinode", {"nodeCount": 1})["nodeCount"] == len(rule["values"])
            (container,) = pod["containers"]
            layers = {one["name"]: one["value"] for one in container["env"]}.get("VLLM_PP_LAYER_PARTITION", "64")
            found[rule["values"][0].rpartition("-")[0]] = layers
    one = placed["Separate_GPUs"]
    expected: dict[str, list[tuple[int, int]]] = {}
    for node, held in one.placement.ranges.items():
        expected.setdefault(node.rpartition("-")[0], []).append((held.start, held.layers))
    assert found == {kind: ",".join(str(layers) for _, layers in sorted(ranges)) for kind, ranges in expected.items()}


@pytest.mark.parametrize(
    ("system", "target", "message"),
    [
        ("swarm", "vllm", "swarm: requests take several ways through"),
        ("mixed", "ray", "mixed-0 is a pipeline of l40s, a100-40g: ray does not assign"),
        ("mixed", "dynamo", "dynamo does not assign the stages"),
        ("mixed", "vlm", "unknown export target 'vlm'; did you mean 'vllm'?"),
    ],
)
def test_a_placement_that_a_target_cannot_serve_is_refused_with_the_reason(experiment, placed, system, target, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        text(experiment, placed, system, target)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("engine.name=sglang", "the experiment simulates the engine 'sglang'"),
    ],
)
def test_other_engines_are_refused(placed, tmp_path, edit, message):
    one, other = placed["Separate_GPUs"], load_experiment(written(tmp_path), [edit])
    with pytest.raises(ConfigError, match=message):
        registry.text("vllm", other, one.system, one.placement, one.plan)


def test_a_model_without_a_known_id_needs_one(experiment, placed):
    one, model = placed["Separate_GPUs"], replace(experiment.fleet.model, name="my-model")
    own = replace(experiment, fleet=replace(experiment.fleet, model=model))
    given = (one.system, one.placement, one.plan)
    with pytest.raises(ConfigError, match="no Hugging Face id is known for the model 'my-model': state it by --model-"):
        registry.text("vllm", own, *given)
    assert "MODEL='my model'\n" in registry.text("vllm", own, *given, model_id="my model")


def test_a_key_value_cache_below_the_context_limits_the_length_of_requests(experiment, placed):
    one = placed["mixed"]
    document = placement_document(one.placement, one.plan, one.system.fleet)
    kv_tokens = {node["node"]: node["kv_tokens"] for node in document["nodes"]}
    context = one.system.fleet.model.max_context_tokens
    for process in of_script(text(experiment, placed, "mixed", "vllm")):
        limits = [int(option.partition("=")[2]) for option in process.options if option.startswith("max-model-len=")]
        own = min(kv_tokens["l40s-0"], kv_tokens["a100-0"]) if process.partition else kv_tokens[process.node]
        assert limits == ([own] if own < context else [])
    assert min(kv_tokens["l40s-0"], kv_tokens["a100-0"]) < context <= kv_tokens["h100x2-0"]


def test_instances_of_a_gpu_are_asked_for_by_their_profile(tmp_path):
    """Each machine has several, so that none is bound to a host by name, and servers have ports of their own."""
    data = {
        "schema": 1, "name": "instances", "model": "llama-3.1-8b", "precision": "fp8", "engine": "vllm-1",
        "cluster": {
            "nodes": [{"gpu": "h100-3g.40gb", "count": 2}, {"gpu": "l40s"}],
            "network": {"intra_region": {"bandwidth": "100 Gbit/s", "latency": "20 us"}},
        },
        "workload": {"lengths": "azure-code", "arrivals": {"process": "poisson", "rate": 1}, "duration": "20 s"},
        "systems": [{"placement": "replicas"}],
    }  # fmt: skip
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    experiment = load_experiment(tmp_path / "exp.yaml")
    placed = {one.name: place_system(experiment, one, by_flow=True) for one in experiment.systems}
    wanted = [({"nvidia.com/gpu": "1"}, True), *[({"nvidia.com/mig-3g.40gb": "1"}, False)] * 2]

    manifests = yaml.safe_load_all(text(experiment, placed, "replicas", "kubernetes"))
    pods = [one["spec"]["template"]["spec"] for one in manifests if one["kind"] == "Deployment"]
    bound = [(pod["containers"][0]["resources"]["limits"], "nodeSelector" in pod) for pod in pods]
    assert sorted(bound, key=str) == wanted

    graph = yaml.safe_load(text(experiment, placed, "replicas", "dynamo"))
    pods = [one["podTemplate"]["spec"] for one in graph["spec"]["components"] if one["type"] == "worker"]
    bound = [(pod["containers"][0]["resources"]["limits"], "affinity" in pod) for pod in pods]
    assert sorted(bound, key=str) == wanted

    script = text(experiment, placed, "replicas", "vllm")
    started_with = dict(re.findall(r"^(\S+)\)  # .*?\n(.*?)\n  ;;", script, re.DOTALL | re.MULTILINE))
    instances = [started_with[f"h100-3g.40gb-{number}"] for number in range(2)]
    assert all(': "${CUDA_VISIBLE_DEVICES:?' in body for body in instances)
    ports = [re.findall(r"--port=(\d+)", body) for body in started_with.values()]
    assert sorted(ports) == [[], ["8001"], ["8002"]]
    assert "CUDA_VISIBLE_DEVICES" not in started_with["l40s-0"]
    assert "CUDA_VISIBLE_DEVICES=MIG-UUID ray start" in text(experiment, placed, "replicas", "ray")
