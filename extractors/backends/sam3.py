"""SAM 3 (Meta, 2025) through `transformers`: masks from text, over a clip or on key frames.

The library's processors need torchvision, its models do not: pixels, tokens, sessions and masks are prepared and read
here. Duplicates, specks and holes are removed here as well (see mask_cleanup.py).

Memory stays bounded on clips of any length: one frame is on the device at a time, and of the tracker's memory only what
it still reads is kept, so that identities run through the whole clip and results are those of the unbounded session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray
from torch import Tensor

from extractors.advance import advance
from extractors.backends.devices import arithmetic
from extractors.backends.mask_cleanup import clean_logits, keep_distinct, masks_at_size
from extractors.backends.pretrained import (
    HalfPrecision,
    check_transformers,
    choose_precision,
    load_pretrained,
    load_tokenizer,
    quiet,
)
from extractors.backends.prompted import Found, PromptedSegmenter
from extractors.errors import ConfigError, MissingDataError
from extractors.mask_choice import Candidate
from extractors.mask_linking import Detection, MaskLinker, rgb_frames
from extractors.packed_masks import PackedMasks
from extractors.types import Frames, Size

check_transformers("sam3", "Sam3VideoModel")

from transformers import CLIPTokenizer, Sam3VideoModel  # noqa: E402 - after the check that says what is missing
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession  # noqa: E402

Plan = Literal["video", "frames"]

N_TOKENS = 32
"""Length that texts are padded or cut to."""

SESSION = (
    "processed_frames",
    "prompt_input_ids",
    "prompt_attention_masks",
    "obj_id_to_prompt_id",
    "output_dict_per_obj",
    "mask_inputs_per_obj",
    "frames_tracked_per_obj",
    "obj_id_to_tracker_score_frame_wise",
    "suppressed_obj_ids",
    "obj_first_frame_idx",
    "unmatched_frame_inds",
    "overlap_pair_to_frame_inds",
)
"""What is read and dropped of the library's session, which promises none of it: pyproject.toml pins its version."""

_ADVICE = (
    "facebook/sam3 is gated: ask for access on its hub page, set HF_TOKEN or run `hf auth login`, then `cuepack models "
    "fetch sam3`, or name a local copy with masks.weights; masks.backend=grounded-sam has open weights, "
    "masks.backend=nano needs none"
)


