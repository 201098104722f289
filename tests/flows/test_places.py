"""Who has a place when."""

import asyncio

from flows.places import Places


def test_places_are_given_in_the_order_they_were_asked_for() -> None:
    async def run() -> list[str]:
        places, served = Places(["0"]), []

        async def work(study: str) -> None:
            place = await places.take(study)
            served.append(study)
            await asyncio.sleep(0)
            places.give_back(place)
            if len(served) < 5:
                await work(study)

        await asyncio.gather(*(work(study) for study in ("a", "b", "c")))
        return served

    assert asyncio.run(run()) == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_study_waits_for_its_own_place_and_lets_others_pass() -> None:
    async def run() -> None:
        places = Places(["0", "1"])
        first, second = await places.take("a"), await places.take("b")
        waiting = asyncio.create_task(places.take("a"))
        passing = asyncio.create_task(places.take("c"))
        await asyncio.sleep(0)
        places.give_back(second)
        assert (await passing).gpu == "1"
        assert not waiting.done()
        places.give_back(first)
        assert (await waiting).gpu == "0"

    asyncio.run(run())


def test_a_study_that_was_forgotten_may_go_where_there_are_fewest() -> None:
    async def run() -> None:
        places = Places(["0", "1"])
        for study in ("a", "b", "a"):
            places.give_back(await places.take(study))
        places.forget("a")
        assert (await places.take("c")).gpu == "0"
        assert (await places.take("a")).gpu == "1"

    asyncio.run(run())


def test_a_place_granted_to_one_that_is_cancelled_goes_to_the_next() -> None:
    async def run() -> None:
        places = Places([])
        place = await places.take("a")
        gone, left, served = (asyncio.create_task(places.take(study)) for study in ("b", "c", "d"))
        await asyncio.sleep(0)
        left.cancel()  # while it waits
        await asyncio.sleep(0)
        places.give_back(place)
        gone.cancel()  # it was granted, and does not know yet
        assert await asyncio.wait_for(served, 30) is place
        assert gone.cancelled()
        assert left.cancelled()

    asyncio.run(run())
