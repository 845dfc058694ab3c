"""From a request to the sequences that a scheduler runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Items

from graftwork.adapters.engine.generation import Generation
from graftwork.adapters.engine.sampling import Sampler
from graftwork.adapters.engine.sequence import Request, Sequence
from graftwork.adapters.engine.text import Decoder, TextStream
from graftwork.adapters.residency.lease import Lease


def first_sequence(
    request: Request, leases: Items[Lease | None], decoder: Decoder, *, limit: float, wake: Callable[[], None]
) -> Sequence:
    """The sequence that reads the prompt and gives the first choice; the other choices wait as its siblings.

    `leases` has one for each choice. `limit` is the engine's own, in seconds; `wake` is called by an abort.
    """
    generation = Generation(len(request.prompt_ids), wake, request.n)
    first, *siblings = (
        Sequence(
            tokens=list(request.prompt_ids),
            sampling=request.sampling,
            sampler=Sampler(request.sampling, index, request.prompt_ids),
            text=TextStream(decoder, request.sampling.stop, request.prompt_ids),
            generation=generation,
            lease=lease,
            tenant=request.tenant,
            timeout=min(request.timeout or math.inf, limit),
            index=index,
        )
        for index, lease in enumerate(leases)
    )
    first.siblings = siblings
    return first
