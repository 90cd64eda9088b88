"""Readers of request traces in published formats, row by row.

registry    the formats by name;  read_trace(path, ...) -> Iterator[Request];  detect_format(path)
base        rows, the log of a reader, and conversion to requests
files       opening (plain, gz, zst), CSV and JSON rows
values      numbers of tokens and times
azure       Azure LLM inference traces 2023 and 2024
burstgpt    BurstGPT, with and without session columns
mooncake    Mooncake JSONL
servegen    batch jobs of ServeGen
otel        spans of OpenTelemetry
aiperf      requests of AIPerf
chat        ShareGPT conversations and detailed results of vLLM's ``bench serve``
log         CSV and JSONL: helixsim's format, other simulators, gateway logs
"""
