"""The ladder of delays, walked through on paper: bindings are matched as the server matches them."""

import math
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobq_rmq import _delay
from jobq_rmq._topology import BANDS, Band, Binding, Delays, Exchange, Kind, Queue, Topology

TOPOLOGY = Topology("p", "quorum")
TICKS = st.integers(1, (1 << _delay.LEVELS) - 1)
WORD = st.text("ab*#-_", min_size=1, max_size=2).map(lambda word: word.replace("*", "x").replace("#", "y"))
NAME = st.lists(WORD, min_size=1, max_size=3).map(".".join)
BAND = st.sampled_from(BANDS)


@cache
def matches(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """Whether a topic exchange takes a key for a binding: `*` is one word, `#` any number of them."""
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return matches(rest, key) or (bool(key) and matches(pattern, key[1:]))
    return bool(key) and first in {"*", key[0]} and matches(rest, key[1:])


def words(key: str) -> tuple[str, ...]:
    return tuple(key.split("."))


class World:
    """A server with what a namespace and these queues need."""

    def __init__(self, queues: Sequence[str], kind: Kind = "quorum", delays: Delays = "ttl") -> None:
        topology = Topology("p", kind, delays)
        entities = [*topology.base(), *topology.ladder()]
        for queue in queues:
            entities += topology.of_queue(queue)
        self.exchanges = {entity.name: entity for entity in entities if isinstance(entity, Exchange)}
        self.queues = {entity.name: entity for entity in entities if isinstance(entity, Queue)}
        self.bindings: dict[str, list[Binding]] = {name: [] for name in self.exchanges}
        for entity in entities:
            if isinstance(entity, Binding):
                self.bindings[entity.source].append(entity)

    def route(self, exchange: str, key: str) -> set[str]:
        """The queues to which a message goes at once."""
        found = set[str]()
        for binding in self.bindings[exchange]:
            if self._fits(exchange, binding, key):
                found |= self.route(binding.target, key) if binding.to_exchange else {binding.target}
        other = self.exchanges[exchange].arguments.get("alternate-exchange")
        return found or (self.route(str(other), key) if other else found)

    def walk(self, exchange: str, key: str) -> tuple[set[str], float]:
        """The queues where a message ends, and after how many seconds in those on the way."""
        waited = 0.0
        while True:
            (name, *others) = self.route(exchange, key)
            arguments = self.queues[name].arguments
            if "x-message-ttl" not in arguments:
                return {name, *others}, waited
            assert not others
            waited += float(str(arguments["x-message-ttl"])) / 1000
            exchange = str(arguments["x-dead-letter-exchange"])

    def _fits(self, exchange: str, binding: Binding, key: str) -> bool:
        match self.exchanges[exchange].type:
            case "fanout" | "x-delayed-message":
                return True
            case "direct":
                return binding.key == key
            case "topic":
                return matches(words(binding.key), words(key))


def delayed(world: World, units: int, destination: str) -> tuple[set[str], float]:
    return world.walk(TOPOLOGY.level(_delay.top_level(units)), _delay.key(units, destination))


@given(TICKS, NAME, BAND)
@example(1, "a", "low")
@example((1 << _delay.LEVELS) - 1, "a.b.c", "high")
def test_a_delay_is_waited_for_in_full_and_ends_in_its_own_queue_only(units: int, queue: str, band: Band) -> None:
    others = [queue, f"b.{queue}", f"high.{queue}", f"{queue}.b", "a", "b.a"]
    ended, waited = delayed(World(others), units, TOPOLOGY.destination(queue, band))
    assert ended == {TOPOLOGY.ready(queue, band)}
    assert waited == units * _delay.UNIT


@pytest.mark.parametrize("level", range(_delay.LEVELS))
@pytest.mark.parametrize("queue", ["a", "b.a", "0.1", "1", "high.a"])
def test_each_level_alone_delays_by_its_own_time(level: int, queue: str) -> None:
    world = World(["a", "b.a", "0.1", "1", "high.a"])
    assert delayed(world, 1 << level, f"normal.{queue}") == ({f"p.normal.{queue}"}, (1 << level) * 0.125)


@given(TICKS, NAME, BAND)
def test_a_delay_for_a_queue_that_is_gone_ends_among_the_unroutable(units: int, queue: str, band: Band) -> None:
    ended, waited = delayed(World(["still-here"]), units, TOPOLOGY.destination(queue, band))
    assert ended == {TOPOLOGY.unroutable}
    assert waited == units * _delay.UNIT


@given(st.floats(0, _delay.LONGEST, exclude_min=True))
@example(_delay.LONGEST)
@example(59.999)
@example(60.0)
@example(math.nextafter(0, 1))
def test_no_delay_is_shortened_and_none_lengthened_by_more_than_its_rounding(delay: float) -> None:
    waited = _delay.ticks(delay) * _delay.UNIT
    assert -1e-9 <= waited - delay <= (1.0 if delay >= 60 else _delay.UNIT)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        (0.001, 0.125),
        (0.125, 0.125),
        (0.126, 0.25),
        (0.1 + 0.025, 0.125),
        (1.1, 1.125),
        (59.8, 59.875),
        (59.9, 60.0),
        (60.0, 60.0),
        (60.001, 61.0),
        (3600.5, 3601.0),
        (_delay.LONGEST, _delay.LONGEST),
    ],
)
def test_a_delay_is_rounded_up_to_the_unit_and_from_a_minute_on_to_seconds(delay: float, seconds: float) -> None:
    assert _delay.ticks(delay) * _delay.UNIT == seconds


@given(st.floats(60, _delay.LONGEST - 1))
def test_from_a_minute_on_the_three_lowest_levels_are_left_out(delay: float) -> None:
    assert _delay.ticks(delay) % 8 == 0


@pytest.mark.parametrize("delay", [_delay.LONGEST + 1, 1e11, 1e300, math.inf])
def test_what_is_longer_than_the_ladder_waits_as_long_as_the_ladder_can(delay: float) -> None:
    assert _delay.ticks(delay) * _delay.UNIT == _delay.LONGEST


def test_the_ladder_reaches_beyond_eight_years() -> None:
    assert _delay.LONGEST > 8 * 365.25 * 86400


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_what_is_due_now_takes_no_detour(kind: Kind) -> None:
    world = World(["a", "b.a"], kind)
    for queue in ("a", "b.a"):
        for band in BANDS:
            topology = Topology("p", kind)
            assert world.walk(topology.jobs, topology.destination(queue, band)) == ({topology.ready(queue, band)}, 0)
            assert world.walk(topology.dead_letters, queue) == ({topology.dead(queue)}, 0)
