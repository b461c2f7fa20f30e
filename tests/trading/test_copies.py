"""Quick copies are what dataclasses.replace makes."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.copies import altered
from dpa.trading.types import Commission, Execution, Side
from tests.trading.engine_market import utc

FILL = Execution("a.01", "DU1", "AAA", Side.BUY, Decimal(100), Decimal("10.5"), utc(9, 30))
values = st.fixed_dictionaries(
    {},
    optional={
        "exec_id": st.text(max_size=5),
        "shares": st.decimals(0, 1000, places=0),
        "order_id": st.integers(0, 99),
        "ref": st.text(max_size=5),
    },
)


@given(values)
def test_a_quick_copy_is_the_one_of_the_standard_library(given):
    made = altered(FILL, **given)
    assert made == replace(FILL, **given)
    assert hash(made) == hash(replace(FILL, **given))
    assert replace(FILL) == FILL
    assert made.__dict__ is not FILL.__dict__


def test_a_value_of_no_field_is_refused():
    with pytest.raises(TypeError, match="Commission has no fields"):
        altered(Commission("a", Decimal(1)), amont=Decimal(2))
