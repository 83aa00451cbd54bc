"""fhir-ext: the trustworthy middle between a PACS, a FHIR server and imaging models."""

__version__ = "0.1.0"
