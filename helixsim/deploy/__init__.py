"""Start commands and manifests of a placement, for the software that serves models.

registry    the targets by name:  names(), text(target, experiment, placed, ...) -> str
servers     servers_of(experiment, placed, ...) -> Fleet: the model servers of a placement with their vLLM options
roles       what servers that prefill or decode alone have of their own
vllm        one shell script for all nodes
kubernetes  Deployments and Services; llm-d: with its labels, an InferencePool and an HTTPRoute
ray         Ray Serve's LLM applications
dynamo      NVIDIA Dynamo's DynamoGraphDeployment
"""
