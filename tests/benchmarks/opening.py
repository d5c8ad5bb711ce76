"""What it costs to open an episode for one more of its cameras, beside decoding it.

    python -m tests.benchmarks.opening SOURCE... [--episodes 5]

CPU milliseconds, medians: an episode opened for each of its cameras in turn (its table or record is read, the pictures
of its video are listed), and its frames decoded.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

from extractors.errors import EpisodeError
from flows.config import Config
from flows.sources.detect import open_source


def main() -> None:
    """Prints a line a source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--episodes", type=int, default=5)
    options = parser.parse_args()
    for place in options.sources:
        source = open_source(place, Config().source)
        opening, decoding, frames = [], [], []
        for info in itertools.islice(source.episodes(), options.episodes):
            for camera in info.cameras:
                try:
                    begun = time.process_time()
                    episode = source.open(info, camera)
                    opened = time.process_time()
                    frames.append(sum(1 for _ in episode.pixels))
                except EpisodeError as error:
                    print(f"{info.episode_id} {camera}: {error}")
                    continue
                opening.append(1e3 * (opened - begun))
                decoding.append(1e3 * (time.process_time() - opened))
        print(
            f"{source.kind}: {len(opening)} views, opening {statistics.median(opening):.1f} ms "
            f"({max(opening):.1f} at most), decoding {statistics.median(frames):.0f} frames "
            f"{statistics.median(decoding):.1f} ms"
        )


if __name__ == "__main__":
    main()
