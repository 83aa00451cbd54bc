"""One module for each kind of runtime; each is imported when a session of its kind is opened.

Every module has `load(runtime, files, options) -> Session`: the part of the manifest, its
verified files in the order of `runtime.files()`, and what the installation decides.
"""
