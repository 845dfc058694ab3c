"""Whether an adapter computes at all, found out in a step that is computed anyway."""

from __future__ import annotations

from collections.abc import Callable

from graftwork.adapters.engine.generation import Generation
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.residency.lease import Lease
from graftwork.errors import AdapterProbeFailed, DeadlineExceeded, OperationFailed, Overloaded

TENANT = "graftwork probe"


def passes_in_a_step(submit: Callable[[Request], Generation], lease: Lease, token: int) -> bool:
    """Whether a request of one token got an answer; False when the engine has no room for it.

    Takes the lease over. Raises AdapterProbeFailed.
    """
    digest = lease.resident.digest[:12]
    try:
        submit(Request([token], Sampling(max_tokens=1, temperature=0), lease, tenant=TENANT)).result()
    except OperationFailed as error:
        raise AdapterProbeFailed(adapter=digest, reason=error.fields["reason"]) from error
    except (DeadlineExceeded, Overloaded):
        return False
    return True
