"""Which replicas prefill, which decode and which do both: two commodities with the roles as variables.

``flow.two_commodity`` takes the roles of nodes as given. Here they are counted: of ``N`` equal replicas, ``n`` have
each role, and every limit of that program holds for the ``n`` together, so it is linear in ``n`` too. The integer
program gives the roles. Its continuous relaxation gives the bound. All rows have a right side of zero, but for
``n_prefill + n_decode + n_both = N`` and the NIC of the coordinator. So the dual solution is a price for each replica
and for that NIC, and the bound is the sum of these prices.

The bound holds for all roles of these replicas, since whatever depends on more than one role is taken at its best: a
link has as many ends as there are replicas, and a KV cache takes the fastest of its links. The parts of a machine share
its NIC; that they share links is left out. Limits and notation: docs/disaggregation.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from helixsim import solver
from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES, Deployment
from helixsim.domain.disaggregation import KvSizes, KvTransfer
from helixsim.domain.placement import ROLES, LayerRange, Placement, Role
from helixsim.flow.operating import stations_of
from helixsim.flow.phase_rates import DecodeRates, decode_rates
from helixsim.flow.station import OperatingLoad, Station
from helixsim.units import BITS_PER_BYTE, NS_PER_S

GAP, MOST_NODES = 1e-3, 200
"""Relative gap and nodes of branch-and-bound at which the search for roles ends."""


@dataclass(frozen=True)
class ReplicaClass:
    """Equal replicas of the model, with the ids of their nodes in the order of layers, and what these do in a role."""

    replicas: tuple[tuple[str, ...], ...]
    layers: tuple[LayerRange, ...]
    stations: Mapping[Role, tuple[Station, ...]]

    def __len__(self) -> int:
        return len(self.replicas)

    @property
    def stages(self) -> range:
        """Numbers of the nodes of a replica."""
        return range(len(self.layers))


@dataclass(frozen=True)
class ClassRoles:
    """Roles of equal replicas; ``worth_per_s``: what one more raises the bound by [requests/s]."""

    replicas: tuple[tuple[str, ...], ...]
    counts: Mapping[Role, int]
    worth_per_s: float


@dataclass(frozen=True)
class RoleChoice:
    """The best roles of replicas.

    Parameters
    ----------
    requests_per_s
        What they serve [requests/s].
    bound_per_s
        What no roles of these replicas exceed, by prices of the replicas [requests/s].
    roles
        Role of each node of a replica.
    """

    requests_per_s: float
    bound_per_s: float
    classes: tuple[ClassRoles, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict)


def replica_classes(fleet: Deployment, placement: Placement, load: OperatingLoad) -> list[ReplicaClass]:
    """Return the replicas of a placement whose pipelines are chains of nodes, equal ones together."""
    chains: defaultdict[int, list[str]] = defaultdict(list)
    for node in placement.ranges:
        chains[placement.pipelines[node]].append(node)
    stations, sites = stations_of(fleet, placement, load), fleet.cluster.sites
    of_role = dict.fromkeys(ROLES, stations) | {
        role: stations_of(_in(role, fleet), placement, load) for role in fleet.of_role
    }
    found: dict[tuple[object, ...], list[tuple[str, ...]]] = {}
    for chain in chains.values():
        chain.sort(key=lambda node: placement.ranges[node])
        nodes = [fleet.cluster.node(node) for node in chain]
        key = tuple((id(stations[one.id]), one.nic_bps, placement.ranges[one.id], sites[one.id]) for one in nodes)
        found.setdefault(key, []).append(tuple(chain))
    return [
        ReplicaClass(
            tuple(replicas),
            tuple(placement.ranges[node] for node in replicas[0]),
            {role: tuple(own[node] for node in replicas[0]) for role, own in of_role.items()},
        )
        for replicas in found.values()
    ]


def _in(role: Role, fleet: Deployment) -> Deployment:
    """Return a fleet all of whose nodes have a role."""
    return fleet.with_roles(dict.fromkeys(fleet.cluster.index, role))


def best_roles(
    fleet: Deployment,
    classes: Sequence[ReplicaClass],
    load: OperatingLoad,
    transfer: KvTransfer,
    *,
    tpot_s: float | None = None,
    allowed: Sequence[Role] = ROLES,
    prefill_replicas: int | None = None,
) -> RoleChoice:
    """Return the roles with which replicas serve the most requests/s.

    Parameters
    ----------
    transfer
        How KV caches travel.
    tpot_s
        Objective for the time per token [s]; None: decodes may take as long as they do under saturation.
    allowed
        Roles that replicas may have; ``("both",)``: what they serve without any.
    prefill_replicas
        How many shall only prefill; None: as many as is best.
    """
    relaxed = _RoleProgram(fleet, classes, load, transfer, tpot_s, allowed, prefill_replicas, is_whole=False)
    bound = solver.solve(relaxed.program).optimum("the bound over all roles")
    whole = _RoleProgram(fleet, classes, load, transfer, tpot_s, allowed, prefill_replicas, is_whole=True)
    found = solver.solve(whole.program, relative_gap=GAP, max_nodes=MOST_NODES)
    if bound is None or not found.is_feasible:
        return RoleChoice(0.0, 0.0)
    worth = [bound.row_duals[row] for row in range(len(classes))]
    choices, roles = [], dict[str, Role]()
    for number, one in enumerate(classes):
        counts = {role: round(found.values[whole.counts[number, role]]) for role in allowed}
        order = [role for role, count in counts.items() for _ in range(count)]
        roles |= {node: role for nodes, role in zip(one.replicas, order, strict=True) for node in nodes}
        choices.append(ClassRoles(one.replicas, counts, worth[number]))
    certified = sum(limit * bound.row_duals[row] for row, limit in relaxed.right_sides.items())
    return RoleChoice(max(0.0, found.objective), certified, tuple(choices), roles)


Columns = dict[int, float]

Server = tuple[int, Role]
"""Replicas of a class, by its number, in one role."""


class _RoleProgram:
    """The program; ``counts``: the column of each class and role, ``right_sides``: those of rows that are not zero.

    The first rows are those of the classes.
    """

    def __init__(
        self,
        fleet: Deployment,
        classes: Sequence[ReplicaClass],
        load: OperatingLoad,
        transfer: KvTransfer,
        tpot_s: float | None,
        allowed: Sequence[Role],
        prefill_replicas: int | None,
        *,
        is_whole: bool,
    ) -> None:
        self.fleet, self.classes, self.load, self.transfer, self.tpot_s = fleet, classes, load, transfer, tpot_s
        self.fleets = {role: _in(role, fleet) for role in ROLES}
        self.program = solver.Program(maximise=True)
        self.value = self.program.column(1.0)
        column, numbers = self.program.column, range(len(classes))
        self.counts: dict[Server, int] = {(n, role): column(integer=is_whole) for n in numbers for role in allowed}
        self.right_sides: dict[int, float] = {}
        for number, one in enumerate(classes):
            own = [self.counts[number, role] for role in allowed]
            self.right_sides[self.program.row(own, len(one), len(one))] = len(one)
        if prefill_replicas is not None:
            own = [column for (_, role), column in self.counts.items() if role == "prefill"]
            row = self.program.row(own, prefill_replicas, prefill_replicas)
            self.right_sides[row] = prefill_replicas
        self.rates: dict[Server, list[DecodeRates]] = {
            (n, role): self._rates(classes[n], role) for n, role in self.counts if role != "prefill"
        }
        self.prompts: dict[Server, int] = {key: column() for key in self.counts if key[1] != "decode"}
        self.decodes: dict[Server, int] = {key: column() for key, rates in self.rates.items() if rates}
        self.sent = {
            (src, dst): column()
            for src in self.prompts if src[1] == "prefill"
            for dst in self.decodes if src[0] != dst[0] or len(classes[src[0]]) > 1
        }  # fmt: skip
        self.nics: dict[tuple[str, bool], Columns] = {}
        self._conserve()
        for number, role in self.counts:
            self._add_nodes(number, role)
            self._add_traffic(number, role)
        self._add_nics()
        self._add_transfers()

    def _rates(self, one: ReplicaClass, role: Role) -> list[DecodeRates]:
        """Return the rates of decode of each node of a replica; nothing if no batch meets the objective."""
        links_s, stations = self._inside_s(one), one.stations[role]
        found = [decode_rates(stations, stage, links_s, self.load, self.tpot_s) for stage in one.stages]
        return [rates for rates in found if rates is not None]

    def _inside_s(self, one: ReplicaClass) -> float:
        """Return the time on the links inside a replica, one way [s]."""
        overhead_ns = self.load.engine.message_overhead_ns
        pairs = zip(one.replicas[0], one.replicas[0][1:], strict=False)
        return sum(self.fleet.cluster.link(*pair).latency_ns + overhead_ns for pair in pairs) / NS_PER_S

    def _conserve(self) -> None:
        """Let prompts and decodes be equal, in all and of each replica."""
        row = self.program.row
        for columns in (self.prompts, self.decodes):
            row({self.value: 1.0, **dict.fromkeys(columns.values(), -1.0)}, 0.0, 0.0)
        for src, own in self.prompts.items():
            if src[1] == "prefill":
                row({own: -1.0, **{t: 1.0 for pair, t in self.sent.items() if pair[0] == src}}, 0.0, 0.0)
        for dst, own in self.decodes.items():
            kept = {self.prompts[dst]: 1.0} if dst in self.prompts else {}  # nodes with both roles keep their prompts
            row({own: -1.0, **kept, **{t: 1.0 for pair, t in self.sent.items() if pair[1] == dst}}, 0.0, 0.0)
        for number, role in self.prompts:
            if role == "both" and (number, role) not in self.decodes:
                row({self.prompts[number, role]: 1.0}, 0.0, 0.0)

    def _limit(self, used: Mapping[int, float], number: int, role: Role, per_replica: float = 1.0) -> None:
        """Require that what replicas of a class use in a role is within what so many of them have."""
        if used:
            self.program.row({**used, self.counts[number, role]: -per_replica}, upper=0.0)

    def _of(self, number: int, role: Role, prompt: float, decode: float) -> Columns:
        """Return what a prompt and a decode in a role take, as columns."""
        prompts, decodes = self.prompts.get((number, role)), self.decodes.get((number, role))
        found: Columns = {} if prompts is None or not prompt else {prompts: prompt}
        return found if decodes is None or not decode else {**found, decodes: decode}

    def _add_nodes(self, number: int, role: Role) -> None:
        """Add time, KV memory and the objective of replicas in a role."""
        one, load, fleet = self.classes[number], self.load, self.fleets[role]
        trip_s = sum(station.prompt_s for station in one.stations[role]) + self._inside_s(one)
        for stage in one.stages:
            station = one.stations[role][stage]
            alone_s = station.prompt_alone_s()
            beside_s = min(alone_s, station.prompt_s)
            node, held = one.replicas[0][stage], one.layers[stage]
            kv_tokens = max(1, fleet.kv_blocks(node, held) * fleet.profile(node).block_tokens)
            self._limit(self._of(number, role, alone_s, 0.0), number, role)
            stays_s = trip_s + (self._way_s(number, stage, sends=True) if role == "prefill" else 0.0)
            prompt = stays_s * load.mean_prompt_tokens / kv_tokens
            if (number, role) not in self.decodes:
                self._limit(self._of(number, role, prompt, 0.0), number, role)
                continue
            rates = self.rates[number, role][stage]
            self._limit(self._of(number, role, beside_s, rates.time_s), number, role)
            waits_s = rates.residence_s + (self._way_s(number, stage, sends=False) if role == "decode" else 0.0)
            self._limit(self._of(number, role, prompt, waits_s / rates.most_requests), number, role)
            if self.tpot_s is not None and role == "both":
                free = max(0.0, 1.0 - rates.fixed_share)
                self._limit(self._of(number, role, beside_s, rates.step_s), number, role, free)

    def _add_traffic(self, number: int, role: Role) -> None:
        """Add the links inside replicas and to the coordinator, and their NICs."""
        one, load, cluster = self.classes[number], self.load, self.fleet.cluster
        activations = self.fleet.model.activation_bytes_per_token + TOKEN_ID_BYTES
        enters = load.mean_prompt_tokens * TOKEN_ID_BYTES, 0.0
        passes = load.mean_prompt_tokens * activations, load.mean_steps * activations
        leaves = float(TOKEN_ID_BYTES), load.mean_output_tokens * TOKEN_ID_BYTES
        way = [COORDINATOR, *one.replicas[0], COORDINATOR]
        sizes = [enters, *[passes] * (len(one.layers) - 1), leaves]
        for start, end, (prompt, decode) in zip(way, way[1:], sizes, strict=False):
            bits = BITS_PER_BYTE / cluster.link(start, end).bandwidth_bps
            self._limit(self._of(number, role, prompt * bits, decode * bits), number, role)
        for stage in one.stages:
            node = cluster.node(one.replicas[0][stage])
            if node.nic_bps is None:
                continue
            share = BITS_PER_BYTE / node.nic_bps
            for is_out in (True, False):
                is_inside = node.machine is not None and (stage < one.stages[-1] if is_out else stage > 0)
                used = {} if is_inside else self._of(number, role, *sizes[stage + is_out])
                for (src, dst), column in self.sent.items():
                    if (src if is_out else dst) == (number, role) and (node.machine is None or src[0] != dst[0]):
                        used[column] = sum(
                            size for (sender, receiver), size in self._bytes[src[0], dst[0]].items()
                            if (sender if is_out else receiver) == stage
                        ) / self.transfer.efficiency  # fmt: skip
                shares = {key: size * share for key, size in used.items() if size}
                if node.machine is None:
                    self._limit(shares, number, role)
                    continue
                own = self.nics.setdefault((node.machine, is_out), {})
                for key, size in shares.items():
                    own[key] = own.get(key, 0.0) + size

    def _add_nics(self) -> None:
        """Add the NICs of divided machines, each of one class: the parts of a machine are a site."""
        for used in self.nics.values():
            if used:
                self.right_sides[self.program.row(used, upper=1.0)] = 1.0

    def _add_transfers(self) -> None:
        """Add the links that KV caches take, and the NIC of the coordinator.

        A link joins one replica of each class: of so many senders, each has a link to every receiver.
        """
        for (src, dst), column in self.sent.items():
            longest_s = max(self._times_s[src[0], dst[0]].values())
            own = int(src[0] == dst[0])  # a replica has no link to itself
            self._limit({column: longest_s}, *src, len(self.classes[dst[0]]) - own)
            self._limit({column: longest_s}, *dst, len(self.classes[src[0]]) - own)
        nic_bps = self.fleet.cluster.network.coordinator_nic_bps
        if nic_bps is not None:
            prompt, output = self.load.mean_prompt_tokens, 1.0 + self.load.mean_output_tokens
            for tokens in (prompt, output):
                row = self.program.row({self.value: tokens * TOKEN_ID_BYTES * BITS_PER_BYTE / nic_bps}, upper=1.0)
                self.right_sides[row] = 1.0

    @cached_property
    def _bytes(self) -> dict[tuple[int, int], dict[tuple[int, int], float]]:
        """Bytes of a mean prompt between the nodes of a replica of one class and those of another."""
        sizes, tokens = KvSizes(self.fleet.model, self.transfer.bits), round(self.load.mean_prompt_tokens)
        found: dict[tuple[int, int], dict[tuple[int, int], float]] = {}
        for pair in {(src[0], dst[0]) for src, dst in self.sent}:
            source, target = (self.classes[number] for number in pair)
            found[pair] = {}
            for receiver in target.stages:
                node = target.replicas[0][receiver]
                gpus = self.fleet.cluster.node(node).gpus // self.fleets["decode"].profile(node).compute.ranks
                for sender in source.stages:
                    layers = source.layers[sender].shared(target.layers[receiver])
                    if layers.layers:
                        found[pair][sender, receiver] = float(sizes.of(layers, 0, tokens, tokens, gpus))
        return found

    @cached_property
    def _times_s(self) -> dict[tuple[int, int], dict[tuple[int, int], float]]:
        """Times of these bytes on the links between the nodes of two replicas [s]."""
        found: dict[tuple[int, int], dict[tuple[int, int], float]] = {}
        for (src, dst), sizes in self._bytes.items():
            source, target = self.classes[src].replicas[0], self.classes[dst].replicas[int(src == dst)]
            found[src, dst] = {
                (sender, receiver): size
                * BITS_PER_BYTE
                / (self.transfer.efficiency * self.fleet.cluster.link(source[sender], target[receiver]).bandwidth_bps)
                for (sender, receiver), size in sizes.items()
            }
        return found

    @cached_property
    def _least_s(self) -> dict[tuple[int, int, bool], float]:
        """Least time of what a node sends (class, stage, True), or gets (class, stage, False) [s]."""
        found: dict[tuple[int, int, bool], float] = {}
        for (src, dst), times_s in self._times_s.items():
            for (sender, receiver), time_s in times_s.items():
                for key in ((src, sender, True), (dst, receiver, False)):
                    found[key] = min(time_s, found.get(key, time_s))
        return found

    def _way_s(self, number: int, stage: int, *, sends: bool) -> float:
        """Return the least time that what a node sends, or gets, is on the way [s]."""
        time_s = self._least_s.get((number, stage, sends))
        return 0.0 if time_s is None else self.transfer.latency_ns / NS_PER_S + time_s
