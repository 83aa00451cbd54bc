"""`ImagingStudy/$analyze`: from an ImagingStudy to stored results, in idempotent steps."""
