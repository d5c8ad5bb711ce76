import torch

from extractors.backends.nano.colours import LEVELS, colour_bins, colour_tables, look_up

SIDE = 32
RED, NEARLY_RED, BLUE, GREEN = (0.9, -0.9, -0.9), (0.7, -0.9, -0.9), (-0.9, -0.9, 0.9), (-0.9, 0.9, -0.9)


def picture(colour):
    """(1, 3, SIDE, SIDE) of one colour in -1 .. 1."""
    return torch.tensor(colour).reshape(1, 3, 1, 1).expand(1, 3, SIDE, SIDE)


def halves():
    """Of a frame whose left half is red and of class 1, and whose right half is blue and of class 0."""
    planes = torch.cat([picture(RED)[..., : SIDE // 2], picture(BLUE)[..., SIDE // 2 :]], 3)
    shares = torch.zeros(1, 2, SIDE // 4, SIDE // 4)
    shares[:, 1, :, : SIDE // 8], shares[:, 0, :, SIDE // 8 :] = 1, 1
    return planes, shares


def test_every_colour_has_a_bin_and_the_brightest_is_the_last():
    planes = torch.linspace(-1, 1, 400).reshape(1, 1, 20, 20).expand(1, 3, 20, 20)
    bins = colour_bins(planes)
    assert bins.shape == (1, 10, 10)
    assert bins.min() == 0
    assert bins.max() == LEVELS**3 - 1


def test_a_colour_speaks_for_the_class_that_has_it():
    planes, shares = halves()
    tables = colour_tables(colour_bins(planes), shares, 1)
    red, nearly, blue, unseen = (
        look_up(tables, colour_bins(picture(each)))[0, :, 0, 0] for each in (RED, NEARLY_RED, BLUE, GREEN)
    )
    assert red[1] > 0.9
    assert blue[0] > 0.9
    # The next bin is believed as well: noise and light shift colours.
    assert nearly[1] > 0.9
    assert colour_bins(picture(NEARLY_RED))[0, 0, 0] != colour_bins(picture(RED))[0, 0, 0]
    assert unseen.abs().max() == 0


def test_a_class_of_few_pixels_says_less_of_a_colour_that_both_have():
    shares = torch.zeros(1, 2, SIDE // 4, SIDE // 4)
    shares[:, 0] = 1
    shares[0, :, 0, 0] = torch.tensor([0.0, 1.0])
    same = colour_bins(picture(RED))
    told = look_up(colour_tables(same, shares, 1), same)[0, :, 0, 0]
    assert 0 < told[1] < told[0]


def test_clips_keep_their_colours_apart():
    planes, shares = halves()
    other = torch.flip(shares, (1,))
    bins = colour_bins(torch.cat([planes, planes]))
    told = look_up(colour_tables(bins, torch.cat([shares, other]), 2), bins)
    assert told.shape == (2, 2, SIDE // 2, SIDE // 2)
    torch.testing.assert_close(told[0], torch.flip(told[1], (0,)))
    assert told[0, 1, 0, 0] > 0.9


def test_light_at_the_end_of_the_scale_is_not_lost():
    white = colour_bins(picture((1.0, 1.0, 1.0)))
    shares = torch.ones(1, 1, SIDE // 4, SIDE // 4)
    told = look_up(colour_tables(white, shares, 1), white)
    assert float(told.min()) > 0.99
