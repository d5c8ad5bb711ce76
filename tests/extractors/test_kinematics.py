import numpy as np
import pytest

from extractors.errors import GeometryError, ShapeError
from extractors.kinematics import hand_poses, read_urdf

ARM = """<robot name="arm">
  <link name="base"/><link name="upper"/><link name="lower"/><link name="hand"/><link name="finger"/>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/><origin xyz="0 0 0.5"/><axis xyz="0 0 2"/>
  </joint>
  <joint name="elbow" type="continuous">
    <parent link="upper"/><child link="lower"/><origin xyz="0.3 0 0" rpy="0 0 0"/><axis xyz="0 1 0"/>
  </joint>
  <joint name="slide" type="prismatic">
    <parent link="lower"/><child link="hand"/><origin xyz="0.2 0 0" rpy="1.5707963267948966 0 0"/><axis xyz="1 0 0"/>
  </joint>
  <joint name="tip" type="fixed"><parent link="hand"/><child link="finger"/><origin xyz="0 0 0.1"/></joint>
</robot>"""

NAMES = ("shoulder", "elbow", "slide")


def place(values, **named):
    return hand_poses(read_urdf(ARM), NAMES, np.array([values], float), **named)[0, :3, 3]


def test_links_are_where_their_joints_put_them():
    # The fixed joint before the tip turns its z axis to -y of the arm.
    np.testing.assert_allclose(place([0, 0, 0]), [0.5, -0.1, 0.5], atol=1e-9)
    np.testing.assert_allclose(place([0, 0, 0], hand="hand"), [0.5, 0, 0.5], atol=1e-9)
    np.testing.assert_allclose(place([np.pi / 2, 0, 0.05], hand="hand"), [0, 0.55, 0.5], atol=1e-9)
    np.testing.assert_allclose(place([0, np.pi / 2, 0], hand="hand"), [0.3, 0, 0.3], atol=1e-9)


def test_a_joint_that_mimics_another_follows_it():
    text = ARM.replace(
        '<joint name="slide" type="prismatic">',
        '<joint name="slide" type="prismatic"><mimic joint="elbow" multiplier="0.1" offset="0.02"/>',
    )
    found = hand_poses(read_urdf(text), ("shoulder", "elbow"), np.array([[0.0, 0.0]]), "hand")
    np.testing.assert_allclose(found[0, :3, 3], [0.52, 0, 0.5], atol=1e-9)


def test_rows_that_are_missing_are_nan():
    found = hand_poses(read_urdf(ARM), NAMES, np.array([[0, 0, 0], [0, np.nan, 0]], float))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1, :3, 3]).any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no xml", "not URDF"),
        ("<robot/>", "no joints"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]>" + ARM, "document type"),
        (ARM.replace("continuous", "floating"), "one value a joint"),
        (ARM.replace('xyz="0 1 0"', 'xyz="0 0 0"'), "no axis"),
        (ARM.replace('xyz="0 0 0.5"', 'xyz="0 0"'), "three numbers"),
    ],
)
def test_what_is_no_description_is_refused(text, words):
    with pytest.raises(GeometryError, match=words):
        read_urdf(text)


def test_names_that_are_not_in_it_are_refused():
    joints = read_urdf(ARM)
    with pytest.raises(GeometryError, match="no joint 'wrist'"):
        hand_poses(joints, ("wrist",), np.zeros((1, 1)))
    with pytest.raises(GeometryError, match="hand_link"):
        hand_poses(joints, NAMES, np.zeros((1, 3)), "palm")
    with pytest.raises(GeometryError, match="hangs on joint 'slide'"):
        hand_poses(joints, ("shoulder", "elbow"), np.zeros((1, 2)))
    with pytest.raises(ShapeError, match="must be"):
        hand_poses(joints, NAMES, np.zeros((1, 2)))


def test_two_hands_are_refused_with_what_to_set():
    second = '<joint name="other" type="fixed"><parent link="hand"/><child link="thumb"/></joint></robot>'
    with pytest.raises(GeometryError, match=r"\['finger', 'thumb'\] could each be the hand"):
        hand_poses(read_urdf(ARM.replace("</robot>", second)), NAMES, np.zeros((1, 3)))
