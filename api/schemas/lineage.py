"""The graph of what was made from what."""

from __future__ import annotations

from pydantic import BaseModel, Field

from graftwork.api.schemas.marks import MarkOut
from graftwork.registry.versions.lineage import Graph, Node
from graftwork.registry.versions.version import Version


class ScoreOut(BaseModel):
    """The newest score of a version by one metric on one dataset."""

    dataset: str = Field(examples=["acme/questions@v1"])
    metric: str = Field(examples=["exact_match"])
    value: float


class NodeOut(BaseModel):
    """Content in the graph, under all of its names; `ref` is null where all of them are private to others."""

    digest: str
    ref: str | None = Field(description="the name asked for, or else the oldest", examples=["acme/merged@v2"])
    refs: list[str] = Field(description="every name of this content, the oldest first")
    kind: str = Field(examples=["checkpoint"])
    marks: list[MarkOut]
    scores: list[ScoreOut]

    @classmethod
    def of(cls, node: Node, ref: str | None) -> NodeOut:
        """What there is to say about `node`, called `ref`."""
        return cls(
            digest=node.digest,
            ref=ref,
            refs=list(node.refs),
            kind=node.kind,
            marks=[MarkOut.of(entry) for entry in node.marks],
            scores=[ScoreOut(dataset=score.dataset, metric=score.metric, value=score.value) for score in node.scores],
        )


class EdgeOut(BaseModel):
    """The version `child` was made from `parent`; a parent without a node is not in this registry."""

    child: str
    parent: str
    relation: str = Field(
        description="what the parent was to the child; with `rebuild_of`, nothing of the parent is in the child",
        examples=["merge_input"],
    )
    weight: float | None
    position: int


class LineageOut(BaseModel):
    """The versions around `root`."""

    root: str
    nodes: list[NodeOut]
    edges: list[EdgeOut]
    truncated: bool = Field(default=False, description="whether there are more edges than `limit`")

    @classmethod
    def of(cls, root: Version, graph: Graph) -> LineageOut:
        """`graph` around `root`, which keeps its name when other names hold the same content."""
        return cls(
            root=root.digest,
            nodes=[
                NodeOut.of(node, root.ref if node.digest == root.digest else next(iter(node.refs), None))
                for node in graph.nodes
            ],
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
            truncated=graph.truncated,
        )
