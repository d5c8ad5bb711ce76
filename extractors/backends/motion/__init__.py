"""Finds the manipulated object by its motion, without weights; `MotionSegmenter` is its face."""

from extractors.backends.motion.segmenter import MotionSegmenter

__all__ = ["MotionSegmenter"]
