"""What runs networks: one adapter for each kind of file, all behind one `Session`.

Adapters and the libraries they need are imported when a session of their kind is opened.
"""
