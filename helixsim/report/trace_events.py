"""Timelines as Trace Event JSON, which ui.perfetto.dev and chrome://tracing open.

A process of the viewer is a pipeline of a system, with a track per stage: its iterations as slices, and counters of KV
memory and queue. The links of a system are another process, its requests a third one: those with a prompt in the
recorded part, up to ``MOST_REQUESTS``, as slices from which arrows lead through the iterations that compute the prompt.
Faults are marks, in a process of their own and on the tracks of their nodes. Times are those of the simulation.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helixsim.domain.faults import LINKS_TO
from helixsim.domain.placement import Placement
from helixsim.domain.result import RunResult
from helixsim.domain.timeline import Iteration, Timeline
from helixsim.escape import printable
from helixsim.units import NS_PER_S
from helixsim.writing import new_file

MOST_REQUESTS = 100
"""Requests shown of a system."""

_NS_PER_US = 1000
_LINKS, _REQUESTS, _FAULTS = 900_000, 900_001, 900_002
_PER_SYSTEM = 1_000_000
"""Numbers of the processes of a system: its pipelines from 1 on, its links, its requests and its faults."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """The recorded part of the run of a system; ``replicas``: the nodes of each pipeline."""

    system: str
    placement: Placement
    replicas: tuple[tuple[str, ...], ...]
    result: RunResult
    timeline: Timeline


def write_trace_events(path: Path, recordings: list[Recording]) -> None:
    """Write a file of all systems; a name that ends in ``.gz`` is compressed."""
    with new_file(path, devices=True) as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                for line in _lines(recordings):
                    packed.write(line.encode())
        else:
            for line in _lines(recordings):
                raw.write(line.encode())


def _lines(recordings: list[Recording]) -> Iterator[str]:
    """Yield the document, an event per line."""
    notes = {one.system: one.timeline.about or "nothing is left out" for one in recordings}
    head = {"displayTimeUnit": "ms", "otherData": {"made by": "helixsim", **notes}}
    yield json.dumps(head, ensure_ascii=True)[:-1] + ', "traceEvents": ['
    before = "\n"
    for number, recording in enumerate(recordings):
        for event in events(recording, number):
            yield before + json.dumps(event, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
            before = ",\n"
    yield "\n]}\n"


def events(recording: Recording, number: int = 0) -> list[Event]:
    """Return the events of a system in the order of their times; ``number`` keeps the tracks of systems apart."""
    tracks = _Tracks(recording, number * _PER_SYSTEM)
    timed = [*tracks.iterations(), *tracks.levels(), *tracks.transfers(), *tracks.requests(), *tracks.faults()]
    timed.sort(key=lambda event: event["ts"])  # of equal times a slice stays before the arrow that is bound to it
    return [*tracks.names(), *timed]


class _Tracks:
    """The tracks of a system: (process, track) of each node and link."""

    def __init__(self, recording: Recording, base: int) -> None:
        self.recording = recording
        self.base = base
        ranges = recording.placement.ranges
        known = {node for replica in recording.replicas for node in replica}
        rest = tuple(node for node in ranges if node not in known)
        self.pipelines = [
            sorted((node for node in pipeline if node in ranges), key=lambda node: (ranges[node].start, node))
            for pipeline in (*recording.replicas, *([rest] if rest else []))
        ]
        self.of_node = {
            node: (base + pipeline, track)
            for pipeline, nodes in enumerate(self.pipelines, start=1)
            for track, node in enumerate(nodes, start=1)
        }
        ends = sorted({(one.src, one.dst) for one in recording.timeline.transfers})
        self.of_link = {link: track for track, link in enumerate(ends, start=1)}
        self.chunks: Mapping[int, list[Iteration]] = self._chunks()
        own = (one.start_ns for one in recording.timeline.iterations)
        self.start_ns = min(own, default=recording.timeline.start_ns)
        stats, end_ns = recording.result.faults, recording.timeline.end_ns
        happened = () if stats is None else stats.events
        self.marked = [event for event in happened if self.start_ns <= event[0] <= end_ns]

    def _chunks(self) -> dict[int, list[Iteration]]:
        """Return the iterations that compute the prompt of each request shown, in order of time."""
        found: dict[int, list[Iteration]] = defaultdict(list)
        for one in self.recording.timeline.iterations:
            for request, _ in one.chunks:
                found[request].append(one)
        step = -(-len(found) // MOST_REQUESTS) or 1
        return {request: sorted(found[request], key=lambda one: one.start_ns) for request in list(found)[::step]}

    def names(self) -> Iterator[Event]:
        """Yield the names of processes and tracks."""
        system, ranges = self.recording.system, self.recording.placement.ranges
        several = len(self.pipelines) > 1
        for pipeline, nodes in enumerate(self.pipelines, start=1):
            pid = self.base + pipeline
            yield from _process(pid, f"{system}: pipeline {pipeline}" if several else system)
            for node in nodes:
                held = ranges[node]
                yield from _track(*self.of_node[node], f"{node}, layers {held.start}-{held.end - 1}")
        yield from _process(self.base + _LINKS, f"{system}: links")
        for (src, dst), track in self.of_link.items():
            yield from _track(self.base + _LINKS, track, f"{src} to {dst}")
        yield from _process(self.base + _REQUESTS, f"{system}: requests")
        for track, request in enumerate(self.chunks, start=1):
            yield from _track(self.base + _REQUESTS, track, f"request {request}")

        if self.marked:
            yield from _process(self.base + _FAULTS, f"{system}: faults")
            yield from _track(self.base + _FAULTS, 1, "events")

    def faults(self) -> Iterator[Event]:
        """Yield the events of faults as marks: of the system, and on the tracks of their nodes."""
        for time_ns, what, nodes in self.marked:
            mark = {"name": what, "ph": "i", "ts": _us(time_ns)}
            text = " ".join(nodes)
            yield {**mark, "pid": self.base + _FAULTS, "tid": 1, "s": "g", "args": {"nodes": text}}
            if LINKS_TO not in nodes:
                for node in nodes:
                    if node in self.of_node:
                        pid, tid = self.of_node[node]
                        yield {**mark, "pid": pid, "tid": tid, "s": "t", "args": {"nodes": node}}

    def iterations(self) -> Iterator[Event]:
        """Yield the slices of nodes."""
        for one in self.recording.timeline.iterations:
            phase = "mixed" if one.prompt_tokens and one.decode_seqs else "prefill" if one.prompt_tokens else "decode"
            arguments: dict[str, Any] = {
                "phase": phase,
                "tokens": one.prompt_tokens + one.decode_seqs,
                "prompt tokens": one.prompt_tokens,
                "decoding sequences": one.decode_seqs,
            }
            if one.chunks:
                arguments["chunks"] = ", ".join(f"request {request}: {tokens}" for request, tokens in one.chunks[:8])
                arguments["prompts"] = len(one.chunks)
            pid, tid = self.of_node[one.node]
            yield _slice(phase, pid, tid, one.start_ns, one.end_ns, arguments)

    def levels(self) -> Iterator[Event]:
        """Yield counters of KV memory and queue, where they change."""
        last: dict[str, tuple[float, int]] = {}
        for one in self.recording.timeline.levels:
            if last.get(one.node) != (one.kv_used, one.waiting):
                last[one.node] = (one.kv_used, one.waiting)
                pid, _ = self.of_node[one.node]
                for name, value in (("KV memory, %", round(100 * one.kv_used, 2)), ("queue", one.waiting)):
                    counter = {"name": f"{one.node} {name}", "ph": "C", "pid": pid, "tid": 0}
                    yield {**counter, "ts": _us(one.time_ns), "args": {"value": value}}

    def transfers(self) -> Iterator[Event]:
        """Yield the messages of links: slices, or asynchronous ones where messages share a link and overlap."""
        free_ns: dict[tuple[str, str], int] = {}
        for number, one in enumerate(self.recording.timeline.transfers):
            link = (one.src, one.dst)
            pid, tid = self.base + _LINKS, self.of_link[link]
            arguments = {"bytes": one.size_bytes, "arrives, s": one.arrival_ns / NS_PER_S}
            if one.start_ns >= free_ns.get(link, 0):
                free_ns[link] = one.end_ns
                yield _slice("transfer", pid, tid, one.start_ns, one.end_ns, arguments)
                continue
            name = f"{self.base}-{number}"  # viewers pair by it over all processes
            common = {"name": "transfer", "cat": "transfer", "id": name, "pid": pid, "tid": tid}
            yield {**common, "ph": "b", "ts": _us(one.start_ns), "args": arguments}
            yield {**common, "ph": "e", "ts": _us(one.end_ns)}

    def requests(self) -> Iterator[Event]:
        """Yield the lives of some requests, and arrows through the iterations that compute their prompts.

        What was before the recorded part is left out, so that viewers do not open hours of waiting.
        """
        columns = self.recording.result.requests
        rows = {request: row for row, request in enumerate(columns.request_id.tolist())}  # of its last attempt
        end_ns = self.recording.result.end_ns
        pid = self.base + _REQUESTS
        for track, (request, every) in enumerate(self.chunks.items(), start=1):
            row = rows[request]
            arrival, admitted, first, finish = (
                int(column[row]) for column in
                (columns.arrival_ns, columns.admitted_ns, columns.first_token_ns, columns.finish_ns)
            )  # fmt: skip
            chunks = [one for one in every if one.end_ns >= arrival]
            if not chunks:
                continue
            edges = [arrival, *(time if time >= 0 else end_ns for time in (admitted, first, finish))]
            edges = [max(time, self.start_ns) for time in edges]
            arguments = {
                "arrival, s": arrival / NS_PER_S,
                "prompt tokens": int(columns.prompt_tokens[row]),
                "output tokens by the end of the recording": int(columns.output_tokens[row]),
                "preemptions": int(columns.preemptions[row]),
            }
            for name, start_ns, stop_ns in zip(("waiting", "prefill", "decode"), edges, edges[1:], strict=False):
                if stop_ns > start_ns:
                    yield _slice(name, pid, track, start_ns, stop_ns, arguments)
            arrow = {"name": "prompt", "cat": "prompt", "id": self.base + track}
            starts = [edges[1], *(one.start_ns for one in chunks)]
            places = [(pid, track), *(self.of_node[one.node] for one in chunks)]
            for step, (start_ns, (at_pid, at_tid)) in enumerate(zip(starts, places, strict=True)):
                kind = "s" if step == 0 else "t"
                yield {**arrow, "ph": kind, "pid": at_pid, "tid": at_tid, "ts": _us(start_ns)}
            if first >= 0:  # bound to the decode slice; without one, to the prefill when its last chunk begins
                at_ns = max(first, starts[-1]) if first < edges[-1] else starts[-1]
                yield {**arrow, "ph": "f", "bp": "e", "pid": pid, "tid": track, "ts": _us(at_ns)}


def _slice(name: str, pid: int, tid: int, start_ns: int, end_ns: int, arguments: Mapping[str, Any]) -> Event:
    start_us, end_us, length_us = _us(start_ns), _us(end_ns), _us(end_ns - start_ns)
    if start_us + length_us > end_us:  # by a rounding, which would make it overlap the next one
        length_us = max(0.0, length_us - math.ulp(end_us))
    return {
        "name": name, "ph": "X", "pid": pid, "tid": tid, "ts": start_us, "dur": length_us, "args": arguments,
    }  # fmt: skip


def _us(time_ns: int) -> float:
    """Return microseconds that a viewer which cuts them to nanoseconds reads as this time."""
    found = time_ns / _NS_PER_US
    return found if int(found * _NS_PER_US) == time_ns else math.nextafter(found, math.inf)


def _process(pid: int, name: str) -> Iterator[Event]:
    yield {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": printable(name, one_line=True)}}
    yield {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0, "args": {"sort_index": pid}}


def _track(pid: int, tid: int, name: str) -> Iterator[Event]:
    yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": printable(name, one_line=True)}}
    yield {"name": "thread_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": tid}}
