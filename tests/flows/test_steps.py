import asyncio

import pytest

from flows.steps import Steps
from tests.flows.test_hospital_worker import in_loop


async def value(found: object) -> object:
    return found


async def fail(error: Exception) -> object:
    raise error


@in_loop
async def test_who_follows_a_step_sees_what_it_came_to_also_afterwards() -> None:
    steps = Steps([["one", "two"], [], ["three"]])
    assert steps.stages == [["one", "two"], ["three"]]
    early = asyncio.create_task(steps.follow("one"))
    assert await steps.do("one", value(1)) == 1
    assert (await early, await steps.follow("one")) == (1, 1)
    with pytest.raises(ValueError, match="broken"):
        await steps.do("two", fail(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        await steps.follow("two")


@in_loop
async def test_an_end_tells_why_to_all_whose_step_was_not_reached() -> None:
    steps = Steps([["one"], ["two"]])
    await steps.do("one", value(1))
    waiting = [asyncio.create_task(steps.follow("two")), asyncio.create_task(steps.over())]
    await asyncio.sleep(0)
    steps.end(ValueError("stopped"))
    assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == ["stopped"] * 2
    assert await steps.follow("one") == 1


@in_loop
async def test_a_stage_is_reached_when_one_of_its_steps_begins_or_never() -> None:
    steps = Steps([["one", "two"], ["three"]])
    first, second = (asyncio.create_task(steps.reached(stage)) for stage in steps.stages)
    await asyncio.sleep(0)
    assert not first.done()
    await steps.do("two", value(2))
    assert await first
    assert not second.done()
    steps.end()
    assert not await second
    await steps.over()


@in_loop
async def test_a_follower_that_goes_away_takes_nothing_with_it() -> None:
    steps = Steps([["one"]])
    gone = asyncio.create_task(steps.follow("one"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert await steps.do("one", value(1)) == 1
