"""Errors are told apart by a fixed code, wherever they were raised."""

import pytest

from dpbitfit import errors


@pytest.mark.parametrize(
    "kind",
    [
        *(errors.BudgetError, errors.LedgerBusy, errors.LedgerDrift, errors.AnswerLost),
        *(errors.RoundFailed, errors.ProtocolError, errors.DpbitfitError),
    ],
)
def test_a_kind_is_found_by_its_code(kind: type[errors.DpbitfitError]) -> None:
    assert errors.kinds()[kind.code] is kind
