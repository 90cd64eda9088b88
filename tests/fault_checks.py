"""What must hold of runs with faults, whatever fails."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from helixsim.domain.faults import FailureCause
from helixsim.domain.result import RequestStatus


def same(first, second):
    """Whether two runs had the same requests, series and gaps."""
    for part in ("requests", "series", "gaps", "nodes", "links"):
        one, other = getattr(first, part), getattr(second, part)
        if not all(np.array_equal(getattr(one, key.name), getattr(other, key.name)) for key in fields(one)):
            return False
    return True


def check_sent_again(result):
    """All that is lost is sent again, or rejected: it has outgrown all routes, of which new ones may be smaller."""
    lost = result.faults
    rejected = (result.requests.status[lost.rows] == RequestStatus.REJECTED).sum()
    assert lost.losses.sum() - rejected <= lost.retried <= lost.losses.sum()


def check_causes(result, count):
    """Requests fail for a cause only: two losses where one is allowed, or a time limit."""
    rows, stats = result.requests, result.faults
    assert len(rows.status) == count
    assert np.flatnonzero(rows.status == RequestStatus.FAILED).tolist() == list(stats.causes)
    assert set(rows.status) <= {RequestStatus.FINISHED, RequestStatus.REJECTED, RequestStatus.FAILED}
    losses = dict(zip(stats.rows.tolist(), stats.losses.tolist(), strict=True))
    for row, cause in stats.causes.items():
        assert (cause is FailureCause.RETRIES) == (losses[row] == 2)
    assert max(losses.values(), default=0) <= 2
    assert result.series.output_tokens[-1] == rows.output_tokens.sum()


def check_clients(result, count):
    """Each request ends once: served, rejected, or abandoned after its last attempt."""
    rows, clients = result.requests, result.faults.clients
    assert len(rows.status) == count + clients.sent_again
    ended = {status: int((rows.status == status).sum()) for status in RequestStatus}
    assert ended[RequestStatus.WAITING] == ended[RequestStatus.RUNNING] == 0
    assert ended[RequestStatus.FAILED] == clients.sent_again + clients.abandoned
    assert ended[RequestStatus.FINISHED] + ended[RequestStatus.REJECTED] + clients.abandoned == count
    causes = list(result.faults.causes.values())
    assert causes.count(FailureCause.GIVEN_UP) <= clients.gave_up
    assert result.series.output_tokens[-1] == rows.output_tokens.sum()
