"""What there has to be on the server."""

from itertools import pairwise

import pytest

from jobq_rmq import _delay
from jobq_rmq._topology import BANDS, Binding, Entity, Exchange, Kind, Queue, Topology, band_of

LONGEST_QUEUE = "q" * 128
LONGEST_PREFIX = "p" * 32
KINDS: tuple[Kind, ...] = ("quorum", "classic")


def everything(topology: Topology, *queues: str) -> list[Entity]:
    entities = [*topology.base(), *topology.ladder()]
    for queue in queues:
        entities += topology.of_queue(queue)
    return entities


def queues(topology: Topology, *names: str) -> dict[str, Queue]:
    return {entity.name: entity for entity in everything(topology, *names) if isinstance(entity, Queue)}


def test_the_arguments_of_quorum_queues() -> None:
    made = queues(Topology("p", "quorum"), "a")
    common = {"x-queue-type": "quorum", "x-queue-leader-locator": "balanced"}
    safe = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    assert made["p.unroutable"].arguments == common
    assert made["p.dead.a"].arguments == common | {"x-delivery-limit": 2**31 - 1}
    assert made["p.normal.a"].arguments == common | safe | {
        "x-dead-letter-exchange": "p.dlx",
        "x-dead-letter-routing-key": "a",
        "x-delivery-limit": 1000,
    }
    assert made["p.delay.quorum.v1.03"].arguments == common | safe | {
        "x-dead-letter-exchange": "p.delay.quorum.v1.02",
        "x-message-ttl": 1000,
        "x-delivery-limit": 2**31 - 1,
    }


def test_the_arguments_of_classic_queues() -> None:
    made = queues(Topology("p", "classic"), "a")
    assert made["p.unroutable"].arguments == {"x-queue-type": "classic"}
    assert made["p.dead.a"].arguments == {"x-queue-type": "classic"}
    assert made["p.high.a"].arguments == {
        "x-queue-type": "classic",
        "x-dead-letter-exchange": "p.dlx",
        "x-dead-letter-routing-key": "a",
    }
    assert made["p.delay.classic.v1.00"].arguments == {
        "x-queue-type": "classic",
        "x-dead-letter-exchange": "p.delay.classic.v1.out",
        "x-message-ttl": 125,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_queue_names_its_type_and_no_argument_that_some_server_refuses(kind: Kind) -> None:
    for queue in queues(Topology("p", kind), "a").values():
        assert queue.arguments["x-queue-type"] == kind
        assert not {"x-queue-mode", "x-queue-version", "x-expires", "x-max-priority"} & queue.arguments.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_is_under_the_prefix(kind: Kind) -> None:
    for entity in everything(Topology("my-prefix", kind, "plugin"), "a", "b.c"):
        names = [entity.source, entity.target] if isinstance(entity, Binding) else [entity.name]
        assert all(name.startswith("my-prefix.") for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_bound_has_been_made_before(kind: Kind) -> None:
    exchanges, made = set[str](), set[str]()
    for entity in everything(Topology("p", kind, "plugin"), "a", "b.a"):
        match entity:
            case Exchange():
                exchanges.add(entity.name)
            case Queue():
                made.add(entity.name)
            case Binding():
                assert entity.source in exchanges
                assert entity.target in (exchanges if entity.to_exchange else made)


@pytest.mark.parametrize("kind", KINDS)
def test_where_dead_letters_go_there_is_an_exchange_that_loses_none(kind: Kind) -> None:
    made = everything(Topology("p", kind), "a")
    exchanges = {entity.name: entity for entity in made if isinstance(entity, Exchange)}
    levels = {_level for _level in exchanges if ".delay." in _level and not _level.endswith(".out")}
    for queue in queues(Topology("p", kind), "a").values():
        target = queue.arguments.get("x-dead-letter-exchange")
        if target is not None and target not in levels:
            assert exchanges[str(target)].arguments == {"alternate-exchange": "p.unroutable"}


def test_names_of_different_things_differ_whatever_the_queues_are_called() -> None:
    nasty = ["a", "dead.a", "high.a", "jobs", "dlx", "unroutable", "delay.quorum.v1.00", "normal", "dead", "..", "."]
    entities = everything(Topology("p", "quorum", "plugin"), *nasty)
    for kind in (Exchange, Queue):
        names = [entity.name for entity in entities if isinstance(entity, kind)]
        assert len(names) == len(set(names))


def test_only_who_wants_the_plug_in_needs_what_is_of_its_type() -> None:
    extra = [one for one in Topology("p", "classic", "plugin").base() if one not in Topology("p", "classic").base()]
    assert extra == [
        Exchange("p.delayed.classic", "x-delayed-message", {"x-delayed-type": "fanout"}),
        Binding("p.delayed.classic", "p.delay.classic.v1.out", to_exchange=True),
    ]


def test_both_types_may_have_a_ladder_under_one_prefix() -> None:
    ladders = [{entity.name for entity in Topology("p", kind).ladder() if isinstance(entity, Queue)} for kind in KINDS]
    assert not ladders[0] & ladders[1]


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_keys_of_the_longest_queue_have_at_most_255_bytes(kind: Kind) -> None:
    topology = Topology(LONGEST_PREFIX, kind)
    texts = [_delay.key((1 << _delay.LEVELS) - 1, topology.destination(LONGEST_QUEUE, band)) for band in BANDS]
    for entity in everything(topology, LONGEST_QUEUE):
        texts += [entity.source, entity.target, entity.key] if isinstance(entity, Binding) else [entity.name]
    assert max(map(len, texts)) <= 255


def test_each_level_waits_twice_as_long_as_the_one_below() -> None:
    waits = [queue.arguments["x-message-ttl"] for queue in Topology("p", "quorum").ladder() if isinstance(queue, Queue)]
    assert waits[0] == 125
    assert all(isinstance(one, int) and two == 2 * one for one, two in pairwise(waits))


def test_priorities_fold_to_three_bands() -> None:
    assert [band_of(priority, 1) for priority in range(5)] == ["low", "low", "normal", "high", "high"]


def test_suspects_have_a_band_of_their_own_whatever_their_priority() -> None:
    assert {band_of(priority, 2) for priority in range(5)} == {"suspects"}
