"""A training step recorded as a CUDA graph: a GPU then starts its hundreds of small kernels with a single call.

A narrow network's kernels take less time than their launches from Python, so that unrecorded a GPU waits for most of a
step. What a recorded step does and in which order stays the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]  # images [B, 3, 32, 32] and labels [B] -> what it reports, on the device

LAUNCHED = 3  # steps, in which cuDNN chooses its algorithms and the optimiser makes its momentum


class Recorded:
    """A step that is recorded once it has been taken a few times, and replayed from then on.

    A step that cannot be recorded (it waits for the GPU, say) is launched anew each time, with a warning that says so;
    so is a batch of another shape than the recorded one.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.taken = 0
        self.replay: Step | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self.taken += 1
        if self.taken == LAUNCHED + 1:
            self.replay = self.record(images, labels)
        if self.replay is None or images.shape != self.shape:
            return self.step(images, labels)
        return self.replay(images, labels)

    def record(self, images: Tensor, labels: Tensor) -> Step | None:
        self.shape = images.shape
        try:
            return record_graph(self.step, images.clone(), labels.clone())
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"steps are not recorded as a CUDA graph, which makes them slower: {reason}", stacklevel=4)
            return None


def record_graph(step: Step, images: Tensor, labels: Tensor) -> Step:
    """The step as a graph that reads from these two tensors; recording it takes no step."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()), torch.cuda.graph(graph):  # the outer one restores the stream on errors
        result = step(images, labels)

    def replay(new_images: Tensor, new_labels: Tensor) -> Tensor:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        return result

    return replay
