"""A stage ahead of the next gives the same items, waits for nobody too long and stops when asked."""

import threading

import pytest
import torch

from cvvae_cli.engine.ahead import ahead

GPU, CPU = torch.device("cuda"), torch.device("cpu")  # names only: nothing is computed there


def counted(made, stop=6, failing_at=None):
    try:
        for number in range(stop):
            if number == failing_at:
                raise ValueError("a bad frame")
            made.append(number)
            yield number
    finally:
        made.append("closed")


@pytest.mark.parametrize("device", [GPU, CPU])
def test_all_items_come_in_order(device):
    made = []
    assert list(ahead(counted(made), device)) == list(range(6))
    assert made == [*range(6), "closed"]


def test_one_item_waits_at_most_and_a_thread_makes_it():
    made, names = [], set()

    def items():
        for number in counted(made):
            names.add(threading.current_thread().name)
            yield number

    for number in ahead(items(), GPU):
        assert len([m for m in made if m != "closed"]) <= number + 2
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_an_error_comes_after_the_items_before_it():
    items = ahead(counted([], failing_at=3), GPU)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="a bad frame"):
        next(items)


def test_leaving_early_closes_the_stage_and_its_thread():
    made, threads = [], threading.active_count()
    running = ahead(counted(made, stop=1000), GPU)
    assert next(running) == 0
    running.close()
    assert made[-1] == "closed"
    assert len(made) <= 3
    assert threading.active_count() == threads
