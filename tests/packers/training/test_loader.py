import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import ConfigError
from packers.training import Depth, PacketBatches, PacketDataset, PacketLoader, Reading, Tracks, Window
from tests.packers.training import packets

TARGETS = (Depth(size=(12, 16)), Tracks())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    for number, frames in enumerate((9, 14, 6, 11)):
        packets.write(root, f"episode_{number}", frames, episode=number)
    return root


@pytest.fixture(scope="module")
def dataset(folder):
    return PacketDataset(folder, Window(2, 1), TARGETS)


def places(batch):
    return list(zip(batch["packet"].tolist(), batch["start"].tolist(), strict=True))


@pytest.mark.parametrize(("workers", "options"), [(0, {}), (1, {}), (3, {}), (2, {"multiprocessing_context": "spawn"})])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_any_number_of_workers_gives_the_same_samples_in_the_same_order(dataset, workers, options):
    loader = PacketLoader(dataset, 5, workers=workers, seed=3, **options)
    plain = PacketBatches(dataset, 5, seed=3)
    for _ in range(2):
        count = 0
        for found, expected in zip(loader, plain, strict=True):
            assert found.keys() == expected.keys()
            for key in expected:
                np.testing.assert_array_equal(found[key].numpy(), expected[key], err_msg=key)
            count += 1
        assert count == len(plain)
    assert loader.epoch == plain.epoch == 2


def test_every_window_comes_once_an_epoch_and_epochs_differ(dataset):
    loader = PacketBatches(dataset, 4)
    first, second = ([place for batch in loader for place in places(batch)] for _ in range(2))
    assert sorted(first) == sorted(second) == [dataset.table.place(n) for n in range(len(dataset))]
    assert first != second
    in_order = [place for batch in PacketBatches(dataset, 4, seed=None) for place in places(batch)]
    assert in_order == sorted(in_order)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 30), st.booleans())
def test_a_position_resumes_exactly(dataset, batch_size, stop, drop_last):
    drop_last = drop_last and batch_size <= len(dataset)

    def stream(loader, count):
        return [places(b) for b in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), count)]

    plain = PacketDataset.__new__(PacketDataset)
    plain.__dict__ |= dataset.__dict__ | {"targets": ()}
    whole = stream(PacketBatches(plain, batch_size, drop_last=drop_last), stop + 6)
    stopped = PacketBatches(plain, batch_size, drop_last=drop_last)
    assert stream(stopped, stop) == whole[:stop]
    resumed = PacketBatches(plain, batch_size, drop_last=drop_last)
    resumed.load_state_dict(stopped.state_dict())
    assert stream(resumed, 6) == whole[stop:]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_position_counts_what_was_given_out_and_not_what_workers_read_ahead(dataset):
    loader = PacketLoader(dataset, 4, workers=2, prefetch_factor=3)
    whole = [places(batch) for batch in PacketBatches(dataset, 4)]
    for _ in zip(range(2), loader, strict=False):
        pass
    assert loader.state_dict()["position"] in (2, 3)
    resumed = PacketLoader(dataset, 4)
    resumed.load_state_dict(loader.state_dict())
    assert [places(batch) for batch in resumed] == whole[loader.position :]


def test_a_position_of_another_order_is_refused(dataset, folder):
    state = PacketBatches(dataset, 4, seed=1).state_dict()
    for other in (PacketBatches(dataset, 4, seed=2), PacketBatches(PacketDataset(folder, Window(1, 1)), 4, seed=1)):
        with pytest.raises(ConfigError, match="another seed"):
            other.load_state_dict(state)
    assert torch.equal(torch.tensor(state["position"]), torch.tensor(0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9))
def test_ranks_share_an_epoch_without_overlap_in_equal_parts(dataset, ranks, batch_size):
    loaders = [PacketBatches(dataset, batch_size, rank=rank, ranks=ranks) for rank in range(ranks)]
    parts = [np.concatenate(loader._left()).tolist() for loader in loaders]
    assert len({len(loader) for loader in loaders}) == len({len(part) for part in parts}) == 1
    everything = [number for part in parts for number in part]
    assert len(set(everything)) == len(everything) == len(dataset) // ranks * ranks


def test_windows_that_cannot_be_read_are_left_out_and_counted(tmp_path, caplog):
    packets.write(tmp_path, "good", 6)
    bad = packets.write(tmp_path, "bad", 6)
    dataset = PacketDataset(tmp_path, Window(2, 1), reading=Reading(damaged="skip"))
    bad.unlink()
    loader = PacketLoader(dataset, 3)
    batches = list(loader)
    assert loader.skipped == sum(int(batch["skipped"]) for batch in batches) == 4
    assert sum(len(batch.get("packet", ())) for batch in batches) == 4
    assert "a window is skipped" in caplog.text


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"rank": 2, "ranks": 2}, {"batch_size": 99, "drop_last": True}])
def test_a_loader_that_would_give_nothing_is_refused(dataset, wrong):
    with pytest.raises(ConfigError):
        PacketBatches(dataset, **wrong)


def test_torchs_own_data_loader_takes_the_dataset(dataset):
    from torch.utils.data import DataLoader

    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["pixels"].shape == (3, 3, 24, 32, 3)
    assert batch["depth"].dtype == torch.float32