class Sam3(PromptedSegmenter):
    """Masks by SAM 3; see the module's text."""

    backend = "sam3"

    def __init__(
        self,
        *,
        weights: Path,
        device: str = "auto",
        precision: HalfPrecision = "auto",
        plan: Plan = "video",
        threshold: float | None = None,
        new_threshold: float | None = None,
        **settings: Any,
    ) -> None:
        """Loads the weights.

        Args:
            weights: folder with config.json, model.safetensors and the tokenizer's files.
            device: "auto" (CUDA where there is one), "cpu", "cuda", ...
            precision: see `HalfPrecision`.
            plan: "video" follows objects with SAM 3's tracker; "frames" runs its image model on every `every`-th frame
                and carries masks between by optical flow, which is cheaper.
            threshold: least score of a detection; none: the checkpoint's (0.5 in the published one).
            new_threshold: least score of a detection that begins an object; none: the checkpoint's (0.7), or 0.2 above
                `threshold` where that is given.
            settings: of `PromptedSegmenter`.

        Raises:
            ConfigError: a setting is unknown.
            WeightsError: the weights are missing, damaged or another model's.
        """
        super().__init__(**settings)
        if plan not in get_args(Plan):
            raise ConfigError(f"no plan {plan!r} for sam3; choose one of {sorted(get_args(Plan))}")
        self.plan = plan
        self.device, self.precision, dtype = choose_precision(precision, device)
        folder = Path(weights)
        self.model = load_pretrained(
            _Sam3Video,
            folder,
            model_types=("sam3_video",),
            advice=_ADVICE,
            dtype=dtype,
            # CLIP's own projection: the detector reads the states before it and projects them itself.
            unused=("text_encoder.text_projection",),
        ).to(self.device)
        words = int(self.model.config.detector_config.text_config.vocab_size)
        self.tokenizer = load_tokenizer(CLIPTokenizer, folder, _ADVICE, most_words=words)
        self.model.max_num_objects = self.max_objects
        if threshold is not None:
            self.model.score_threshold_detection = threshold
            self.model.new_det_thresh = min(threshold + 0.2, 0.95)
        if new_threshold is not None:
            self.model.new_det_thresh = new_threshold

    def propose(self, pixels: Frames, prompts: Sequence[str], *, size: Size) -> Found:
        """See `PromptedSegmenter.propose`."""
        tokens = self._tokens(prompts)
        notes: dict[str, Any] = {"plan": self.plan}
        cut = [text[:60] for text, (_, _, was_cut) in zip(prompts, tokens, strict=True) if was_cut]
        if cut:
            notes["prompts_cut"] = {"tokens": N_TOKENS, "prompts": cut}
        # The weights' own dtype decides, not autocast; the library warns wherever objects are left out.
        with quiet(), arithmetic("fp32", self.device):
            follow = self._follow if self.plan == "video" else self._look
            candidates = follow(pixels, prompts, tokens, size)
        return Found(tuple(candidates), notes)

    def _tokens(self, prompts: Sequence[str]) -> list[tuple[Tensor, Tensor, bool]]:
        """Ids (1, 32), attention (1, 32), and whether the text was cut, of each prompt."""
        out = []
        for text in prompts:
            whole = self.tokenizer(text[: 64 * N_TOKENS], truncation=False, verbose=False)["input_ids"]
            made = self.tokenizer(
                text[: 64 * N_TOKENS],
                padding="max_length",
                max_length=N_TOKENS,
                truncation=True,
                return_tensors="pt",
            )
            ids, attention = made["input_ids"].to(self.device), made["attention_mask"].to(self.device)
            out.append((ids, attention, len(whole) > N_TOKENS))
        return out

    # --- the video plan ----------------------------------------------------------------------------------------------

    def _follow(
        self, pixels: Frames, prompts: Sequence[str], tokens: Sequence[tuple[Tensor, Tensor, bool]], size: Size
    ) -> list[Candidate]:
        n_frames = len(pixels)
        frames = _OneFrame(n_frames)
        session = self._session(frames, prompts, tokens)
        collected = _Objects(n_frames, size)
        removed: set[int] = set()
        done = 0
        for frame, image in enumerate(rgb_frames(pixels)):
            frames.put(frame, self._preprocess(image))
            out = self.model(inference_session=session, frame_idx=frame)
            removed |= set(out.removed_obj_ids)
            for object_id, mask, score in _masks_of(out, session, size):
                collected.put(frame, object_id, session.obj_id_to_prompt_id[object_id], mask, score)
            _forget(session, frame, self.model)
            done += 1
            advance(done, n_frames)
        if done != n_frames:
            raise MissingDataError(f"{n_frames} frames were announced and {done} came; check the source")
        # What the tracker took back within its first frames was never shown by it either.
        return collected.candidates(prompts, without=removed)

    def _session(self, frames: _OneFrame, prompts: Sequence[str], tokens: Sequence[tuple[Tensor, Tensor, bool]]) -> Any:
        session: Any = Sam3VideoInferenceSession(
            video=None,
            inference_device=self.device,
            inference_state_device=self.device,
            video_storage_device=self.device,
            dtype=self.model.dtype,
        )
        lacking = [name for name in SESSION if not hasattr(session, name)]
        if lacking:
            raise ConfigError(
                f"sam3: the transformers that is installed keeps its sessions otherwise (no {', '.join(lacking)}); "
                "install transformers 5.23, or take masks.backend=grounded-sam"
            )
        session.processed_frames = frames
        for text, (ids, attention, _) in zip(prompts, tokens, strict=True):
            prompt_id = session.add_prompt(text)
            session.prompt_input_ids[prompt_id] = ids
            session.prompt_attention_masks[prompt_id] = attention
        return session

    def _preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """(3, side, side) of the model's dtype in [-1, 1]: bilinear with antialiasing, whatever the aspect."""
        side = int(self.model.config.image_size)
        tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1)[None].float()
        resized = F.interpolate(tensor, (side, side), mode="bilinear", align_corners=False, antialias=True)
        # The published preprocessing resizes bytes: rounded before it is scaled.
        return ((resized[0].round().clamp(0, 255) / 255 - 0.5) / 0.5).to(self.model.dtype)

    # --- the frames plan ---------------------------------------------------------------------------------------------

    def _look(
        self, pixels: Frames, prompts: Sequence[str], tokens: Sequence[tuple[Tensor, Tensor, bool]], size: Size
    ) -> list[Candidate]:
        detector = self.model.detector_model
        texts = [
            (detector.get_text_features(input_ids=ids, attention_mask=attention, return_dict=True), attention)
            for ids, attention, _ in tokens
        ]

        def detect(image: NDArray[np.uint8]) -> list[Detection]:
            vision = detector.get_vision_features(pixel_values=self._preprocess(image)[None])
            found: list[Detection] = []
            for prompt, (text, attention) in zip(prompts, texts, strict=True):
                out = detector(vision_embeds=vision, text_embeds=text, attention_mask=attention)
                found += self._detections(out, prompt, size)
            return found

        linker = MaskLinker(detect, size=size, every=self.every, max_objects=self.max_objects)
        return linker.link(rgb_frames(pixels), len(pixels))

    def _detections(self, out: Any, prompt: str, size: Size) -> list[Detection]:
        scores = (out.pred_logits.float().sigmoid() * out.presence_logits.float().sigmoid())[0]
        sure = torch.nonzero(scores > self.model.score_threshold_detection)[:, 0]
        logits, scores = out.pred_masks[0, sure].float(), scores[sure]
        kept = keep_distinct(logits > 0, scores, max_iou=self.model.own_nms_iou, most=self.max_objects)
        logits = clean_logits(logits[kept], max_area=self.model.own_fill_area)
        masks = masks_at_size(logits, size)
        return [
            Detection(mask, float(score), prompt)
            for mask, score in zip(masks, scores[kept].tolist(), strict=True)
            if mask.any()
        ]


