"""Results of benchmark tools as values: what was asked of a serving engine, and what was measured.

benchmark      the value that all readers return
collect        checked figures of one result, and figures from single requests
read           which format a file has
vllm           ``vllm bench serve`` and ``sglang.bench_serving``
guidellm       GuideLLM
aiperf         AIPerf and GenAI-Perf
inference_perf inference-perf
llmd           benchmark reports of llm-d
load           the measured load as a workload, and how the load of an experiment differs from it
"""
