"""Settings that every test shares."""

import segkit  # isort: skip  # noqa: F401  (first: sets OMP_WAIT_POLICY before torch is imported)

import gc

import pytest

gc.disable()  # until all is imported, which stays


@pytest.fixture(autouse=True)
def _no_job_of_hydra() -> None:
    """A script that ran here before leaves its job behind, which would end with its process."""
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().cfg = None


def pytest_configure(config: pytest.Config) -> None:
    """Set up the process that tests run in: with -n those that are started, not the first one."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import torch
    from quick_configs import compose_quickly

    # One thread: the suite shares its cores with loader workers, and the thread count changes bits.
    torch.set_num_threads(1)
    # The first backward starts autograd's threads, one for each device that is there. It is done
    # here, since tests with made-up CUDA tensors would start some, and no fork of theirs could
    # train then.
    torch.ones(1, requires_grad=True).sum().backward()
    compose_quickly()


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a table whose test is marked ``quick`` the default run takes the rows that are named."""
    for item in items:
        mark = item.get_closest_marker("quick")
        if mark is not None and not any(text in item.name for text in mark.args):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Spare each collection of garbage the objects of the libraries, which stay until the end.

    Configurations are made of thousands of small objects, so it is collected more seldom, too.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(30_000, 10, 10)
