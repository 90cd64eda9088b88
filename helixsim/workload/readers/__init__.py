"""Request traces as published, read row by row.

registry    the formats by name;  read_trace(path, ...) -> Iterator[Request];  detect_format(path)
base        what all formats share: a row, what reading leaves behind, order, zero-token rows
files       opening (plain, gz, zst), CSV and JSON rows
values      bounded numbers of tokens and times
azure       Azure LLM inference traces 2023 and 2024
burstgpt    BurstGPT, with and without session columns
mooncake    Mooncake JSONL
chat        ShareGPT conversations and detailed results of vLLM's ``bench serve``
log         CSV and JSONL of our own, of other simulators and of gateways
"""