class _Sam3Video(Sam3VideoModel):  # type: ignore[misc, no-untyped-call, unused-ignore]
    """The library's model with duplicates, specks and holes removed by `mask_cleanup`, whatever is installed."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # Taken over from the library, which would skip them with a warning.
        self.own_nms_iou, self.det_nms_thresh = float(self.det_nms_thresh), 0.0
        self.own_fill_area, self.fill_hole_area = int(self.fill_hole_area), 0

    def run_detection(self, inference_session: Any, vision_embeds: Any) -> dict[int, dict[str, Tensor]]:
        """Detections of each prompt, distinct and not more than can be followed."""
        found: dict[int, dict[str, Tensor]] = super().run_detection(inference_session, vision_embeds)
        for prompt_id, out in found.items():
            if len(out["scores"]):
                kept = keep_distinct(
                    out["mask"] > 0, out["scores"], max_iou=self.own_nms_iou, most=self.max_num_objects
                )
                found[prompt_id] = {name: value[kept] for name, value in out.items()}
        return found

    def run_tracker_propagation(self, inference_session: Any, frame_idx: int, reverse: bool) -> tuple[Tensor, Tensor]:
        """Masks (M, h, w) and scores of the objects that are followed, cleaned."""
        masks, scores = super().run_tracker_propagation(
            inference_session=inference_session, frame_idx=frame_idx, reverse=reverse
        )
        return clean_logits(masks, max_area=self.own_fill_area), scores

    def build_outputs(
        self,
        inference_session: Any,
        det_out: Any,
        tracker_low_res_masks_global: Tensor,
        tracker_update_plan: dict[str, Any],
        reconditioned_obj_ids: Any = None,
    ) -> dict[int, Tensor]:
        """Object id -> logits (1, h, w); those of new objects are cleaned here, the others were before."""
        out: dict[int, Tensor] = super().build_outputs(
            inference_session=inference_session,
            det_out=det_out,
            tracker_low_res_masks_global=tracker_low_res_masks_global,
            tracker_update_plan=tracker_update_plan,
            reconditioned_obj_ids=reconditioned_obj_ids,
        )
        for object_id in tracker_update_plan["new_det_obj_ids"]:
            out[object_id] = clean_logits(out[object_id], max_area=self.own_fill_area)
        return out


class _OneFrame(Mapping[int, Tensor]):
    """A session's frames, of which only the current one is kept; its length is the clip's, which the tracker reads."""

    def __init__(self, n_frames: int) -> None:
        self._n_frames = n_frames
        self._current: tuple[int, Tensor] | None = None

    def put(self, frame: int, pixels: Tensor) -> None:
        self._current = frame, pixels

    def __getitem__(self, frame: int) -> Tensor:
        if self._current is None or self._current[0] != frame:
            raise KeyError(frame)
        return self._current[1]

    def __len__(self) -> int:
        return self._n_frames

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._n_frames))


class _Objects:
    """Masks and scores of each object that the tracker distinguished."""

    def __init__(self, n_frames: int, size: Size) -> None:
        self._n_frames, self._size = n_frames, size
        self._found: dict[int, tuple[int, PackedMasks, NDArray[np.float32]]] = {}

    def put(self, frame: int, object_id: int, prompt_id: int, mask: NDArray[np.bool_], score: float) -> None:
        if object_id not in self._found:
            empty = PackedMasks(self._size, self._n_frames)
            self._found[object_id] = prompt_id, empty, np.zeros(self._n_frames, np.float32)
        _, masks, scores = self._found[object_id]
        masks[frame], scores[frame] = mask, score

    def candidates(self, prompts: Sequence[str], *, without: set[int]) -> list[Candidate]:
        """In the prompts' order; objects of one prompt by confidence over the clip, best first."""
        rows = [
            (prompt_id, -float(scores.sum()), object_id)
            for object_id, (prompt_id, _, scores) in self._found.items()
            if object_id not in without
        ]
        return [
            Candidate(self._found[object_id][1], self._found[object_id][2], prompts[prompt_id], f"object {object_id}")
            for prompt_id, _, object_id in sorted(rows)
        ]


