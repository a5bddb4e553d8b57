"""Durations: every form resolves to steps, every mistake is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.durations import Clock, to_steps

CLOCK = Clock(batch_size=64, examples=1400, total_steps=440)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (500, 500),
        ("500", 500),
        (1e3, 1000),
        ("1e3", 1000),
        ("10%", 44),
        ("0.1%", 1),
        ("100%", 440),
        ("1ep", 22),
        ("2ep", 44),
        ("0.5ep", 11),
        ("30 ep", 660),
        ("64ex", 1),
        ("65ex", 2),
        ("1400ex", 22),
        ("1401ex", 23),
        ("64000ex", 45 * 22 + 16),
        ("1e4EX", 7 * 22 + 4),
        (0, 0),
        ("0%", 0),
    ],
)
def test_duration_resolves_to_steps(duration: str | int | float, steps: int) -> None:
    assert to_steps(duration, CLOCK) == steps


@pytest.mark.parametrize(
    "duration", ["", "abc", "-3", -3, "10x", "1.5", 1.5, "nan", True, "%", "1e-3ep", "3 4", "2.5ex"]
)
def test_malformed_duration_is_refused(duration: str | int | float) -> None:
    with pytest.raises(ValueError, match=r"must be a (duration|whole number)"):
        to_steps(duration, CLOCK)


def test_share_of_the_run_needs_a_length() -> None:
    with pytest.raises(ValueError, match="must not be a share of itself"):
        to_steps("10%", CLOCK._replace(total_steps=None))


@pytest.mark.parametrize("duration", ["2ep", "64ex"])
def test_epochs_and_examples_need_a_data_set(duration: str) -> None:
    with pytest.raises(ValueError, match="has no epochs or examples to count"):
        to_steps(duration, CLOCK._replace(examples=None))


@given(st.integers(1, 10_000), st.integers(1, 500), st.integers(1, 50))
def test_an_epoch_in_examples_is_an_epoch(examples: int, batch_size: int, epochs: int) -> None:
    clock = Clock(batch_size=batch_size, examples=examples)
    assert to_steps(f"{examples * epochs}ex", clock) == to_steps(f"{epochs}ep", clock)
