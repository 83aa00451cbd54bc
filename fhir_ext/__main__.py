"""`python -m fhir_ext`: the same as the `fhir-ext` command."""

from fhir_ext.cli import main

if __name__ == "__main__":
    main()
