"""What goes wrong between the broker and its server."""

import asyncio
import time
from collections.abc import Callable

import pytest

from jobq.errors import BrokerRefused, BrokerUnavailable, OutcomeUnknown
from jobq.model import Again, Claim, Done, Stamp, Trail
from jobq_redis import RedisBroker
from tests.proxy import Proxy
from tests.redis.tools import WORKER, Client, Tools, claim, drain, heard, ids, job, lease, put, until
from tests.servers import Server, free_port

Start = Callable[..., Server]


def through(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


async def test_nobody_listens() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(BrokerUnavailable) as caught:
        async with RedisBroker(url):
            pass
    assert not isinstance(caught.value, OutcomeUnknown)
    assert str(caught.value) == (
        f"cannot reach Redis at {url} (connection refused). Is it running? Or use --broker sqlite:///jobq.db"
    )


async def test_the_host_has_no_address() -> None:
    with pytest.raises(BrokerUnavailable, match=r"cannot reach Redis at redis://no-such-host\.invalid "):
        async with RedisBroker("redis://no-such-host.invalid"):
            pass


async def test_a_server_that_does_not_answer_is_given_up_in_time(start: Start) -> None:
    server = start()
    server.pause()
    with pytest.raises(BrokerUnavailable, match=r"no answer in time|lost before the reply"):
        async with RedisBroker(f"{server.url}?socket_timeout=0.2&socket_connect_timeout=0.2"):
            pass


async def test_a_server_that_stops_answering_leaves_the_outcome_unknown(start: Start, tools: Tools) -> None:
    server = start()
    broker = await tools.broker(f"{server.url}?socket_timeout=0.2")
    server.pause()
    with pytest.raises(OutcomeUnknown, match="no answer in time"):
        await put(broker, "a")
    server.resume()
    await put(broker, "a")
    assert await drain(broker) == ["a"]


async def test_a_wrong_password_is_named_and_not_shown(start: Start) -> None:
    server = start("--requirepass", "right")
    for login in (":hunter2@", "nobody:hunter2@"):
        url = server.url.replace("://", f"://{login}")
        with pytest.raises(BrokerRefused, match="does not accept the user or the password") as caught:
            async with RedisBroker(url):
                pass
        assert "hunter2" not in str(caught.value)
        assert ":***@" in str(caught.value)
    with pytest.raises(BrokerRefused):
        async with RedisBroker(server.url):
            pass


async def test_a_right_password_opens(start: Start, tools: Tools) -> None:
    server = start("--requirepass", "p@ss/w:rd")
    broker = await tools.broker(server.url.replace("://", "://:p%40ss%2Fw%3Ard@"))
    await put(broker, "a")
    assert broker.url == server.url.replace("://", "://:***@")
    assert await drain(broker) == ["a"]


async def test_a_database_of_its_own(start: Start, tools: Tools) -> None:
    server = start()
    broker, other = await tools.broker(f"{server.url[:-1]}3"), await tools.broker(server.url)
    await put(broker, "a")
    assert await drain(other) == []
    assert await drain(broker) == ["a"]


async def test_a_lost_reply_to_enqueue_leaves_one_job(start: Start, tools: Tools) -> None:
    server = start()
    async with Proxy("127.0.0.1", server.port) as proxy:
        broker, direct = await tools.broker(through(proxy)), await tools.broker(server.url)
        await put(direct, "first", client="d")  # so that the server knows the script
        proxy.lose_replies()
        with pytest.raises(OutcomeUnknown):
            await put(broker, "a", "b")
        proxy.heal()
        assert await drain(direct) == ["first", "a", "b"]  # it did happen, and has even ended since
        await put(broker, "a", "b")
        assert await drain(direct) == []


async def test_a_lost_reply_to_a_turn_loses_no_delivery_and_settles_once(start: Start, tools: Tools) -> None:
    server = start()
    async with Proxy("127.0.0.1", server.port) as proxy:
        broker = await tools.broker(through(proxy))
        await put(broker, "a", "b", "c")
        await lease(broker)
        first = await claim(broker, limit=1, resume=0)
        (a,) = first.deliveries
        again = Again("a", a.epoch, Trail(attempt=1), delay=60)
        proxy.lose_replies()
        with pytest.raises(OutcomeUnknown):
            await broker.turn([again], Claim(WORKER.id, ["default"], 2, resume=a.epoch))
        proxy.heal()
        turn = await broker.turn([again], Claim(WORKER.id, ["default"], 2, resume=a.epoch))
        assert [token.id for token in turn.refused] == ["a"]
        assert ids(turn.deliveries) == ["b", "c"]
        assert turn.next_due is not None


async def test_a_connection_closed_while_idle_is_replaced_without_an_error(start: Start, tools: Tools) -> None:
    server = start()
    broker = await tools.broker(server.url)
    await put(broker, "a")
    server.kill()
    server.start()
    await heard()
    await put(broker, "b", number=2)
    assert await drain(broker) == ["b"]


async def test_a_restart_while_waiting_is_reported_and_survived(start: Start, tools: Tools) -> None:
    server = start()
    broker = await tools.broker(server.url)
    task = asyncio.ensure_future(broker.wait(["default"], 30))
    client = await tools.client(server.url)
    await until(lambda: _blocked(client))
    server.kill()
    with pytest.raises(BrokerUnavailable):
        await task
    server.start()
    await put(broker, "a")
    await broker.wait(["default"], 30)
    assert await drain(broker) == ["a"]


async def _blocked(client: Client) -> bool:
    clients = await client.client_list()
    return any("blpop" in one["cmd"] for one in clients)


async def test_a_cancelled_wait_keeps_its_connection_for_the_next(start: Start, tools: Tools) -> None:
    server = start()
    async with Proxy("127.0.0.1", server.port) as proxy:
        broker, other = await tools.broker(through(proxy)), await tools.broker(server.url)
        client = await tools.client(server.url)
        for _ in range(20):
            task = asyncio.ensure_future(broker.wait(["default"], 30))
            await until(lambda: _blocked(client))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert proxy.opened < 6
        task = asyncio.ensure_future(broker.wait(["default"], 30))
        await put(other, "a")
        await task


@pytest.mark.parametrize("cancelled", [True, False])
async def test_leaving_does_not_wait_for_a_silent_server_and_lets_go_who_waits(
    start: Start, *, cancelled: bool
) -> None:
    server = start()
    async with RedisBroker(server.url) as broker:
        server.pause()
        task = asyncio.ensure_future(broker.wait(["default"], 30))
        async with asyncio.timeout(5):
            while not broker._wakes._looks:
                await asyncio.sleep(0)
        if cancelled:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    async with asyncio.timeout(1):
        await asyncio.gather(task, return_exceptions=cancelled)


async def test_a_token_that_nobody_waits_for_any_more_goes_to_another_sleeper(start: Start, tools: Tools) -> None:
    server = start()
    gone, sleeper, other = [await tools.broker(server.url) for _ in range(3)]
    client = await tools.client(server.url)
    task = asyncio.ensure_future(gone.wait(["default"], 30))
    await until(lambda: _blocked(client))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    woken = asyncio.ensure_future(sleeper.wait(["default"], 30))
    await put(other, "a")
    async with asyncio.timeout(1.5):
        await woken


async def test_a_cancelled_command_does_not_mix_up_replies(start: Start, tools: Tools) -> None:
    server = start()
    broker = await tools.broker(server.url)
    for number in range(1, 40):
        task = asyncio.ensure_future(broker.enqueue([job(f"{number}")], Stamp("c", number)))
        for _ in range(number % 8):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        answers = await broker.enqueue([job(f"x{number}")], Stamp("x", number))
        assert [answer.id for answer in answers] == [f"x{number}"]
        assert (await broker.heartbeat(WORKER, [], 60)).now > 1e9
    await lease(broker)
    turn = await claim(broker, limit=1000)
    names = ids(turn.deliveries)
    assert {f"x{number}" for number in range(1, 40)} <= set(names)
    assert len(names) == len(set(names))
    refused = await claim(broker, *(Done(one.job.id, one.epoch) for one in turn.deliveries), limit=0)
    assert list(refused.refused) == []


async def test_many_calls_at_once_share_a_few_connections(start: Start, tools: Tools) -> None:
    server = start()
    async with Proxy("127.0.0.1", server.port) as proxy:
        broker = await tools.broker(through(proxy))
        await asyncio.gather(*(broker.enqueue([job(f"{n}")], Stamp(f"c{n}", 1)) for n in range(100)))
        assert proxy.opened <= 8
        assert len(await drain(broker)) == 100
