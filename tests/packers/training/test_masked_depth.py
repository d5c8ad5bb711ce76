import numpy as np
import pytest

from extractors.errors import PacketError
from packers.reader import Packet
from packers.training.targets import depth_variants, masked_depth
from tests.packers import examples


@pytest.fixture(scope="module")
def packet(tmp_path_factory):
    with Packet(examples.write_example(tmp_path_factory.mktemp("packet"))) as opened:
        yield opened


def test_tight_depth_is_the_object_alone(packet):
    target = masked_depth(packet, "tight")
    mask = packet["masks/object"]
    np.testing.assert_array_equal(target.weights, mask)
    np.testing.assert_array_equal(target.values, np.where(mask, packet["depth/relative"], 0))
    assert target.values.dtype == target.weights.dtype == np.float32


def test_a_dilated_variant_takes_in_what_surrounds_the_object(packet):
    tight, wide = masked_depth(packet, "tight"), masked_depth(packet, "dilate4")
    np.testing.assert_array_equal(wide.weights, packet["masks/object_dilate4"])
    assert wide.weights.sum() > 2 * tight.weights.sum()


def test_object_weighted_depth_counts_the_object_five_times(packet):
    target = masked_depth(packet, "weighted")
    np.testing.assert_array_equal(target.weights, np.where(packet["masks/object"], 5, 1))
    np.testing.assert_array_equal(target.values, packet["depth/relative"])
    assert set(np.unique(masked_depth(packet, "weighted", weight=2.5).weights)) == {1, 2.5}


def test_pixels_without_a_reading_weigh_nothing(packet):
    target = masked_depth(packet, "full", depth="depth/metric")
    assert (target.weights[:, :, 0] == 0).all()
    assert (target.values[:, :, 0] == 0).all()
    assert (target.weights[:, :, 1:] == 1).all()


def test_a_window_is_that_part_of_the_whole(packet):
    whole, part = masked_depth(packet, "weighted"), masked_depth(packet, "weighted", start=2, stop=4)
    np.testing.assert_array_equal(part.values, whole.values[2:4])
    np.testing.assert_array_equal(part.weights, whole.weights[2:4])


def test_the_variants_are_those_of_the_packets_masks(packet):
    assert depth_variants(packet) == ("full", "tight", "dilate2", "dilate4", "weighted")


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("loose", {}, "choose full, tight"),
        ("dilate8", {}, "has no 'masks/object_dilate8'"),
        ("tight", {"depth": "depth/other"}, "has no 'depth/other'"),
        ("weighted", {"weight": -1}, "at least 0"),
    ],
)
def test_what_the_packet_cannot_give_is_refused(packet, variant, options, message):
    with pytest.raises(PacketError, match=message):
        masked_depth(packet, variant, **options)
