"""The order of an epoch: the same images for any batch size, number of processes and stop."""

from dataclasses import replace
from itertools import chain

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from segkit.data.sampler import EpochBatchSampler, SampleKey
from segkit.training.plan import EpochPlan

sizes = st.integers(1, 40)
batch_sizes = st.integers(1, 9)
worlds = st.integers(1, 5)
few = settings(max_examples=60, deadline=None)


def shares(
    size: int, batch_size: int, world_size: int, epoch: int = 1, start: int = 0
) -> list[list[list[SampleKey]]]:
    """Rank -> step -> keys."""
    result = []
    for rank in range(world_size):
        order = EpochBatchSampler(size, batch_size, seed=5, rank=rank, world_size=world_size)
        order.epoch, order.start = epoch, start
        result.append(list(order))
        assert len(order) == len(result[-1])
    return result


def steps(
    size: int, batch_size: int, world_size: int, epoch: int = 1, start: int = 0
) -> list[list[int]]:
    """The images that count in each step, in the order of the ranks."""
    by_step = zip(*shares(size, batch_size, world_size, epoch, start), strict=True)
    return [[key.index for key in chain(*step) if key.counts] for step in by_step]


def whole_order(size: int, epoch: int = 1) -> list[int]:
    return list(chain(*steps(size, 1, 1, epoch)))


def test_batches_by_hand() -> None:
    order = whole_order(7)
    assert sorted(order) == list(range(7))
    assert steps(7, 4, 1) == [order[:4], order[4:]]
    first, second = shares(7, 2, 2)
    assert [[key.index for key in keys] for keys in first] == [order[:2], order[4:5]]
    assert [[key.index for key in keys] for keys in second] == [order[2:4], order[5:]]
    assert all(key.epoch == 1 and key.counts for key in chain(*first, *second))


def test_epochs_and_seeds_differ() -> None:
    orders = [whole_order(50, epoch) for epoch in (1, 2)]
    other_seed = EpochBatchSampler(50, 1, seed=6)
    other_seed.epoch = 1
    orders.append([key.index for (key,) in other_seed])
    assert orders[0] != orders[1] != orders[2] != orders[0]


@few
@given(sizes, batch_sizes, worlds, st.integers(0, 3))
def test_the_shares_of_all_processes_are_the_order_of_one(
    size: int, batch_size: int, world_size: int, epoch: int
) -> None:
    order, joint = whole_order(size, epoch), batch_size * world_size
    expected = [order[i : i + joint] for i in range(0, size, joint)]
    if joint > 1 and len(expected) > 1 and len(expected[-1]) == 1:
        expected.pop()  # a lonely last image
    assert steps(size, batch_size, world_size, epoch) == expected
    assert steps(size, joint, 1, epoch) == expected


@few
@given(sizes, batch_sizes, worlds)
def test_every_process_has_something_to_do_in_every_step(
    size: int, batch_size: int, world_size: int
) -> None:
    for step in zip(*shares(size, batch_size, world_size), strict=True):
        counts = [sum(key.counts for key in keys) for keys in step]
        assert max(counts) - min(counts) <= 1
        assert max(counts) <= batch_size
        for keys, count in zip(step, counts, strict=True):
            assert len(keys) == max(1, count)


@few
@given(sizes, st.data())
def test_an_epoch_goes_on_with_other_processes_and_batch_sizes(
    size: int, data: st.DataObject
) -> None:
    """Stopped after any step, again and again; all images have their turn once."""
    start, seen = 0, []
    while start < size:
        batch_size, world_size = data.draw(batch_sizes), data.draw(worlds)
        order = EpochBatchSampler(size, batch_size, seed=5, world_size=world_size)
        order.epoch, order.start = 1, start
        done = data.draw(st.integers(min(1, len(order)), len(order)))
        seen += list(chain(*steps(size, batch_size, world_size, 1, start)[:done]))
        plan = EpochPlan(1, 1, size, batch_size, world_size, start=start)
        assert (plan.images_after(0), plan.num_batches) == (start, len(order))
        start = plan.images_after(done)
        assert start == len(seen)
        if done == len(order):
            break
    assert seen == whole_order(size)[: len(seen)]
    assert len(seen) >= size - 1


@few
@given(sizes, batch_sizes, worlds, st.integers(0, 40))
def test_steps_of_a_whole_epoch_do_not_depend_on_the_start(
    size: int, batch_size: int, world_size: int, start: int
) -> None:
    order = EpochBatchSampler(size, batch_size, seed=5, world_size=world_size)
    plan = EpochPlan(1, 1, size, batch_size, world_size)
    whole, images = len(order), plan.images_after(len(order))
    order.start = min(start, size)
    assert replace(plan, start=order.start).images_per_epoch == images
    assert -(-images // (batch_size * world_size)) == whole
    assert len(order) <= whole


def test_the_one_left_out_changes_with_the_epoch() -> None:
    left_out = set()
    for epoch in range(30):
        left_out |= set(range(5)) - set(chain(*steps(5, 2, 1, epoch)))
    assert left_out == set(range(5))


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_a_lonely_image_is_left_out_for_any_number_of_processes(
    batch_size: int, world_size: int
) -> None:
    assert [len(step) for step in steps(17, batch_size, world_size)] == [8, 8]
    assert [len(step) for step in steps(1, batch_size, world_size)] == [1]
    assert steps(17, batch_size, world_size, start=16) == []
