"""Exports of a placement whose nodes have roles: read back, they are the servers of both phases and their rules."""

from __future__ import annotations

import json

import pytest
import yaml

from helixsim import load_experiment
from helixsim.deploy import registry
from helixsim.errors import ConfigError
from helixsim.study.placing import place_system

EXPERIMENT = """\
schema: 1
name: roles
model: Qwen/Qwen3-32B
cluster:
  nodes:
    - {gpu: h100, count: 2, gpus: 2, role: decode}
    - {gpu: l40s, count: 3, gpus: 4, role: prefill}
  network:
    intra_region: {bandwidth: 100 Gbit/s, latency: 0.1 ms}
workload:
  lengths: azure-conversation
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 5 s
  duration: 20 s
engine: {name: vllm-1, max_num_seqs: 100}
systems:
  - name: split
    placement: replicas
    routing: least_loaded
    disaggregation:
      prefill: {max_num_batched_tokens: 16384}
      decode: {max_num_seqs: 64, enable_prefix_caching: false}
"""


def exported(folder, target, text=EXPERIMENT):
    path = folder / "roles.yaml"
    path.write_text(text, encoding="utf-8")
    experiment = load_experiment(path)
    one = place_system(experiment, experiment.systems[0], by_flow=True)
    return registry.text(target, experiment, one.system, one.placement, one.plan), one


def options_of(arguments):
    return dict(one.removeprefix("--").partition("=")[::2] for one in arguments if one.startswith("--"))


def of_dynamo(text):
    """Machine -> role and options of the server that it starts."""
    found = {}
    for component in yaml.safe_load(text)["spec"]["components"][1:]:
        pod = component["podTemplate"]["spec"]
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (container,) = pod["containers"]
        arguments = container["args"]
        assert arguments[arguments.index("--disaggregation-mode") + 1] == component["type"]
        found[terms[0]["matchExpressions"][0]["values"][0]] = component["type"], options_of(arguments)
    return found


def of_llmd(text):
    found = {}
    for document in yaml.safe_load_all(text):
        if document["kind"] == "Deployment":
            template = document["spec"]["template"]
            pod, labels = template["spec"], template["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
            (container,) = pod["containers"]
            assert any(one["name"] == "VLLM_NIXL_SIDE_CHANNEL_HOST" for one in container["env"])
            options = options_of(container["args"])
            proxies = pod.get("initContainers", [])
            if labels["llm-d.ai/role"] == "prefill":
                assert not proxies
            else:  # the proxy listens where the pool sends requests, and hands them on to where the server does
                proxy = options_of(proxies[0]["args"])
                assert (proxy["port"], proxy["vllm-port"]) == ("8000", options["port"])
                assert proxies[0]["restartPolicy"] == "Always"
            found[pod["nodeSelector"]["kubernetes.io/hostname"]] = labels["llm-d.ai/role"], options
    return found


READERS = {"dynamo": of_dynamo, "llm-d": of_llmd}


@pytest.mark.parametrize("target", registry.OF_ROLES)
def test_every_node_is_started_with_its_role_and_limits(tmp_path, target):
    text, placed = exported(tmp_path, target)
    found = READERS[target](text)
    assert {node: role for node, (role, _) in found.items()} == {
        node.id: node.role for node in placed.system.fleet.cluster.nodes
    }
    for node, (role, options) in found.items():
        own = {"prefill": ("16384", "100"), "decode": (None, "64")}[role]
        assert own[0] in (None, options["max-num-batched-tokens"])
        assert options["max-num-seqs"] == own[1]
        assert options["tensor-parallel-size"] == str(placed.system.fleet.cluster.node(node).gpus)
        assert ("enable-prefix-caching" in options, "no-enable-prefix-caching" in options) == (
            role == "prefill",
            role == "decode",
        )
        assert json.loads(options["kv-transfer-config"]) == {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


@pytest.mark.parametrize("most", [None, 700])
def test_short_prompts_stay_by_the_rule_of_the_target(tmp_path, most):
    rule = "" if most is None else f"      max_local_prefill_length: {most}\n"
    text, _ = exported(tmp_path, "dynamo", EXPERIMENT + rule)
    (frontend,) = yaml.safe_load(text)["spec"]["components"][0]["podTemplate"]["spec"]["containers"]
    arguments = frontend["args"]
    assert ("--router-conditional-disagg" in arguments) == (most is not None)
    if most is not None:  # at the threshold Dynamo sends a prompt away
        policy = json.loads(arguments[arguments.index("--router-conditional-disagg-config") + 1])
        assert policy["eff_isl_threshold"] == most + 1
    text, _ = exported(tmp_path, "llm-d", EXPERIMENT + rule)
    (configuration,) = (one for one in yaml.safe_load_all(text) if one["kind"] == "ConfigMap")
    rules = yaml.safe_load(configuration["data"]["roles.yaml"])
    plugins = {one["type"]: one.get("parameters") for one in rules["plugins"]}
    decider = plugins["disagg-profile-handler"]["deciders"]["prefill"]
    assert plugins[decider] == (None if most is None else {"nonCachedTokens": most + 1})
    for profile in rules["schedulingProfiles"]:
        assert {one["pluginRef"] for one in profile["plugins"]} <= set(plugins)
        assert profile["plugins"][0]["pluginRef"] == f"{profile['name']}-filter"


def test_the_pool_of_llmd_has_the_servers_of_both_phases(tmp_path):
    documents = list(yaml.safe_load_all(exported(tmp_path, "llm-d")[0]))
    (pool,) = (one for one in documents if one["kind"] == "InferencePool")
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in documents if one["kind"] == "Deployment"]
    assert all(pool["spec"]["selector"]["matchLabels"].items() <= pod.items() for pod in pods)
    assert len(pods) == 5


@pytest.mark.parametrize("target", ["vllm", "ray", "kubernetes"])
def test_targets_that_do_not_part_the_phases_are_refused(tmp_path, target):
    with pytest.raises(
        ConfigError, match=f"--export {target}: the nodes of split have roles, and .*: use --export llm"
    ):
        exported(tmp_path, target)


def test_dynamo_has_no_servers_of_both_phases_beside_roles(tmp_path):
    text = EXPERIMENT.replace("role: decode", "role: both")
    with pytest.raises(ConfigError, match="split-0, split-1 serves both phases beside servers with roles"):
        exported(tmp_path, "dynamo", text)
    found = of_llmd(exported(tmp_path, "llm-d", text)[0])
    assert {role for role, _ in found.values()} == {"prefill", "both"}


def test_host_memory_is_that_of_all_machines_of_a_server(tmp_path):
    text = EXPERIMENT.replace(", role: decode", "").replace(", role: prefill", "").partition("    disaggregation")[0]
    text = text.replace("max_num_seqs: 100", "max_num_seqs: 100, kv_offloading: {host: {size: 96 GiB}}")
    documents = yaml.safe_load_all(exported(tmp_path, "kubernetes", text)[0])
    for one in documents:
        if one["kind"] == "Deployment":
            options = options_of(one["spec"]["template"]["spec"]["containers"][0]["args"])
            assert (options["kv-offloading-size"], options["kv-offloading-backend"]) == ("96", "native")
