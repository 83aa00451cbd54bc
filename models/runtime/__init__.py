"""What runs networks: one adapter for each kind of file, all behind one `Session`.

Adapters and the libraries they need are imported when a session of their kind is opened.
"""

from models.runtime.base import Arrays, ModelFailure, Session
from models.runtime.opening import open_session
from models.runtime.options import Options

__all__ = ["Arrays", "ModelFailure", "Options", "Session", "open_session"]
