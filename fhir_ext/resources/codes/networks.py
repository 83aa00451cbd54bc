"""Why a network parks a study: codes of `task-reason`."""

from __future__ import annotations

from typing import Final

NETWORK_FAILURES: Final = (
    ("weights-hash", "Weights exchanged", "A file of the model is not the one it names."),
    ("weights-size", "Weights too large", "A file of the model is over the size limit."),
    ("weights-corrupt", "Weights damaged", "A file of the model cannot be read."),
    ("weights-unsafe", "Weights unsafe", "A file of the model holds code that is not loaded."),
    ("model-input", "Input not declared", "A network was shown what it does not declare."),
    ("model-output", "Output not declared", "A network answered what it does not declare."),
    ("model-not-finite", "Output not finite", "A network answered NaN or infinity."),
    ("model-failed", "Network failed", "A network raised an error."),
    ("model-crashed", "Network crashed", "The process of a network ended."),
    ("model-hung", "Network hung", "A network did not answer in time and was stopped."),
    ("model-answer", "Nonsense of a model server", "A model server answered nonsense."),
    ("model-disagrees", "Runtimes disagree", "Two runtimes of one network differ too much."),
    ("device-memory", "Too little memory", "The device has too little memory for a network."),
)
