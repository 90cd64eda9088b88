"""Request traces as published, read row by row.

registry    the formats by name;  read_trace(path, ...) -> Iterator[Request];  detect_format(path)
base        what all formats share: opening, number checks, order, zero-token rows
azure       Azure LLM inference traces 2023 and 2024
burstgpt    BurstGPT, with and without session columns
mooncake    Mooncake JSONL
chat        ShareGPT conversations and detailed results of vLLM's ``bench serve``
own         CSV and JSONL of our own
"""
