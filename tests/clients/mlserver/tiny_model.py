"""The network of tests/support/tiny_networks.py for MLServer, in numpy alone."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


def convolved(image, weight, bias):
    """3 x 3 x 3 convolution with padding 1: (n, in, d, h, w) to (n, out, d, h, w)."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), axis=(2, 3, 4))
    found = np.einsum("ncdhwijk,ocijk->nodhw", windows, weight, optimize=True)
    return found + bias[:, None, None, None]


class TinyModel(MLModel):
    async def load(self) -> bool:
        self.weights = dict(np.load(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        hidden = np.maximum(
            convolved(image, self.weights["first.weight"], self.weights["first.bias"]), 0
        )
        pred = convolved(hidden, self.weights["second.weight"], self.weights["second.bias"])
        output = NumpyCodec.encode_output("pred", pred.astype(np.float32))
        return InferenceResponse(model_name=self.name, outputs=[output])
