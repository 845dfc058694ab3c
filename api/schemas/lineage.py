"""The graph of what was made from what."""

from __future__ import annotations

from pydantic import BaseModel

from graftwork.registry.lineage import Graph
from graftwork.registry.versions import Version


class NodeOut(BaseModel):
    """A version in the graph."""

    digest: str
    ref: str
    kind: str


class EdgeOut(BaseModel):
    """The version `child` was made from `parent`; a parent without a node is not in this registry."""

    child: str
    parent: str
    relation: str
    weight: float | None
    position: int


class LineageOut(BaseModel):
    """The versions around `root`."""

    root: str
    nodes: list[NodeOut]
    edges: list[EdgeOut]

    @classmethod
    def of(cls, root: Version, graph: Graph) -> LineageOut:
        """`graph` around `root`, which keeps its name when other names hold the same content."""
        nodes = {node.digest: node for node in graph.nodes} | {root.digest: root}
        return cls(
            root=root.digest,
            nodes=[NodeOut(digest=node.digest, ref=node.ref, kind=node.kind) for node in nodes.values()],
            edges=[
                EdgeOut(
                    child=edge.child,
                    parent=edge.parent,
                    relation=edge.relation,
                    weight=edge.weight,
                    position=edge.position,
                )
                for edge in graph.edges
            ],
        )
