"""FHIR operations, one folder per `$operation`."""
