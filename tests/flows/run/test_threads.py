import threading

import cv2
import pytest
import torch
from threadpoolctl import threadpool_info

from flows.run import threads as threads_module
from flows.run.threads import ThreadBudget, threads_each
from flows.sources import video


def all_threads():
    """What each library would start in this thread."""
    found = {info["user_api"]: info["num_threads"] for info in threadpool_info()}
    return found | {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads(), "decoders": video._decoder_threads}


@pytest.mark.parametrize(
    ("cores", "workers", "setting", "each"), [(2, 2, 0, 1), (16, 4, 0, 4), (2, 5, 0, 1), (16, 16, 3, 3), (3, 2, 0, 1)]
)
def test_an_episode_gets_its_share_of_the_cores_unless_set(monkeypatch, cores, workers, setting, each):
    monkeypatch.setattr(threads_module, "usable_cpus", lambda: cores)
    assert threads_each(workers, setting) == each


def test_equal_bytes_want_one_thread(monkeypatch):
    monkeypatch.setattr(threads_module, "usable_cpus", lambda: 16)
    assert threads_each(1, deterministic=True) == 1


def test_every_library_keeps_to_the_budget_in_every_thread_and_is_put_back():
    before, inside = all_threads(), {}
    with ThreadBudget(3) as budget:

        def look():
            budget.apply()
            inside.update(all_threads())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        inside_caller = all_threads()
    assert {"blas", "openmp", "torch", "opencv", "decoders"} <= inside.keys()
    assert set(inside.values()) == set(inside_caller.values()) == {3}
    assert all_threads() == before


def test_a_decoder_has_the_threads_that_were_set(tmp_path):
    import av

    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    before = video.set_decoder_threads(2)
    try:
        with video.VideoDecoder(path) as decoder:
            assert decoder.stream.codec_context.thread_count == 2
    finally:
        video.set_decoder_threads(before)
