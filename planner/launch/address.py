"""Where the parts of a launch find one another: hosts, node ranks and ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

SLOT_PORTS = 256
"""Ports kept for one instance: engines count upwards from the ports they are given, by data-parallel rank."""


@dataclass(frozen=True)
class Ports:
    """Ports of one engine instance; instances on one host get different ones by `shifted`.

    Args:
        http: of the API server.
        rpc: between the data-parallel ranks of an instance.
        rendezvous: where the nodes of an instance meet.
        bootstrap: where decode finds prefill (SGLang).
        afd: where the attention and the FFN side meet; SGLang takes the next one and the tenth after it, too.
        side_channel: first of those over which KV transfers are arranged (vLLM), one per data-parallel rank.
    """

    http: int = 8000
    rpc: int = 10_000
    rendezvous: int = 10_016
    bootstrap: int = 10_048
    afd: int = 10_056
    side_channel: int = 10_064

    def shifted(self, slot: int) -> Ports:
        """The ports of the slot-th instance on the same host."""
        moved = slot * SLOT_PORTS
        return replace(
            self,
            http=self.http + slot,
            rpc=self.rpc + moved,
            rendezvous=self.rendezvous + moved,
            bootstrap=self.bootstrap + moved,
            afd=self.afd + moved,
            side_channel=self.side_channel + moved,
        )


@dataclass(frozen=True)
class Address:
    """Where one node of an engine instance is, and where it finds the others. Hosts and ranks may be shell text.

    Args:
        node_rank: number of this node in the instance: digits, or a shell parameter such as `$NODE_RANK`.
        leader: host of node 0 of the instance.
        ports: of the instance.
        peers: AFD: host of the node 0 of the other side, by role (`ffn`, `attention`).
        host: of this node, as the others reach it; the leader's where empty.
        peer_ports: ports of the other side, by role; the instance's own where a role is missing.
        follower: whether this is not node 0, where `node_rank` is shell text and it is known all the same.
    """

    node_rank: str = "0"
    leader: str = "127.0.0.1"
    ports: Ports = Ports()
    peers: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    peer_ports: Mapping[str, Ports] = field(default_factory=dict)
    follower: bool | None = None

    @property
    def own_host(self) -> str:
        """Host of this node."""
        return self.host or self.leader

    @property
    def rank(self) -> int | None:
        """Number of this node; None where only the shell knows it."""
        return int(self.node_rank) if self.node_rank.isascii() and self.node_rank.isdigit() else None

    @property
    def follows(self) -> bool | None:
        """Whether this is not node 0 of the instance; None where only the shell knows."""
        return self.follower if self.rank is None else self.rank > 0

    def times(self, factor: int) -> str:
        """Shell text for the node's number times `factor`."""
        return str(self.rank * factor) if self.rank is not None else f"$(({self.node_rank} * {factor}))"
