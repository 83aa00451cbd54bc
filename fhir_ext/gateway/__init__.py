"""The only door to the FHIR server: what is asked, whether it is allowed, and the way through."""