def _masks_of(
    out: Any, session: Sam3VideoInferenceSession, size: Size
) -> Iterator[tuple[int, NDArray[np.bool_], float]]:
    """Object id, mask at `size`, score in [0, 1] of what one frame shows; objects of one prompt do not overlap."""
    hidden = set(out.suppressed_obj_ids or ()) | set(out.removed_obj_ids or ())
    shown = [each for each in sorted(out.obj_id_to_mask) if each not in hidden]
    if not shown:
        return
    masks = masks_at_size(torch.cat([out.obj_id_to_mask[each] for each in shown]).float(), size)
    presence = [float(out.obj_id_to_tracker_score.get(each, 0.0)) for each in shown]
    prompt_ids = [session.obj_id_to_prompt_id[each] for each in shown]
    order = sorted(range(len(shown)), key=lambda index: -presence[index])
    taken: dict[int, NDArray[np.bool_]] = {}
    for index in order:
        # A pixel that two objects of one prompt claim goes to the one the tracker is surer of.
        before = taken.setdefault(prompt_ids[index], np.zeros(size, np.bool_))
        masks[index] &= ~before
        before |= masks[index]
    for index, object_id in enumerate(shown):
        if masks[index].any():
            # Detected with one score at first, present with another since.
            score = min(float(out.obj_id_to_score.get(object_id, 0.0)), presence[index])
            yield object_id, masks[index], float(np.clip(score, 0.0, 1.0))


def _forget(session: Sam3VideoInferenceSession, frame: int, model: _Sam3Video) -> None:
    """Drops what no later frame reads, so that memory does not grow with the clip.

    The tracker reads memory features of the last `num_maskmem` - 1 frames and of the `max_cond_frame_num` latest
    conditioning frames, and object pointers of the last `max_object_pointers_in_encoder` frames and of all conditioning
    frames; rules about young objects reach back `hotstart_delay` frames.
    """
    tracker = model.tracker_model
    near = frame + 1 - max(tracker.num_maskmem, 1)
    pointers = frame + 1 - max(tracker.config.max_object_pointers_in_encoder, tracker.num_maskmem)
    for index, outputs in session.output_dict_per_obj.items():
        for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
            latest = sorted(outputs[kind])[-tracker.config.max_cond_frame_num :] if kind == "cond_frame_outputs" else []
            for when, stored in outputs[kind].items():
                for name in ("pred_masks", "high_res_masks") if when < frame else ():
                    stored.pop(name, None)
                if when < near and when not in latest:
                    for name in ("maskmem_features", "maskmem_pos_enc"):
                        stored.pop(name, None)
        for when in [each for each in outputs["non_cond_frame_outputs"] if each < pointers]:
            del outputs["non_cond_frame_outputs"][when]
        session.mask_inputs_per_obj.get(index, {}).clear()
        for when in [each for each in session.frames_tracked_per_obj[index] if each < near]:
            del session.frames_tracked_per_obj[index][when]
    for per_frame in (session.obj_id_to_tracker_score_frame_wise, session.suppressed_obj_ids):
        for when in [each for each in per_frame if each < frame]:
            del per_frame[when]
    grown_up = {each for each, born in session.obj_first_frame_idx.items() if born <= frame - model.hotstart_delay}
    for object_id in grown_up & set(session.unmatched_frame_inds):
        session.unmatched_frame_inds[object_id] = session.unmatched_frame_inds[object_id][-1:]
    for pair in [each for each in session.overlap_pair_to_frame_inds if each[1] in grown_up]:
        del session.overlap_pair_to_frame_inds[pair]
