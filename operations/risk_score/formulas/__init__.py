"""Published risk formulas, one module each: plain numbers in, a probability from 0 to 1 out.

Coefficients are those of the publications; nothing here knows of FHIR, units or charts.
"""
